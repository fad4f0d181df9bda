// The fused kernels against plain loops over the expressions of kernels/quant_math.h, on both kinds of lanes.
#include "core/kernels/fused/fused_norm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/kernels/fused/fused_pool.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

// Sums of float32 in two orders.
constexpr double kSumBound = 1e-5;
// bfloat16 keeps 8 bits: half a unit of the last one.
constexpr double kBfloat16Bound = 1.0 / 256;

float ToFloat(uint16_t bfloat16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat16) << 16);
}
uint16_t ToBfloat16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Single elements, tails, channels that do and do not divide the lanes, and enough rows for several chunks.
const RowShape kShapes[] = {{1, 1}, {3, 1}, {7, 5}, {33, 16}, {1025, 16}, {5000, 16}, {700, 64}, {17, 48}, {130, 512}, {9, 129}};

class FusedNormTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!SetLanes(GetParam())) GTEST_SKIP() << "this processor has no " << GetParam();
  }
  void TearDown() override { SetLanes(""); }

  std::vector<float> Floats(int64_t size, float low, float high) {
    std::uniform_real_distribution<float> uniform(low, high);
    std::vector<float> v(static_cast<size_t>(size));
    for (float& x : v) x = uniform(random_);
    return v;
  }
  template <typename T>
  std::vector<T> Integers(int64_t size, int64_t low, int64_t high) {
    std::uniform_int_distribution<int64_t> uniform(low, high);
    std::vector<T> v(static_cast<size_t>(size));
    for (T& x : v) x = static_cast<T>(uniform(random_));
    return v;
  }

  std::mt19937 random_{5};
};

TEST_P(FusedNormTest, IntegerMomentsAreExactAndSumsAreMadeSmall) {
  for (const RowShape shape : kShapes) {
    const auto s = Integers<int32_t>(shape.size(), -32768, 32767);
    std::vector<int16_t> compact(s.size());
    ChannelMoments moments(shape.channels);
    ASSERT_TRUE(moments.Add({s.data(), Stored::kInt32}, 32768, shape, {compact.data(), Stored::kInt16}));
    ASSERT_TRUE(std::equal(s.begin(), s.end(), compact.begin()));
    std::vector<double> mean(shape.channels), variance(shape.channels);
    moments.Finish(mean.data(), variance.data());
    for (int64_t c = 0; c < shape.channels; ++c) {
      int64_t sum = 0, squares = 0;
      for (int64_t r = 0; r < shape.rows; ++r) {
        const int64_t v = s[r * shape.channels + c];
        sum += v;
        squares += v * v;
      }
      const double m = static_cast<double>(sum) / static_cast<double>(shape.rows);
      ASSERT_EQ(mean[c], m);
      ASSERT_EQ(variance[c], std::max(0.0, static_cast<double>(squares) / static_cast<double>(shape.rows) - m * m));
    }
  }
}

// The squares of a chunk of greatest sums do not fit 64 bits.
TEST_P(FusedNormTest, MomentsOfTheGreatestSumsAreExact) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  const RowShape shape{4096, 16};
  std::vector<int32_t> s(static_cast<size_t>(shape.size()));
  for (size_t i = 0; i < s.size(); ++i) s[i] = i / 16 % 2 == 0 ? kMax : -kMax;
  ChannelMoments moments(16);
  ASSERT_TRUE(moments.Add({s.data(), Stored::kInt32}, kMax, shape, {}));
  std::vector<double> mean(16), variance(16);
  moments.Finish(mean.data(), variance.data());
  EXPECT_EQ(mean[3], 0);
  EXPECT_EQ(variance[3], static_cast<double>(int64_t{kMax} * kMax));
}

TEST_P(FusedNormTest, PartsAreAdded) {
  for (const int64_t size : {1, 15, 16, 33, 100000}) {
    const auto a = Floats(size, -1, 1), b = Floats(size, -1, 1);
    std::vector<float> sum(a.size());
    AddParts({{{a.data(), Stored::kFloat32}, 0.5f}, {{b.data(), Stored::kFloat32}, 3}}, size, {sum.data(), Stored::kFloat32});
    for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(sum[i], std::fma(b[i], 3.0f, a[i] * 0.5f)) << i;
  }
}

TEST_P(FusedNormTest, ASumBeyondInt16IsReported) {
  for (const int32_t v : {32768, -32769, 1 << 30}) {
    std::vector<int32_t> s(77 * 16, 3);
    s[76 * 16 + 5] = v;
    std::vector<int16_t> compact(s.size());
    ChannelMoments moments(16);
    EXPECT_FALSE(moments.Add({s.data(), Stored::kInt32}, int64_t{1} << 30, {77, 16}, {compact.data(), Stored::kInt16})) << v;
  }
}

// Integer x * n + 1/2 of both parities, 0, 1 and their neighbours, beyond both ends, infinities.
TEST_P(FusedNormTest, CodesAndMasksAreThoseOfTheContract) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const RowShape shape : kShapes) {
    for (int bits = 1; bits <= 8; ++bits) {
      const auto n = static_cast<float>(GreatestCode(bits));
      const auto s = Integers<int16_t>(shape.size(), -300, 300);
      auto alpha = Floats(shape.channels, -0.01f, 0.01f), beta = Floats(shape.channels, -0.2f, 1.2f);
      // Ties: x = s / (2n) exactly where n is a power of two less one only by chance, so take alpha = 1/512 with n = 1, 3 too; ends: beta 0, 1, inf.
      alpha[0] = 1.0f / 512;
      beta[0] = 0;
      if (shape.channels > 4) {
        alpha[1] = alpha[2] = alpha[3] = alpha[4] = 0;
        beta[1] = 1;
        beta[2] = std::nextafter(1.0f, 2.0f);
        beta[3] = inf;
        beta[4] = -inf;
      }
      const auto shortcut = Integers<uint8_t>(shape.size(), 0, static_cast<int64_t>(n));
      for (const bool add : {false, true}) {
        std::vector<uint8_t> codes(s.size());
        std::vector<uint16_t> mask(static_cast<size_t>(MaskBytes(shape) / 2));
        NormalizeArgs args;
        args.shape = shape;
        args.main = {{s.data(), Stored::kInt16}, alpha.data(), beta.data()};
        if (add) args.shortcut = {shortcut.data(), Stored::kCodes};
        args.shortcut_scale = 1.0 / n;
        args.n = n;
        args.out = {codes.data(), Stored::kCodes};
        args.mask = mask.data();
        ASSERT_TRUE(Normalize(args));
        for (int64_t i = 0; i < shape.size(); ++i) {
          const int64_t c = i % shape.channels;
          float x = std::fma(static_cast<float>(s[i]), alpha[c], beta[c]);
          if (add) x += CodeValue(static_cast<float>(shortcut[i]), 1.0 / n);
          ASSERT_EQ(codes[i], static_cast<uint8_t>(ActivationCode(x, n))) << "x = " << x << ", " << bits << " bits";
          ASSERT_EQ((mask[i / 16] >> (i % 16) & 1) != 0, ClipPasses(x)) << "x = " << x;
        }
      }
    }
  }
}

TEST_P(FusedNormTest, TiesGoToEven) {
  // n = 1: x = 1/2 -> 0; n = 3: x = 1/6 is no float, but fma(1, 0.5, 0) * 3 = 1.5 -> 2.
  const std::vector<int16_t> s{1};
  for (const auto& [n, expected] : {std::pair{1.0f, 0}, {3.0f, 2}, {7.0f, 4}, {15.0f, 8}, {255.0f, 128}}) {
    const float alpha = 0.5f, beta = 0;
    uint8_t code = 99;
    NormalizeArgs args;
    args.shape = {1, 1};
    args.main = {{s.data(), Stored::kInt16}, &alpha, &beta};
    args.n = n;
    args.out = {&code, Stored::kCodes};
    ASSERT_TRUE(Normalize(args));
    EXPECT_EQ(code, expected) << n;
  }
}

TEST_P(FusedNormTest, WhatIsNotANumberIsReported) {
  for (const RowShape shape : {RowShape{1, 1}, RowShape{40, 16}, RowShape{7, 5}}) {
    std::vector<int32_t> s(static_cast<size_t>(shape.size()), 1);
    std::vector<float> alpha(static_cast<size_t>(shape.channels), 1), beta(static_cast<size_t>(shape.channels), 0);
    std::vector<uint8_t> codes(s.size());
    NormalizeArgs args;
    args.shape = shape;
    args.main = {{s.data(), Stored::kInt32}, alpha.data(), beta.data()};
    args.n = 15;
    args.out = {codes.data(), Stored::kCodes};
    EXPECT_TRUE(Normalize(args));
    beta.back() = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FALSE(Normalize(args));
  }
}

TEST_P(FusedNormTest, FloatActivationsOfFloatSums) {
  for (const RowShape shape : kShapes) {
    const auto s = Floats(shape.size(), -2, 2), other = Floats(shape.size(), -2, 2);
    const auto alpha = Floats(shape.channels, -1, 1), beta = Floats(shape.channels, -1, 1), alpha2 = Floats(shape.channels, -1, 1),
               beta2 = Floats(shape.channels, -1, 1);
    for (const Nonlinearity function : {Nonlinearity::kClip, Nonlinearity::kRelu}) {
      std::vector<float> y(s.size());
      std::vector<uint16_t> mask(static_cast<size_t>(MaskBytes(shape) / 2));
      NormalizeArgs args;
      args.shape = shape;
      args.main = {{s.data(), Stored::kFloat32}, alpha.data(), beta.data()};
      args.shortcut_affine = {{other.data(), Stored::kFloat32}, alpha2.data(), beta2.data()};
      args.nonlinearity = function;
      args.out = {y.data(), Stored::kFloat32};
      args.mask = mask.data();
      ASSERT_TRUE(Normalize(args));
      for (int64_t i = 0; i < shape.size(); ++i) {
        const int64_t c = i % shape.channels;
        const float x = std::fma(s[i], alpha[c], beta[c]) + std::fma(other[i], alpha2[c], beta2[c]);
        ASSERT_EQ(y[i], function == Nonlinearity::kRelu ? Relu(x) : Clip01(x));
        ASSERT_EQ((mask[i / 16] >> (i % 16) & 1) != 0, function == Nonlinearity::kRelu ? x > 0 : ClipPasses(x));
      }
    }
  }
}

TEST_P(FusedNormTest, GradientsAreThoseOfAPlainLoop) {
  for (const RowShape shape : kShapes) {
    for (const bool bfloat16 : {false, true}) {
      const auto s = Integers<int16_t>(shape.size(), -300, 300), s2 = Integers<int16_t>(shape.size(), -300, 300);
      auto g1 = Floats(shape.size(), -1, 1), g2 = Floats(shape.size(), -1, 1);
      std::vector<uint16_t> b1, b2;
      for (float& g : g1) b1.push_back(ToBfloat16(g));
      for (float& g : g2) b2.push_back(ToBfloat16(g));
      if (bfloat16) {
        for (size_t i = 0; i < g1.size(); ++i) g1[i] = ToFloat(b1[i]), g2[i] = ToFloat(b2[i]);
      }
      const auto mask = Integers<uint16_t>(MaskBytes(shape) / 2, 0, 65535);
      const auto mean = Floats(shape.channels, -50, 50), mean2 = Floats(shape.channels, -50, 50);
      const Stored type = bfloat16 ? Stored::kBfloat16 : Stored::kFloat32;
      std::vector<float> masked(s.size());
      NormGradientArgs args;
      args.shape = shape;
      args.parts[0] = {{bfloat16 ? static_cast<const void*>(b1.data()) : g1.data(), type}, 15};
      args.parts[1] = {{bfloat16 ? static_cast<const void*>(b2.data()) : g2.data(), type}, 0.5f};
      args.mask = mask.data();
      args.sums = {s.data(), Stored::kInt16};
      args.mean = mean.data();
      args.other_sums = {s2.data(), Stored::kInt16};
      args.other_mean = mean2.data();
      args.masked = {masked.data(), Stored::kFloat32};
      std::vector<double> sum(shape.channels), dot(shape.channels), dot2(shape.channels);
      NormGradientSums(args, sum.data(), dot.data(), dot2.data());

      const auto a = Floats(shape.channels, -1, 1), b = Floats(shape.channels, -0.01f, 0.01f), c = Floats(shape.channels, -1, 1);
      NormApplyArgs apply;
      apply.shape = shape;
      apply.parts[0] = args.parts[0];
      apply.parts[1] = args.parts[1];
      apply.mask = mask.data();
      apply.sums = args.sums;
      apply.mean = mean.data();
      apply.a = a.data();
      apply.b = b.data();
      apply.c = c.data();
      std::vector<float> out(s.size());
      std::vector<uint16_t> out16(s.size());
      apply.grad_sums = bfloat16 ? MutableArray{out16.data(), type} : MutableArray{out.data(), type};
      NormGradientApply(apply);

      std::vector<double> expected_sum(shape.channels), expected_dot(shape.channels), expected_dot2(shape.channels), scale(shape.channels);
      for (int64_t i = 0; i < shape.size(); ++i) {
        const int64_t ch = i % shape.channels;
        const float g = (mask[i / 16] >> (i % 16) & 1) != 0 ? std::fma(g2[i], 0.5f, g1[i] * 15) : 0;
        ASSERT_EQ(masked[i], g);
        expected_sum[ch] += g;
        expected_dot[ch] += double{g} * (s[i] - mean[ch]);
        expected_dot2[ch] += double{g} * (s2[i] - mean2[ch]);
        scale[ch] += std::abs(g) * 350.0;
        const float expected = std::fma(s[i] - mean[ch], b[ch], std::fma(g, a[ch], c[ch]));
        if (bfloat16) {
          ASSERT_NEAR(ToFloat(out16[i]), expected, kBfloat16Bound * std::abs(expected) + 1e-30);
        } else {
          ASSERT_EQ(out[i], expected);
        }
      }
      for (int64_t ch = 0; ch < shape.channels; ++ch) {
        ASSERT_NEAR(sum[ch], expected_sum[ch], kSumBound * scale[ch] + 1e-12);
        ASSERT_NEAR(dot[ch], expected_dot[ch], kSumBound * scale[ch] + 1e-12);
        ASSERT_NEAR(dot2[ch], expected_dot2[ch], kSumBound * scale[ch] + 1e-12);
      }
    }
  }
}

TEST_P(FusedNormTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const RowShape shape{5000, 16};
  const auto s = Floats(shape.size(), -2, 2), g = Floats(shape.size(), -1, 1), mean = Floats(16, -1, 1);
  std::vector<double> sum[2], dot[2], moments_mean[2], variance[2];
  const int threads = at::get_num_threads();
  for (int i = 0; i < 2; ++i) {
    at::set_num_threads(1 + 2 * i);
    for (auto* v : {&sum[i], &dot[i], &moments_mean[i], &variance[i]}) v->resize(16);
    NormGradientArgs args;
    args.shape = shape;
    args.parts[0] = {{g.data(), Stored::kFloat32}, 1};
    args.sums = {s.data(), Stored::kFloat32};
    args.mean = mean.data();
    NormGradientSums(args, sum[i].data(), dot[i].data(), nullptr);
    ChannelMoments moments(16);
    moments.Add({s.data(), Stored::kFloat32}, 0, shape, {});
    moments.Finish(moments_mean[i].data(), variance[i].data());
  }
  at::set_num_threads(threads);
  EXPECT_EQ(sum[0], sum[1]);
  EXPECT_EQ(dot[0], dot[1]);
  EXPECT_EQ(moments_mean[0], moments_mean[1]);
  EXPECT_EQ(variance[0], variance[1]);
}

// The greatest magnitudes of 16 bits, whose squares two rows together do not fit 31 bits; odd and even numbers of rows; one too great.
TEST_P(FusedNormTest, GreatestShortSumsAreExact) {
  for (const int64_t rows : {1, 2, 3, 511, 513}) {
    for (const int32_t value : {-32768, 32767, -32769, 32768}) {
      const RowShape shape{rows, 20};
      const std::vector<int32_t> s(static_cast<size_t>(shape.size()), value);
      std::vector<int16_t> compact(s.size());
      ChannelMoments moments(20);
      const bool fits = value >= -32768 && value <= 32767;
      ASSERT_EQ(moments.Add({s.data(), Stored::kInt32}, 1 << 20, shape, {compact.data(), Stored::kInt16}), fits) << value << " in " << rows;
      if (!fits) continue;
      std::vector<double> mean(20), variance(20);
      moments.Finish(mean.data(), variance.data());
      for (int c = 0; c < 20; ++c) ASSERT_TRUE(mean[c] == value && variance[c] == 0) << rows << " rows of " << value;
      for (const int16_t x : compact) ASSERT_EQ(x, value);
    }
  }
}

// A shortcut of few codes is looked up, one of many is multiplied: the same values.
TEST_P(FusedNormTest, ShortcutsOfFewCodesHaveTheSameValues) {
  const RowShape shape{37, 24};
  std::vector<float> s(static_cast<size_t>(shape.size())), out[2];
  std::vector<uint8_t> codes(s.size());
  for (size_t i = 0; i < s.size(); ++i) {
    s[i] = static_cast<float>(i % 7) * 0.01f;
    codes[i] = static_cast<uint8_t>(i % 16);
  }
  const std::vector<float> alpha(24, 1), beta(24, 0);
  for (int i = 0; i < 2; ++i) {
    out[i].resize(s.size());
    NormalizeArgs args;
    args.shape = shape;
    args.main = {{s.data(), Stored::kFloat32}, alpha.data(), beta.data()};
    args.shortcut = {codes.data(), Stored::kCodes};
    args.shortcut_scale = 1.0 / 15;
    args.shortcut_greatest = i == 0 ? 15 : 255;
    args.nonlinearity = Nonlinearity::kRelu;
    args.out = {out[i].data(), Stored::kFloat32};
    ASSERT_TRUE(Normalize(args));
  }
  EXPECT_EQ(out[0], out[1]);
}

class FusedPoolTest : public FusedNormTest {};

// Gradients are small integers: exact in bfloat16, too. Channels in and out of multiples of 16 and 64.
TEST_P(FusedPoolTest, WindowsOverlapAndTheFirstMaximumTakesTheGradient) {
  std::mt19937 random(3);
  for (const PoolShape shape : {PoolShape{2, 7, 6, 5, 3, 2, 1}, PoolShape{1, 4, 4, 16, 2, 2, 0}, PoolShape{1, 5, 5, 3, 2, 2, 0},
                                PoolShape{3, 8, 8, 33, 3, 2, 1}, PoolShape{2, 7, 6, 64, 3, 2, 1}, PoolShape{1, 6, 6, 128, 3, 1, 1}}) {
    const int64_t in = shape.images * shape.height * shape.width * shape.channels;
    const int64_t out = shape.images * shape.out_height() * shape.out_width() * shape.channels;
    std::vector<uint8_t> x(static_cast<size_t>(in)), pooled(static_cast<size_t>(out)), taken(static_cast<size_t>(out));
    for (uint8_t& v : x) v = static_cast<uint8_t>(random() % 4 * 80);  // many ties
    std::vector<float> grad(static_cast<size_t>(out)), expected(static_cast<size_t>(in));
    for (float& v : grad) v = static_cast<float>(random() % 28);
    std::vector<uint8_t> expected_pooled(pooled.size());
    for (int64_t i = 0; i < out; ++i) {
      const int64_t c = i % shape.channels, ox = i / shape.channels % shape.out_width(), oy = i / shape.channels / shape.out_width() % shape.out_height(),
                    image = i / shape.channels / shape.out_width() / shape.out_height();
      int64_t best = -1;
      for (int64_t ky = 0; ky < shape.size; ++ky) {
        for (int64_t kx = 0; kx < shape.size; ++kx) {
          const int64_t y = oy * shape.stride + ky - shape.padding, column = ox * shape.stride + kx - shape.padding;
          if (y < 0 || y >= shape.height || column < 0 || column >= shape.width) continue;
          const int64_t at = ((image * shape.height + y) * shape.width + column) * shape.channels + c;
          if (best < 0 || x[at] > x[best]) best = at;
        }
      }
      expected_pooled[i] = x[best];
      expected[best] += grad[i];
    }
    MaxPoolRows(shape, {x.data(), Stored::kCodes}, {pooled.data(), Stored::kCodes}, taken.data());
    ASSERT_EQ(pooled, expected_pooled);
    std::vector<float> grad_x(static_cast<size_t>(in));
    MaxPoolRowsBackward(shape, {grad.data(), Stored::kFloat32}, taken.data(), {grad_x.data(), Stored::kFloat32});
    ASSERT_EQ(grad_x, expected);

    const auto bf16 = [](const std::vector<float>& values) {
      std::vector<uint16_t> bits(values.size());
      std::transform(values.begin(), values.end(), bits.begin(), [](float v) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16); });
      return bits;
    };
    std::vector<uint16_t> grad_x16(static_cast<size_t>(in)), pooled16(static_cast<size_t>(out));
    MaxPoolRowsBackward(shape, {bf16(grad).data(), Stored::kBfloat16}, taken.data(), {grad_x16.data(), Stored::kBfloat16});
    ASSERT_EQ(grad_x16, bf16(expected));
    std::vector<uint8_t> taken16(taken.size());
    MaxPoolRows(shape, {bf16(std::vector<float>(x.begin(), x.end())).data(), Stored::kBfloat16}, {pooled16.data(), Stored::kBfloat16}, taken16.data());
    ASSERT_EQ(pooled16, bf16(std::vector<float>(pooled.begin(), pooled.end())));
    ASSERT_EQ(taken16, taken);
  }
}

const auto kLanes = ::testing::Values("avx512_bf16", "avx512", "plain");
const auto kName = [](const auto& test) { return test.param; };
INSTANTIATE_TEST_SUITE_P(Lanes, FusedNormTest, kLanes, kName);
INSTANTIATE_TEST_SUITE_P(Lanes, FusedPoolTest, kLanes, kName);

}  // namespace
}  // namespace bitstair::core
