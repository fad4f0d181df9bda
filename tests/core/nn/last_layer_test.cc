#include "core/nn/last_layer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/nn/fast_layers.h"
#include "core/nn/tape.h"

namespace bitstair::core {
namespace {

struct Layer {
  std::unique_ptr<Weight> weight;
  at::Tensor leaf, bias, logit_scale;
};

Layer MakeLayer(const at::Tensor& latent, const std::vector<double>& bias, double scale, int bits) {
  Layer layer;
  layer.weight = std::make_unique<Weight>("fc.weight", latent, FindQuantizer("dorefa")->weights(bits, {.dtype = latent.scalar_type()}), false);
  layer.leaf = layer.weight->leaf();
  layer.bias = at::tensor(bias, latent.options().requires_grad(false)).set_requires_grad(true);
  layer.logit_scale = at::full({1}, scale, latent.options().requires_grad(false)).set_requires_grad(true);
  return layer;
}

// Two classes, two channels, one image of two positions; 2-bit weights: codes of (1, -1), (0.1, 1) are (3, -3), (1, 3), so w_q = (1, -1), (1/3, 1).
TEST(LastLayerTest, LogitsAndGradientsByHand) {
  Layer layer = MakeLayer(at::tensor({1.0, -1.0, 0.1, 1.0}, at::kDouble).view({2, 2}), {0.25, -0.5}, 0.5, 2);
  const LastLayer last(QuantizedLinear(std::move(layer.weight)), layer.bias, layer.logit_scale);
  at::Tensor codes = at::tensor({255.0, 0.0, 51.0, 153.0}, at::kDouble).view({1, 2, 1, 2}).set_requires_grad(true);
  const at::Tensor logits = last.Forward({codes, 1.0 / 255, 255});
  // x = (255 + 0) / 2 / 255, (51 + 153) / 2 / 255 = 0.5, 0.4;   w_q x = 0.1, 1/6 + 0.4
  EXPECT_NEAR(logits[0][0].item<double>(), 0.5 * 0.1 + 0.25, 1e-15);
  EXPECT_NEAR(logits[0][1].item<double>(), 0.5 * (0.5 / 3 + 0.4) - 0.5, 1e-15);

  logits.backward(at::tensor({2.0, -3.0}, at::kDouble).view({1, 2}));
  EXPECT_NEAR(layer.logit_scale.grad().item<double>(), 2 * 0.1 - 3 * (0.5 / 3 + 0.4), 1e-14) << "the sum of dL/dlogit (w_q x)";
  EXPECT_TRUE(layer.bias.grad().equal(at::tensor({2.0, -3.0}, at::kDouble)));
  const at::Tensor by_weights = at::tensor({0.5 * 2 * 0.5, 0.5 * 2 * 0.4, 0.5 * -3 * 0.5, 0.5 * -3 * 0.4}, at::kDouble).view({2, 2});
  EXPECT_TRUE(at::allclose(layer.leaf.grad(), by_weights, 1e-13, 0)) << layer.leaf.grad();
  // dL/dcode = logit_scale (g w_q) / (positions 255), the same at both positions.
  const double first = 0.5 * (2 * 1 - 3.0 / 3) / 510, second = 0.5 * (2 * -1 - 3) / 510;
  EXPECT_TRUE(at::allclose(codes.grad().flatten(), at::tensor({first, first, second, second}, at::kDouble), 1e-13, 0)) << codes.grad();
}

// Numerics fast holds bytes; from equal codes its logits are equal bit for bit, with sums beyond 2^24 too.
TEST(LastLayerTest, BothNumericsGiveEqualLogitsAndGradients) {
  at::manual_seed(1);
  for (const auto& [bits, channels, side] : {std::tuple(2, 64, 8), std::tuple(8, 512, 7), std::tuple(4, 32, 1)}) {
    const at::Tensor latent = at::randn({10, channels}), codes = at::randint(0, 256, {4, channels, side, side}, at::kFloat);
    at::Tensor logits[2], scale_gradient[2], weight_gradient[2], input_gradient[2];
    for (const bool fast : {false, true}) {
      Layer layer = MakeLayer(latent.clone(), std::vector<double>(10, 0.125), 0.01, bits);
      const LastLayer last(QuantizedLinear(std::move(layer.weight)), layer.bias, layer.logit_scale);
      Features features{codes.clone().set_requires_grad(true), 1.0 / 255, 255};
      if (fast) {
        features.tensor = at::Tensor();
        features.fast = std::make_shared<FastFeatures>();
        features.fast->numbers = codes.permute({0, 2, 3, 1}).to(at::kByte).contiguous();
        features.fast->token = NewToken().set_requires_grad(true);
      }
      logits[fast] = last.Forward(features);
      at::cross_entropy_loss(logits[fast], at::arange(4)).backward();
      scale_gradient[fast] = layer.logit_scale.grad();
      weight_gradient[fast] = layer.leaf.grad();
      input_gradient[fast] = fast ? features.fast->parts->at(0).gradient.to(at::kFloat).permute({0, 3, 1, 2}) : features.tensor.grad();
    }
    EXPECT_TRUE(logits[0].detach().equal(logits[1].detach())) << bits;
    EXPECT_TRUE(scale_gradient[0].equal(scale_gradient[1])) << bits;
    EXPECT_TRUE(weight_gradient[0].equal(weight_gradient[1])) << bits;
    EXPECT_TRUE(at::allclose(input_gradient[0], input_gradient[1], 0.01, 1e-9)) << "bfloat16, where the processor likes it";
  }
}

TEST(LastLayerTest, FeaturesThatAreNoCodesAreRefused) {
  Layer layer = MakeLayer(at::randn({2, 3}), {0, 0}, 1, 2);
  const LastLayer last(QuantizedLinear(std::move(layer.weight)), layer.bias, layer.logit_scale);
  EXPECT_THROW(last.Forward({at::rand({1, 3, 2, 2}), 1, 0}), c10::Error);
}

TEST(LastLayerTest, FullPrecisionIsALinearLayerOnTheMean) {
  const at::Tensor weight = at::randn({5, 3}).set_requires_grad(true), bias = at::randn({5}).set_requires_grad(true), x = at::rand({2, 3, 4, 4});
  EXPECT_TRUE(LastLayer(weight, bias).Forward({x, 1, 0}).equal(at::linear(x.mean({2, 3}), weight, bias)));
  EXPECT_TRUE(LastLayer(weight, bias).Forward({x.select(3, 0).select(2, 0), 0.5, 3}).equal(at::linear(x.select(3, 0).select(2, 0) * 0.5, weight, bias)));
}

}  // namespace
}  // namespace bitstair::core
