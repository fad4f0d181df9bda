#include "core/quant/dorefa.h"

#include <cmath>
#include <limits>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/kernels/quant_math.h"
#include "core/quant/weight_pass.h"

namespace bitstair::core {
namespace {

constexpr int kWidths[] = {1, 2, 3, 4, 5, 6, 7, 8, 16};

at::Tensor Codes(const at::Tensor& w, int bits, c10::ScalarType type = at::kFloat) {
  return WeightCodes(*MakeDorefaWeightQuantizer(bits, {}), w, type);
}
at::Tensor Gradient(const at::Tensor& w, const at::Tensor& g, int bits, const QuantizerOptions& options = {}) {
  return WeightGradient(*MakeDorefaWeightQuantizer(bits, options), w, g);
}

TEST(DorefaTest, WeightCodesEqualAPlainLoop) {
  const at::Tensor w = at::randn({7, 5, 3, 3});
  const float* p = w.data_ptr<float>();
  for (int bits : kWidths) {
    const at::Tensor codes = Codes(w, bits);
    const auto n = static_cast<float>(GreatestCode(bits));
    float max = 0;
    for (int64_t i = 0; i < w.numel(); ++i) max = std::max(max, std::abs(static_cast<float>(Tanh(p[i]))));
    std::set<float> distinct;
    for (int64_t i = 0; i < w.numel(); ++i) {
      const float t = static_cast<float>(Tanh(p[i]));
      const float c = std::nearbyint(n * (t / (2 * max) + 0.5f));
      ASSERT_EQ(codes.data_ptr<float>()[i], 2 * c - n) << "bits " << bits << " at " << i;
      ASSERT_EQ(std::fmod(std::abs(codes.data_ptr<float>()[i]), 2.0f), 1.0f) << "codes are odd";
      ASSERT_LE(std::abs(codes.data_ptr<float>()[i]), n);
      distinct.insert(codes.data_ptr<float>()[i]);
    }
    EXPECT_LE(distinct.size(), size_t{1} << bits);
    EXPECT_EQ(MakeDorefaWeightQuantizer(bits, {})->scale(), 1.0 / n);
  }
}

TEST(DorefaTest, AllZeroWeightsGiveTheMiddleCodeAndNoGradient) {
  const at::Tensor w = at::zeros({4});
  for (int bits : kWidths) {
    const auto n = static_cast<double>(GreatestCode(bits));
    EXPECT_TRUE(Codes(w, bits).eq(2 * std::nearbyint(n / 2) - n).all().item<bool>()) << bits;
    EXPECT_TRUE(Gradient(w, at::ones({4}), bits).eq(0).all().item<bool>());
  }
}

// Small codes come by a faster tanh: they are the same, also where a weight lies on, just above and just below the edge between two codes.
TEST(DorefaTest, SmallCodesEqualTheExactOnes) {
  at::Tensor w = at::randn({40000}) * 0.3;
  for (int bits = 1; bits <= 8; ++bits) {
    const double n = static_cast<double>(GreatestCode(bits)), max = Tanh(w.abs().max().item<float>());
    std::vector<float> edges;
    for (int64_t c = 0; c < GreatestCode(bits); ++c) {
      const auto edge = static_cast<float>(std::atanh(max * (2 * (static_cast<double>(c) + 0.5) / n - 1)));
      float above = edge, below = edge;
      edges.push_back(edge);
      for (int step = 0; step < 4; ++step) {
        edges.push_back(above = std::nextafter(above, 9.0f));
        edges.push_back(below = std::nextafter(below, -9.0f));
      }
    }
    const at::Tensor all = at::cat({w, at::tensor(edges)});
    const at::Tensor exact = Codes(all, bits), small = Codes(all, bits, bits == 8 ? at::kShort : at::kChar);
    EXPECT_TRUE(small.to(at::kFloat).equal(exact)) << bits;
    EXPECT_TRUE(Codes(all.to(at::kDouble), bits, at::kShort).to(at::kDouble).equal(Codes(all.to(at::kDouble), bits, at::kDouble))) << bits;
  }
}

TEST(DorefaTest, TheFastTanhStaysWithinFourUnitsInTheLastPlace) {
  for (float x = 1e-8f; x < 12; x *= 1.0003f) {
    const auto exact = static_cast<float>(Tanh(x));
    ASSERT_LE(std::abs(TanhFast(x) - exact), 4 * (std::nextafter(exact, 2.0f) - exact)) << x;
    ASSERT_EQ(TanhFast(-x), -TanhFast(x));
  }
  EXPECT_EQ(TanhFast(0.0f), 0);
  EXPECT_EQ(TanhFast(std::numeric_limits<float>::infinity()), 1);
  EXPECT_TRUE(std::isnan(TanhFast(std::numeric_limits<float>::quiet_NaN())));
}

TEST(DorefaTest, ANanWeightIsFoundAndNothingWritten) {
  const auto quantizer = MakeDorefaWeightQuantizer(4, {});
  const at::Tensor good = at::randn({20}), bad = at::randn({20000});
  bad[17000] = -std::numeric_limits<float>::quiet_NaN();
  const at::Tensor codes = at::zeros({20}, at::kChar);
  EXPECT_EQ(QuantizeWeights({{quantizer.get(), good, codes}, {quantizer.get(), bad, at::zeros({20000}, at::kChar)}}), 1);
  EXPECT_TRUE(codes.eq(0).all().item<bool>());
}

// Tensors longer than a block, several at once: as each alone and as the formula says.
TEST(DorefaTest, OnePassOverManyTensorsEqualsEachAlone) {
  const auto two = MakeDorefaWeightQuantizer(2, {}), five = MakeDorefaWeightQuantizer(5, {});
  const WeightQuantizer* quantizers[] = {two.get(), nullptr, five.get()};
  const int64_t sizes[] = {20001, 9000, 3};
  std::vector<WeightToUpdate> update;
  std::vector<at::Tensor> expected;
  for (int i = 0; i < 3; ++i) {
    const at::Tensor w = at::randn({sizes[i]}, at::kDouble), g = at::randn({sizes[i]}, at::kDouble), v = at::randn({sizes[i]}, at::kDouble);
    const at::Tensor grad = quantizers[i] != nullptr ? WeightGradient(*quantizers[i], w, g) : g;
    expected.push_back(w - 0.1 * (0.9 * v + grad + 0.01 * w));
    update.push_back({quantizers[i], w, g, v, {0.1, 0.9, 0.01, false}});
  }
  UpdateWeights(update);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(at::allclose(update[i].latent, expected[i], 1e-11, 1e-11)) << i;
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
  const at::Tensor grad = Gradient(w, g, 3);
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
  const at::Tensor grad = Gradient(w, g, 2);
  EXPECT_NEAR(grad[0].item<double>(), (1 - m * m) * (1 / m + d_max / 3), 1e-14);
  EXPECT_NEAR(grad[1].item<double>(), (1 - m * m) * (2 / m - d_max / 3), 1e-14);
  EXPECT_NEAR(grad[2].item<double>(), (1 - t2 * t2) * 3 / m, 1e-14);
  EXPECT_NEAR(grad[3].item<double>(), (1 - m * m) * (4 / m + d_max / 3), 1e-14);

  const at::Tensor detached = Gradient(w, g, 2, {.detach_weight_max = true});
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
