#include "core/quant/dorefa_std.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/kernels/quant_math.h"
#include "core/quant/dorefa.h"
#include "core/quant/weight_pass.h"

namespace bitstair::core {
namespace {

std::unique_ptr<WeightQuantizer> Make(int bits) {
  return MakeDorefaWeightQuantizer(bits, {.weight_norm = WeightNorm::kStd});
}

// Gaussian values without chance: quantiles.
at::Tensor Gaussian(int64_t count) {
  return at::erfinv((at::arange(count, at::kDouble) + 0.5) / static_cast<double>(count) * 2 - 1) * std::sqrt(2.0);
}

TEST(StdWeightQuantizerTest, TheClipIsWhereRoundingGaussianWeightsCostsLeast) {
  const at::Tensor w = Gaussian(200000);
  for (int bits = 1; bits <= 6; ++bits) {
    const auto n = static_cast<double>(GreatestCode(bits));
    const auto error = [&](double clip) {
      const at::Tensor codes = ((w / clip).clamp(-1, 1) / 2 + 0.5).mul(n).round() * 2 - n;
      return (w - codes * (clip / n)).square().mean().item<double>();
    };
    const at::Tensor codes = WeightCodes(*Make(bits), w, at::kDouble);
    // The quantiser's clip, found from where its highest level begins: t = 1 - 1/n. With one bit there is one threshold, 0: any clip gives the same codes.
    if (bits == 1) {
      EXPECT_TRUE(codes.eq(w.sign()).all().item<bool>());
      continue;
    }
    const double clip = w.masked_select(codes.eq(n)).min().item<double>() / (1 - 1 / n);
    EXPECT_LT(error(clip), error(0.97 * clip)) << bits;
    EXPECT_LT(error(clip), error(1.03 * clip)) << bits;
  }
}

TEST(StdWeightQuantizerTest, TwoBitsUseAllLevelsWhereTheMaximumUsesTwo) {
  const at::Tensor w = (Gaussian(20000) * 0.05).to(at::kFloat);  // so small that tanh is a line
  const auto share_of_ends = [&](const WeightQuantizer& quantizer) {
    return WeightCodes(quantizer, w, at::kFloat).abs().eq(3).to(at::kFloat).mean().item<double>();
  };
  EXPECT_GT(share_of_ends(*Make(2)), 0.3);
  EXPECT_LT(share_of_ends(*MakeDorefaWeightQuantizer(2, {})), 0.02);
}

TEST(StdWeightQuantizerTest, CodesAreOddIntegersOfAllStorageTypes) {
  const at::Tensor w = at::randn({5000});
  for (int bits = 1; bits <= 8; ++bits) {
    const int64_t n = GreatestCode(bits);
    const at::Tensor codes = WeightCodes(*Make(bits), w, at::kFloat);
    EXPECT_TRUE(codes.abs().le(static_cast<double>(n)).all().item<bool>());
    EXPECT_TRUE(codes.to(at::kLong).remainder(2).eq(1).all().item<bool>());
    EXPECT_TRUE(WeightCodes(*Make(bits), w, n > 127 ? at::kShort : at::kChar).to(at::kFloat).equal(codes));
  }
}

// Straight-through rounding: the gradient is that of clip(w / (c sigma)).
TEST(StdWeightQuantizerTest, GradientsEqualFiniteDifferences) {
  constexpr double kStep = 1e-6, kTolerance = 1e-7;
  const double clip = 2.5140;  // of 4 bits
  const at::Tensor w = at::randn({40}, at::kDouble), g = at::randn({40}, at::kDouble);
  w[3] = 9.0;  // clipped
  const auto value = [&](const at::Tensor& x) { return ((x / (clip * x.square().mean().sqrt())).clamp(-1, 1) * g).sum().item<double>(); };
  const auto detached = [&](const at::Tensor& x) { return ((x / (clip * w.square().mean().sqrt())).clamp(-1, 1) * g).sum().item<double>(); };
  const at::Tensor grad = WeightGradient(*Make(4), w, g);
  const at::Tensor without = WeightGradient(*MakeDorefaWeightQuantizer(4, {.detach_weight_max = true, .weight_norm = WeightNorm::kStd}), w, g);
  for (int64_t i = 0; i < w.numel(); ++i) {
    at::Tensor up = w.clone(), down = w.clone();
    up[i] += kStep;
    down[i] -= kStep;
    EXPECT_NEAR(grad[i].item<double>(), (value(up) - value(down)) / (2 * kStep), kTolerance) << i;
    EXPECT_NEAR(without[i].item<double>(), (detached(up) - detached(down)) / (2 * kStep), kTolerance) << i;
  }
}

TEST(StdWeightQuantizerTest, ZeroWeightsHaveCodesAndNoGradientAndNaNIsSeen) {
  const at::Tensor zeros = at::zeros({10});
  EXPECT_TRUE(WeightCodes(*Make(2), zeros, at::kFloat).isfinite().all().item<bool>());
  EXPECT_TRUE(WeightGradient(*Make(2), zeros, at::ones({10})).eq(0).all().item<bool>());
  for (const float bad : {std::nanf(""), INFINITY}) {
    at::Tensor w = at::randn({10});
    w[4] = bad;
    at::Tensor codes = at::empty({10});
    const auto quantizer = Make(2);
    EXPECT_EQ(QuantizeWeights({{quantizer.get(), w, codes}}), std::optional<size_t>(0));
  }
}

}  // namespace
}  // namespace bitstair::core
