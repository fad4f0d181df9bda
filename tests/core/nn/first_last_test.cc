// quantize_first_last (DESIGN section 3), in every network.
#include <algorithm>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/kernels/convolution.h"
#include "core/kernels/quant_math.h"
#include "core/nn/batch_norm.h"
#include "core/nn/network_state.h"
#include "core/quant/weight_pass.h"
#include "core/training/sgd.h"
#include "tests/core/nn/small_networks.h"

namespace bitstair::core {
namespace {

class FirstLastTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    SetFastFloat(at::kFloat);
    at::manual_seed(13);
  }
  void TearDown() override { SetFastFloat(at::kHalf); }

  static NetworkConfig Config(int weight_bits, int activation_bits) { return Config(GetParam(), weight_bits, activation_bits); }
  static NetworkConfig Config(const std::string& network, int weight_bits, int activation_bits) {
    NetworkConfig config = SmallNetwork(network, weight_bits, activation_bits);
    config.quantize_first_last = true;
    config.pixels = {-2, 2.5};
    return config;
  }
  static std::unique_ptr<Network> Make(NetworkConfig config, Numerics numerics = Numerics::kReference) { return NetworkOf(std::move(config), numerics); }
  static at::Tensor Images(const NetworkConfig& config, int64_t count) {
    return at::randn({count, config.image_channels, config.image_height, config.image_width});
  }
  static const Parameter& Find(Network& network, const std::string& name) {
    for (const Parameter& p : network.parameters()) {
      if (p.name == name) return p;
    }
    ADD_FAILURE() << "no " << name;
    return network.parameters()[0];
  }
  static std::string LastWeight(Network& network) {
    std::string last;
    for (const Parameter& p : network.parameters()) {
      if (p.latent.dim() == 2) last = p.name;
    }
    return last;
  }

  // Batch norms that are not the identity, and running statistics of these images.
  static void Settle(Network& network, const at::Tensor& images) {
    for (const Parameter& p : network.parameters()) {
      at::Tensor latent = p.latent.detach();
      if (p.batch_norm) latent.copy_(p.name.ends_with("weight") ? at::rand_like(latent) * 0.4 + 0.2 : at::rand_like(latent) * 0.6 + 0.1);
    }
    for (Buffer& b : network.buffers()) b.value.zero_();
    network.QuantizeWeights();
    const at::NoGradGuard no_grad;
    network.Forward(images, /*training=*/true);
    for (Buffer& b : network.buffers()) b.value.div_(BatchNorm::kMomentum);
  }

  struct Pair {
    at::Tensor images;
    std::unique_ptr<Network> reference, fast;
  };
  static Pair MakePair(const NetworkConfig& config) {
    Pair pair{Images(config, 4), Make(config), Make(config, Numerics::kFast)};
    Settle(*pair.reference, pair.images);
    EXPECT_TRUE(NetworkFromTensors(NetworkToTensors(*pair.reference), *pair.fast).ok());
    return pair;
  }
};

// No float is left before the logits: images need not be chosen so that sums of floats are exact.
TEST_P(FirstLastTest, BothNumericsGiveTheSameCodesAndLogits) {
  for (const char* quantizer : {"dorefa", "lsq", "pact"}) {
    for (const auto& [weight_bits, activation_bits] : {std::pair(2, 2), std::pair(4, 4), std::pair(8, 8), std::pair(3, 6)}) {
      SCOPED_TRACE(std::string(quantizer) + " W" + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
      NetworkConfig config = Config(weight_bits, activation_bits);
      config.quantizer = quantizer;
      const auto [images, reference, fast] = MakePair(config);
      ExpectEqualOutputs(OutputsOf(*fast, images, false), OutputsOf(*reference, images, false));
      // The pre-activation networks' statistics are of floats, which are added in different orders.
      if (!GetParam().starts_with("preresnet")) ExpectEqualOutputs(OutputsOf(*fast, images, true), OutputsOf(*reference, images, true));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(FirstLastTest, GradientsAgree) {
  // Float32 sums in another order, through up to 53 layers; where a batch norm takes a bias out again, its gradient is nothing but their rounding.
  constexpr double kNorms = 1e-2, kNothing = 1e-4;
  for (const int activation_bits : {4, 32}) {
    const auto [images, reference, fast] = MakePair(Config(4, activation_bits));
    for (Network* network : {reference.get(), fast.get()}) at::cross_entropy_loss(network->Forward(images, true), at::arange(4)).backward();
    double greatest = 0;
    for (const Parameter& p : reference->parameters()) greatest = std::max(greatest, p.leaf.grad().norm().item<double>());
    for (size_t i = 0; i < reference->parameters().size(); ++i) {
      const Parameter& p = reference->parameters()[i];
      const at::Tensor expected = p.leaf.grad().flatten(), got = fast->parameters()[i].leaf.grad().flatten();
      EXPECT_GT(expected.abs().max().item<double>(), 0) << p.name;
      if (expected.norm().item<double>() < kNothing * greatest) continue;
      EXPECT_GT(at::cosine_similarity(expected, got, 0).item<double>(), 0.9999) << p.name;
      EXPECT_NEAR(got.norm().item<double>(), expected.norm().item<double>(), kNorms * expected.norm().item<double>()) << p.name;
    }
  }
}

TEST_P(FirstLastTest, FirstAndLastWeightsHaveTheStagesWidthAndTheLastActivationEightBits) {
  for (const int activation_bits : {2, 32}) {
    const auto network = Make(Config(2, activation_bits));
    for (const std::string& name : {std::string("conv1.weight"), LastWeight(*network)}) {
      const Parameter& p = Find(*network, name);
      ASSERT_NE(p.quantizer, nullptr) << name;
      EXPECT_EQ(p.quantizer->greatest_code(), 3) << name;
    }
    const std::vector<at::Tensor> seen = OutputsOf(*network, Images(network->config(), 4), true);
    const at::Tensor codes = seen[seen.size() - 2].to(at::kDouble) * 255, before = seen[seen.size() - 3].to(at::kDouble) * 3;
    EXPECT_LT((codes - codes.round()).abs().max().item<double>(), 1e-4);
    EXPECT_GT(std::get<0>(at::_unique(codes.round())).numel(), 4) << "more than two bits";
    EXPECT_EQ((before - before.round()).abs().max().item<double>() < 1e-4, activation_bits == 2);
  }
}

TEST_P(FirstLastTest, MeansNothingWhereWeightsAreNotQuantised) {
  for (const int activation_bits : {4, 32}) {
    NetworkConfig config = Config(32, activation_bits);
    const auto with = Make(config);
    config.quantize_first_last = false;
    const auto without = Make(config);
    EXPECT_EQ(with->parameters().back().name, without->parameters().back().name);
    const at::Tensor images = Images(config, 4);
    EXPECT_TRUE(with->Forward(images, false).equal(without->Forward(images, false)));
  }
}

TEST_P(FirstLastTest, TheScaleStartsAtAHundredthAndFromTrainedWeightsAtTheirRatio) {
  const auto network = Make(Config(2, 2));
  const Parameter& scale = Find(*network, "logit_scale");
  EXPECT_EQ(scale.scalar, Scalar::kLogitScale);
  EXPECT_EQ(scale.latent.item<float>(), 0.01F);
  network->StartLogitScale();
  const Parameter& last = Find(*network, LastWeight(*network));
  const at::Tensor w = last.latent.detach().to(at::kDouble), w_q = WeightCodes(*last.quantizer, last.latent.detach(), at::kFloat).to(at::kDouble) / 3;
  EXPECT_NEAR(scale.latent.item<double>(), (w * w_q).sum().item<double>() / (w_q * w_q).sum().item<double>(), 1e-8);
  // The least square distance of scale w_q to w.
  const auto distance = [&](double s) { return (w - s * w_q).square().sum().item<double>(); };
  const double at = scale.latent.item<double>();
  EXPECT_LT(distance(at), distance(at * 1.01));
  EXPECT_LT(distance(at), distance(at * 0.99));
  // No weights to compare with.
  last.latent.detach().zero_();
  network->QuantizeWeights();
  network->StartLogitScale();
  EXPECT_EQ(scale.latent.item<double>(), at);
}

TEST_P(FirstLastTest, StochasticPrecisionLeavesBothLayersQuantised) {
  const NetworkConfig config = Config(3, 3);
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const auto network = Make(config, numerics);
    for (const std::string& unit : network->units()) EXPECT_TRUE(unit != "conv1" && unit + ".weight" != LastWeight(*network)) << unit;
    network->set_rounded_units(std::vector<bool>(network->units().size(), false));
    network->QuantizeWeights();
    const std::vector<WeightLevels> levels = network->CountWeightLevels();
    ASSERT_EQ(levels.size(), 2U) << "of what is rounded";
    EXPECT_EQ(levels[0].layer, "conv1");
    EXPECT_EQ(levels[1].layer + ".weight", LastWeight(*network));
    const std::vector<at::Tensor> seen = OutputsOf(*network, Images(config, 4), true);
    const at::Tensor codes = seen[seen.size() - 2].to(at::kDouble) * 255, inner = seen[seen.size() - 3].to(at::kDouble) * 7;
    EXPECT_LT((codes - codes.round()).abs().max().item<double>(), 1e-4);
    EXPECT_GT((inner - inner.round()).abs().max().item<double>(), 1e-3);
  }
}

TEST_P(FirstLastTest, SixteenBitWeightsRunInBothNumerics) {
  const auto [images, reference, fast] = MakePair(Config(16, 8));
  const at::Tensor expected = reference->Forward(images, false), got = fast->Forward(images, false);
  EXPECT_LT((expected - got).abs().max().item<double>(), 0.05 * expected.abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(Networks, FirstLastTest,
                         testing::Values("alexnet", "alexnet_cifar", "convnet28", "preresnet20", "resnet18", "resnet20", "resnet20_b", "resnet50"),
                         [](const auto& info) { return info.param; });

class FirstLastOptionsTest : public FirstLastTest {};

// Under a gradient of 0 a weight that decays shrinks; the scale stays.
TEST_P(FirstLastOptionsTest, TheScaleDoesNotDecayAndStaysPositive) {
  const auto network = Make(Config(4, 4));
  Sgd sgd(network->parameters(), {.momentum = 0, .nesterov = false, .weight_decay = 0.5, .clip_weight_decay = 0.5});
  const Parameter& scale = Find(*network, "logit_scale");
  const Parameter& bias = Find(*network, "fc.bias");
  const double before = bias.latent.abs().sum().item<double>();
  const auto step = [&](double gradient) {
    for (const Parameter& p : network->parameters()) {
      at::Tensor leaf = p.leaf;
      leaf.mutable_grad() = at::zeros_like(leaf);
    }
    scale.leaf.grad().fill_(gradient);
    sgd.Step(0.1);
  };
  step(0);
  EXPECT_EQ(scale.latent.item<float>(), 0.01F);
  EXPECT_LT(bias.latent.abs().sum().item<double>(), before);
  step(1);
  EXPECT_EQ(scale.latent.item<float>(), 0.005F) << "one step at most halves it";
  step(-0.1);
  EXPECT_NEAR(scale.latent.item<double>(), 0.015, 1e-8);
}

TEST_P(FirstLastOptionsTest, WhatCannotBeIsRefusedByName) {
  const auto message = [](const NetworkConfig& config) {
    const absl::Status status = CreateNetwork(config).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  NetworkConfig config = Config(4, 4);
  config.pixels = {};
  EXPECT_EQ(message(config), "quantize_first_last needs the range of the pixels, not 0 to 0");
  config = Config(4, 4);
  config.quantize_last_activation = true;
  EXPECT_EQ(message(config), "quantize_first_last and quantize_last_activation exclude each other: the last activation has 8 bits");
  config = Config(4, 32);
  config.activation = ActivationFunction::kRelu;
  EXPECT_EQ(message(config), "quantize_first_last needs activations that clip");
  for (const char* name : {"conv1", "fc"}) {
    config = Config(4, 4);
    config.layer_widths = {{name, 8}};
    EXPECT_NE(message(config).find(std::string("layer_widths: \"") + name + "\" matches no quantised layer"), std::string::npos) << message(config);
  }
}

// A pattern or a learned range of the group that the last activation shares with others is not for it.
TEST_P(FirstLastOptionsTest, WidthsOfLayersLeaveTheLastActivationItsEightBits) {
  NetworkConfig config = Config(4, 4);
  config.layer_widths = {{"relu", 3}, {"layer2.*", 2}};
  const auto [images, reference, fast] = MakePair(config);
  const std::vector<at::Tensor> seen = OutputsOf(*reference, images, false);
  const at::Tensor codes = seen[seen.size() - 2].to(at::kDouble) * 255;
  EXPECT_LT((codes - codes.round()).abs().max().item<double>(), 1e-4);
  EXPECT_GT(std::get<0>(at::_unique(codes.round())).numel(), 8);
  ExpectEqualOutputs(OutputsOf(*fast, images, false), seen);
}

TEST_P(FirstLastOptionsTest, APixelThatIsNotANumberIsNamed) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const auto network = Make(Config(4, 4), numerics);
    at::Tensor images = Images(network->config(), 2);
    images[1][2][3][3] = std::numeric_limits<float>::quiet_NaN();
    try {
      network->Forward(images, false);
      FAIL() << "it was taken";
    } catch (const NotANumber& error) {
      EXPECT_STREQ(error.what(), "a pixel is not a number");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, FirstLastOptionsTest, testing::Values("resnet20"), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bitstair::core
