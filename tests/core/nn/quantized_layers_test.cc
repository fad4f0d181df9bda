// The integer contract (DESIGN section 4): layers on codes against plain loops over integers, compared with ==.
#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/kernels/quant_math.h"
#include "core/nn/activation.h"
#include "core/nn/batch_norm.h"
#include "core/nn/quantized_conv2d.h"
#include "core/nn/quantized_linear.h"
#include "core/quant/dorefa.h"

namespace bitstair::core {
namespace {

std::unique_ptr<Weight> MakeWeight(const at::Tensor& latent, int bits) {
  return std::make_unique<Weight>("weight", latent, bits == 32 ? nullptr : MakeDorefaWeightQuantizer(bits, {}), false);
}

Features RandomCodes(at::IntArrayRef shape, int bits) {
  const int64_t n = GreatestCode(bits);
  return {at::randint(0, n + 1, shape, at::kFloat), 1.0 / static_cast<double>(n), n};
}

// Plain loop over integers: [N, C, H, W] codes, [O, C, k, k] weights.
std::vector<int64_t> IntegerConvolution(const at::Tensor& codes, const at::Tensor& weights, int64_t stride, int64_t padding, int64_t* side) {
  const at::Tensor a = codes.to(at::kLong).contiguous(), o = weights.to(at::kLong).contiguous();
  const auto x = a.accessor<int64_t, 4>();
  const auto w = o.accessor<int64_t, 4>();
  const int64_t size = a.size(2), k = o.size(2), out = (size + 2 * padding - k) / stride + 1;
  std::vector<int64_t> sums;
  for (int64_t n = 0; n < a.size(0); ++n) {
    for (int64_t f = 0; f < o.size(0); ++f) {
      for (int64_t r = 0; r < out; ++r) {
        for (int64_t s = 0; s < out; ++s) {
          int64_t sum = 0;
          for (int64_t c = 0; c < a.size(1); ++c) {
            for (int64_t i = 0; i < k; ++i) {
              for (int64_t j = 0; j < k; ++j) {
                const int64_t y = r * stride + i - padding, z = s * stride + j - padding;
                if (y >= 0 && y < size && z >= 0 && z < size) sum += x[n][c][y][z] * w[f][c][i][j];
              }
            }
          }
          sums.push_back(sum);
        }
      }
    }
  }
  *side = out;
  return sums;
}

void ExpectEqual(const at::Tensor& sums, const std::vector<int64_t>& expected) {
  const at::Tensor s = sums.detach().to(at::kDouble).contiguous();
  ASSERT_EQ(s.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(s.data_ptr<double>()[i], static_cast<double>(expected[i])) << i;
}

TEST(QuantizedConv2dTest, EqualsAPlainIntegerLoopAtAllWidths) {
  for (int weight_bits = 1; weight_bits <= 8; ++weight_bits) {
    QuantizedConv2d conv(MakeWeight(at::randn({5, 19, 3, 3}), weight_bits), 1, 1);
    QuantizedConv2d strided(MakeWeight(at::randn({4, 19, 3, 3}), weight_bits), 2, 1);
    for (int activation_bits = 1; activation_bits <= 8; ++activation_bits) {
      SCOPED_TRACE(testing::Message() << "W" << weight_bits << "A" << activation_bits);
      const Features codes = RandomCodes({2, 19, 7, 7}, activation_bits);
      int64_t side = 0;
      ExpectEqual(conv.Forward(codes).tensor, IntegerConvolution(codes.tensor, conv.weight().operand(), 1, 1, &side));
      ExpectEqual(strided.Forward(codes).tensor, IntegerConvolution(codes.tensor, strided.weight().operand(), 2, 1, &side));
    }
  }
}

// K = 4608 taps, every product at its greatest and of one sign: the sums reach the bound itself.
TEST(QuantizedConv2dTest, AllMaximumOperandsReachTheBoundExactly) {
  const int widths[][2] = {{1, 1}, {2, 2}, {4, 4}, {5, 6}, {6, 6}, {8, 4}, {8, 8}, {8, 1}};
  for (const auto& [weight_bits, activation_bits] : widths) {
    SCOPED_TRACE(testing::Message() << "W" << weight_bits << "A" << activation_bits);
    const int64_t n = GreatestCode(activation_bits);
    const QuantizedConv2d conv(MakeWeight(at::ones({3, 512, 3, 3}), weight_bits), 1, 0);
    const Sums sums = conv.Forward({at::full({1, 512, 4, 4}, static_cast<float>(n)), 1.0 / static_cast<double>(n), n});
    const int64_t bound = 4608 * n * GreatestCode(weight_bits);
    EXPECT_EQ(sums.bound, bound);
    EXPECT_EQ(sums.tensor.scalar_type(), bound < (1 << 24) ? at::kFloat : at::kDouble);
    EXPECT_TRUE(sums.tensor.to(at::kDouble).eq(static_cast<double>(bound)).all().item<bool>());
  }
}

TEST(QuantizedLinearTest, EqualsAPlainIntegerLoop) {
  for (int weight_bits = 1; weight_bits <= 8; ++weight_bits) {
    for (int activation_bits = 1; activation_bits <= 8; ++activation_bits) {
      QuantizedLinear linear(MakeWeight(at::randn({11, 301}), weight_bits));
      const Features codes = RandomCodes({5, 301}, activation_bits);
      const at::Tensor a = codes.tensor.to(at::kLong), o = linear.weight().operand().to(at::kLong);
      std::vector<int64_t> expected;
      for (int64_t n = 0; n < 5; ++n) {
        for (int64_t f = 0; f < 11; ++f) {
          int64_t sum = 0;
          for (int64_t i = 0; i < 301; ++i) sum += a.data_ptr<int64_t>()[n * 301 + i] * o.data_ptr<int64_t>()[f * 301 + i];
          expected.push_back(sum);
        }
      }
      ExpectEqual(linear.Forward(codes).tensor, expected);
    }
  }
}

// Convolution, batch norm with shortcut and activation, twice in a row, against one loop that uses integers and the contract's expressions only.
TEST(QuantizedLayersTest, CodesEqualAPlainLoopLayerByLayer) {
  for (const auto& [weight_bits, activation_bits] : std::vector<std::pair<int, int>>{{1, 1}, {2, 2}, {4, 4}, {4, 8}, {8, 8}, {3, 5}}) {
    SCOPED_TRACE(testing::Message() << "W" << weight_bits << "A" << activation_bits);
    const int64_t channels = 40;  // 8/8: B = 360 * 255 * 255 > 2^24, sums in float64
    Features codes = RandomCodes({3, channels, 6, 6}, activation_bits);
    for (int layer = 0; layer < 2; ++layer) {
      QuantizedConv2d conv(MakeWeight(at::randn({channels, channels, 3, 3}), weight_bits), 1, 1);
      BatchNorm norm("bn", channels, at::kFloat);
      std::vector<Parameter> parameters;
      norm.AddParameters(parameters);
      parameters[0].latent.detach().copy_(at::rand_like(parameters[0].latent.detach()) * 0.6 + 0.3);
      parameters[1].latent.detach().copy_(at::rand_like(parameters[1].latent.detach()) * 0.6 - 0.2);
      const Activation activation(ActivationFunction::kClip, MakeDorefaActivationQuantizer(activation_bits, {}));
      const Sums sums = conv.Forward(codes);
      const Features got = activation.Forward(norm.Forward(sums, &codes, /*training=*/true));

      int64_t side = 0;
      const std::vector<int64_t> integers = IntegerConvolution(codes.tensor, conv.weight().operand(), 1, 1, &side);
      const auto n_a = static_cast<float>(GreatestCode(activation_bits));
      const double scale = (1.0 / n_a) * (1.0 / static_cast<double>(GreatestCode(weight_bits)));
      const int64_t plane = side * side;
      std::vector<double> sum(channels), squares(channels);
      for (size_t i = 0; i < integers.size(); ++i) {
        const auto v = static_cast<double>(integers[i]);  // all sums stay below 2^53
        sum[i / plane % channels] += v;
        squares[i / plane % channels] += v * v;
      }
      const double count = static_cast<double>(3 * plane);
      const at::Tensor got_codes = got.tensor.detach().contiguous();
      int64_t between = 0;
      for (size_t i = 0; i < integers.size(); ++i) {
        const int64_t c = i / plane % channels;
        const double mean = sum[c] / count, variance = squares[c] / count - mean * mean;
        const double slope = parameters[0].latent[c].item<double>() / std::sqrt(variance * (scale * scale) + 1e-5);
        const auto alpha = static_cast<float>(slope * scale);
        const auto beta = static_cast<float>(parameters[1].latent[c].item<double>() - slope * (mean * scale));
        const float x = std::fmaf(static_cast<float>(integers[i]), alpha, beta) + codes.tensor.data_ptr<float>()[i] / n_a;
        const float expected = std::nearbyint(n_a * std::fmin(std::fmax(x, 0.0f), 1.0f));
        ASSERT_EQ(got_codes.data_ptr<float>()[i], expected) << "layer " << layer << " at " << i;
        between += expected > 0 && expected < n_a;
      }
      EXPECT_TRUE(activation_bits == 1 || between > 0);
      codes = {got_codes, got.scale, got.greatest_code};
    }
  }
}

TEST(QuantizedConv2dTest, GradientsInClosedForm) {
  QuantizedConv2d conv(MakeWeight(at::randn({3, 4, 3, 3}, at::kDouble), 4), 2, 1);
  Features codes = RandomCodes({2, 4, 5, 5}, 3);
  codes.tensor = codes.tensor.to(at::kDouble).requires_grad_();
  const Sums sums = conv.Forward(codes);
  const at::Tensor g = at::randn(sums.tensor.sizes(), at::kDouble);
  (sums.tensor * g).sum().backward();

  const at::Tensor o = conv.weight().operand();
  at::Tensor grad_codes = at::zeros({2, 4, 5, 5}, at::kDouble), grad_leaf = at::zeros_like(o);
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t f = 0; f < 3; ++f) {
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t s = 0; s < 3; ++s) {
          for (int64_t c = 0; c < 4; ++c) {
            for (int64_t i = 0; i < 3; ++i) {
              for (int64_t j = 0; j < 3; ++j) {
                const int64_t y = 2 * r + i - 1, z = 2 * s + j - 1;
                if (y < 0 || y >= 5 || z < 0 || z >= 5) continue;
                grad_codes[n][c][y][z] += g[n][f][r][s] * o[f][c][i][j];
                // The leaf holds o / 15, so dS/dleaf = 15 code.
                grad_leaf[f][c][i][j] += g[n][f][r][s] * codes.tensor.detach()[n][c][y][z] * 15;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_TRUE(at::allclose(codes.tensor.grad(), grad_codes, 1e-12, 1e-12));
  EXPECT_TRUE(at::allclose(conv.weight().leaf().grad(), grad_leaf, 1e-12, 1e-12));
}

TEST(QuantizedLinearTest, GradientsInClosedForm) {
  QuantizedLinear linear(MakeWeight(at::randn({3, 6}, at::kDouble), 2));
  Features codes = RandomCodes({4, 6}, 3);
  codes.tensor = codes.tensor.to(at::kDouble).requires_grad_();
  const Sums sums = linear.Forward(codes);
  const at::Tensor g = at::randn({4, 3}, at::kDouble);
  (sums.tensor * g).sum().backward();
  EXPECT_TRUE(at::allclose(codes.tensor.grad(), g.mm(linear.weight().operand()), 1e-12, 1e-12));
  EXPECT_TRUE(at::allclose(linear.weight().leaf().grad(), g.t().mm(codes.tensor.detach()) * 3, 1e-12, 1e-12));
}

// Gradients of batch norm with shortcut against central differences in float64.
TEST(BatchNormTest, GradientsEqualFiniteDifferences) {
  constexpr double kStep = 1e-4;
  constexpr double kTolerance = 1e-6;
  const double scale = 1.0 / 45;
  at::Tensor s = at::randint(-40, 41, {3, 2, 3, 3}, at::kDouble).requires_grad_();
  at::Tensor shortcut = at::randint(0, 4, {3, 2, 3, 3}, at::kDouble).requires_grad_();
  const at::Tensor weights = at::randn({3, 2, 3, 3}, at::kDouble);
  BatchNorm norm("bn", 2, at::kDouble);
  std::vector<Parameter> parameters;
  norm.AddParameters(parameters);
  parameters[0].latent.detach().copy_(at::rand_like(parameters[0].latent.detach()) * 1.5 + 0.5);
  const auto loss = [&] {
    const Features f{shortcut, 1.0 / 3, 3};
    return (norm.Forward({s, scale, 0}, &f, /*training=*/true) * weights).sum();
  };
  loss().backward();
  for (at::Tensor* t : {&s, &shortcut, &parameters[0].leaf, &parameters[1].leaf}) {
    const at::Tensor data = t->detach();
    for (int64_t i = 0; i < data.numel(); ++i) {
      double* p = data.data_ptr<double>() + i;
      const double old = *p;
      *p = old + kStep;
      const double up = loss().item<double>();
      *p = old - kStep;
      const double down = loss().item<double>();
      *p = old;
      ASSERT_NEAR(t->grad().contiguous().data_ptr<double>()[i], (up - down) / (2 * kStep), kTolerance);
    }
  }
}

TEST(BatchNormTest, RunningStatisticsAreThoseOfValues) {
  BatchNorm norm("bn", 3, at::kFloat);
  std::vector<Buffer> buffers;
  norm.AddBuffers(buffers);
  const at::Tensor s = at::randint(-20, 21, {4, 3, 2, 2}, at::kFloat);
  norm.Forward({s, 0.25, 20}, nullptr, /*training=*/true);
  const at::Tensor y = s.to(at::kDouble).mul(0.25).transpose(0, 1).flatten(1);
  EXPECT_TRUE(at::allclose(buffers[0].value, y.mean(1) * 0.1, 1e-12, 1e-12));
  EXPECT_TRUE(at::allclose(buffers[1].value, y.var(1, /*unbiased=*/true) * 0.1 + 0.9, 1e-12, 1e-12));
  EXPECT_EQ(buffers[0].value.scalar_type(), at::kDouble);
}

TEST(ActivationTest, FloatActivationsAndTheirGradients) {
  const at::Tensor x = at::tensor({-0.5f, 0.0f, 0.4f, 1.0f, 1.5f});
  for (const auto& [function, y, grad] :
       {std::tuple{ActivationFunction::kRelu, at::tensor({0.0f, 0.0f, 0.4f, 1.0f, 1.5f}), at::tensor({0.f, 0.f, 1.f, 1.f, 1.f})},
        std::tuple{ActivationFunction::kClip, at::tensor({0.0f, 0.0f, 0.4f, 1.0f, 1.0f}), at::tensor({0.f, 1.f, 1.f, 1.f, 0.f})}}) {
    const at::Tensor in = x.clone().requires_grad_();
    const Features f = Activation(function, nullptr).Forward(in);
    EXPECT_TRUE(at::equal(f.tensor, y));
    EXPECT_EQ(f.greatest_code, 0);
    f.tensor.sum().backward();
    EXPECT_TRUE(at::equal(in.grad(), grad));
  }
}

TEST(PaddedShortcutTest, NewChannelsHoldCodeZero) {
  const Features in = RandomCodes({2, 4, 5, 5}, 4);
  const Features out = PaddedShortcut(in, 8, 2);
  ASSERT_EQ(out.tensor.sizes(), (std::vector<int64_t>{2, 8, 3, 3}));
  EXPECT_TRUE(out.tensor.slice(1, 0, 2).eq(0).all().item<bool>());
  EXPECT_TRUE(out.tensor.slice(1, 6, 8).eq(0).all().item<bool>());
  EXPECT_TRUE(at::equal(out.tensor.slice(1, 2, 6), in.tensor.slice(2, 0, 5, 2).slice(3, 0, 5, 2)));
  EXPECT_EQ(out.scale, in.scale);
}

}  // namespace
}  // namespace bitstair::core
