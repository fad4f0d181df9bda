#include "core/quant/dorefa.h"

#include <cmath>
#include <limits>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

constexpr int kWidths[] = {1, 2, 3, 4, 5, 6, 7, 8, 16};

Quantized QuantizeWeights(const at::Tensor& w, int bits, at::Tensor* values = nullptr) {
  at::Tensor v = at::empty_like(w);
  Quantized q = MakeDorefaWeightQuantizer(bits, {})->Forward(w, v);
  if (values != nullptr) *values = v;
  return q;
}

TEST(DorefaTest, WeightCodesEqualAPlainLoop) {
  const at::Tensor w = at::randn({7, 5, 3, 3});
  const float* p = w.data_ptr<float>();
  for (int bits : kWidths) {
    at::Tensor values;
    const Quantized q = QuantizeWeights(w, bits, &values);
    const auto n = static_cast<float>(GreatestCode(bits));
    float max = 0;
    for (int64_t i = 0; i < w.numel(); ++i) max = std::max(max, std::abs(static_cast<float>(Tanh(p[i]))));
    std::set<float> distinct;
    for (int64_t i = 0; i < w.numel(); ++i) {
      const float t = static_cast<float>(Tanh(p[i]));
      const float c = std::nearbyint(n * (t / (2 * max) + 0.5f));
      ASSERT_EQ(q.codes.data_ptr<float>()[i], 2 * c - n) << "bits " << bits << " at " << i;
      ASSERT_EQ(values.data_ptr<float>()[i], (2 * c - n) / n);
      ASSERT_EQ(std::fmod(std::abs(q.codes.data_ptr<float>()[i]), 2.0f), 1.0f) << "codes are odd";
      ASSERT_LE(std::abs(q.codes.data_ptr<float>()[i]), n);
      distinct.insert(q.codes.data_ptr<float>()[i]);
    }
    EXPECT_LE(distinct.size(), size_t{1} << bits);
    EXPECT_EQ(q.offset, 0);
    EXPECT_EQ(q.scale, 1.0 / n);
  }
}

TEST(DorefaTest, AllZeroWeightsGiveTheMiddleCodeAndNoGradient) {
  const at::Tensor w = at::zeros({4});
  for (int bits : kWidths) {
    const auto n = static_cast<double>(GreatestCode(bits));
    const Quantized q = QuantizeWeights(w, bits);
    EXPECT_TRUE(q.codes.eq(2 * std::nearbyint(n / 2) - n).all().item<bool>()) << bits;
    EXPECT_TRUE(MakeDorefaWeightQuantizer(bits, {})->Backward(w, at::ones({4})).eq(0).all().item<bool>());
  }
}

TEST(DorefaTest, ANanWeightMakesEveryCodeNan) {
  at::Tensor w = at::randn({20});
  w[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(QuantizeWeights(w, 4).codes.isnan().all().item<bool>());
}

// Rounding is straight-through, so the gradient is that of f(w) = sum g t/M, which finite differences see (the greatest element must stay so).
TEST(DorefaTest, WeightGradientEqualsFiniteDifferences) {
  constexpr double kStep = 1e-6;
  constexpr double kTolerance = 1e-8;  // of central differences in float64 at this step
  const at::Tensor w = at::tensor({0.3, -1.2, 0.9, 0.05, -0.4}, at::kDouble);
  const at::Tensor g = at::tensor({0.7, -0.2, 1.3, 0.4, -2.1}, at::kDouble);
  const auto f = [&](const at::Tensor& x) {
    const at::Tensor t = x.tanh();
    return (g * t / t.abs().max()).sum().item<double>();
  };
  const at::Tensor grad = MakeDorefaWeightQuantizer(3, {})->Backward(w, g);
  for (int64_t i = 0; i < w.numel(); ++i) {
    at::Tensor up = w.clone(), down = w.clone();
    up[i] += kStep;
    down[i] -= kStep;
    EXPECT_NEAR(grad[i].item<double>(), (f(up) - f(down)) / (2 * kStep), kTolerance) << i;
  }
}

TEST(DorefaTest, TiesShareTheGradientOfTheMaximumEvenly) {
  const at::Tensor w = at::tensor({0.8, -0.8, 0.1, 0.8}, at::kDouble);
  const at::Tensor g = at::tensor({1.0, 2.0, 3.0, 4.0}, at::kDouble);
  const double m = Tanh(0.8), t2 = Tanh(0.1);
  const double d_max = -(1 * m - 2 * m + 3 * t2 + 4 * m) / (m * m);
  const at::Tensor grad = MakeDorefaWeightQuantizer(2, {})->Backward(w, g);
  EXPECT_NEAR(grad[0].item<double>(), (1 - m * m) * (1 / m + d_max / 3), 1e-14);
  EXPECT_NEAR(grad[1].item<double>(), (1 - m * m) * (2 / m - d_max / 3), 1e-14);
  EXPECT_NEAR(grad[2].item<double>(), (1 - t2 * t2) * 3 / m, 1e-14);
  EXPECT_NEAR(grad[3].item<double>(), (1 - m * m) * (4 / m + d_max / 3), 1e-14);

  const at::Tensor detached = MakeDorefaWeightQuantizer(2, {.detach_weight_max = true})->Backward(w, g);
  EXPECT_NEAR(detached[1].item<double>(), (1 - m * m) * 2 / m, 1e-14);
}

TEST(DorefaTest, ActivationCodesEqualAPlainLoop) {
  const at::Tensor x = at::cat({at::randn({997}), at::tensor({0.0f, -0.0f, 1.0f, 0.5f, 1e-30f, -1e30f, 1e30f, std::numeric_limits<float>::infinity()})});
  for (int bits : kWidths) {
    const auto n = static_cast<float>(GreatestCode(bits));
    const Quantized q = MakeDorefaActivationQuantizer(bits, {})->Forward(x);
    for (int64_t i = 0; i < x.numel(); ++i) {
      const float v = x.data_ptr<float>()[i];
      ASSERT_EQ(q.codes.data_ptr<float>()[i], std::nearbyint(n * std::fmin(std::fmax(v, 0.0f), 1.0f))) << v;
    }
  }
}

TEST(DorefaTest, ActivationTiesGoToEvenAndNanStays) {
  const Quantized q = MakeDorefaActivationQuantizer(2, {})->Forward(at::tensor({0.5f, 1.0f / 6, std::numeric_limits<float>::quiet_NaN()}));
  EXPECT_EQ(q.codes[0].item<float>(), 2);
  EXPECT_EQ(q.codes[1].item<float>(), 0);
  EXPECT_TRUE(std::isnan(q.codes[2].item<float>()));
}

TEST(DorefaTest, ActivationGradientPassesOnTheClosedInterval) {
  const at::Tensor x = at::tensor({-1e-7f, 0.0f, 0.3f, 1.0f, 1.0000001f, std::numeric_limits<float>::quiet_NaN()});
  const at::Tensor grad = MakeDorefaActivationQuantizer(2, {})->Backward(x, at::full({6}, 0.5f));
  EXPECT_TRUE(at::equal(grad, at::tensor({0.0f, 1.5f, 1.5f, 1.5f, 0.0f, 0.0f})));
}

TEST(QuantizerRegistryTest, FindsDorefaAndNamesWhatItKnows) {
  EXPECT_TRUE(FindQuantizer("dorefa").ok());
  const absl::Status status = FindQuantizer("dorfa").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("dorefa"), std::string::npos);
  for (int bits = -1; bits < 40; ++bits) EXPECT_EQ(IsLegalWidth(bits), (bits >= 1 && bits <= 8) || bits == 16 || bits == 32) << bits;
}

}  // namespace
}  // namespace bitstair::core
