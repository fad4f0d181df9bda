#include "core/nn/network.h"

#include <map>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/kernels/quant_math.h"
#include "core/nn/layered_network.h"
#include "core/nn/network_state.h"
#include "core/quant/quantizer.h"
#include "core/quant/weight_pass.h"

namespace bitstair::core {
namespace {

NetworkConfig ResNet20(int weight_bits, int activation_bits) {
  NetworkConfig config;
  config.network = "resnet20";
  config.image_channels = 3;
  config.image_height = config.image_width = 12;
  config.classes = 10;
  config.weight_bits = weight_bits;
  config.activation_bits = activation_bits;
  return config;
}

NetworkConfig ConvNet28(int weight_bits, int activation_bits) {
  NetworkConfig config = ResNet20(weight_bits, activation_bits);
  config.network = "convnet28";
  config.image_channels = 1;
  config.image_height = config.image_width = 28;
  return config;
}

std::unique_ptr<Network> Make(const NetworkConfig& config) {
  absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
  EXPECT_TRUE(network.ok()) << network.status();
  return *std::move(network);
}

at::Tensor Images(const NetworkConfig& config, int64_t count) {
  return at::randn({count, config.image_channels, config.image_height, config.image_width}, config.dtype);
}

TEST(NetworkTest, ResNet20HasTorchvisionsNamesAndThePapersSize) {
  const auto network = Make(ResNet20(32, 32));
  std::map<std::string, at::Tensor> tensors = NetworkToTensors(*network);
  EXPECT_EQ(tensors.at("conv1.weight").sizes(), (std::vector<int64_t>{16, 3, 3, 3}));
  EXPECT_EQ(tensors.at("layer2.0.conv1.weight").sizes(), (std::vector<int64_t>{32, 16, 3, 3}));
  EXPECT_EQ(tensors.at("layer3.2.bn2.running_var").sizes(), (std::vector<int64_t>{64}));
  EXPECT_EQ(tensors.at("fc.bias").sizes(), (std::vector<int64_t>{10}));
  int64_t learned = 0;
  for (const Parameter& p : network->parameters()) learned += p.latent.numel();
  EXPECT_EQ(learned, 269722);  // 0.27 M in table 6 of arXiv 1512.03385
  EXPECT_EQ(network->parameters()[0].name, "conv1.weight");
  EXPECT_EQ(network->parameters().back().name, "fc.bias");
}

TEST(NetworkTest, FirstAndLastLayersStayFullPrecision) {
  for (const NetworkConfig& config : {ResNet20(2, 2), ConvNet28(2, 2)}) {
    const auto network = Make(config);
    std::set<std::string> full;
    for (const Parameter& p : network->parameters()) {
      if (p.quantizer == nullptr) {
        EXPECT_TRUE(p.leaf.is_same(p.latent));
        if (!p.batch_norm) full.insert(p.name);
      } else {
        EXPECT_FALSE(p.leaf.is_same(p.latent));
        EXPECT_FALSE(p.latent.requires_grad());
      }
      EXPECT_TRUE(p.leaf.requires_grad() && p.leaf.is_leaf()) << p.name;
    }
    const std::string last = config.network == "resnet20" ? "fc" : "fc2";
    EXPECT_EQ(full, (std::set<std::string>{"conv1.weight", last + ".weight", last + ".bias"}));
  }
}

TEST(NetworkTest, QuantizedLayersHoldAtMostTwoToTheKIntegers) {
  for (int bits : {1, 2, 4}) {
    for (const NetworkConfig& config : {ResNet20(bits, bits), ConvNet28(bits, bits)}) {
      const auto network = Make(config);
      const auto n = static_cast<double>(GreatestCode(bits));
      int quantized_weights = 0;
      for (const Parameter& p : network->parameters()) {
        if (p.quantizer == nullptr) continue;
        ++quantized_weights;
        const at::Tensor integers = WeightCodes(*p.quantizer, p.latent.detach(), config.dtype);
        EXPECT_TRUE(integers.equal(integers.round())) << p.name;
        EXPECT_LE(integers.abs().max().item<double>(), n) << p.name;
        EXPECT_LE(std::get<0>(at::_unique(integers)).numel(), int64_t{1} << bits) << p.name;
      }
      EXPECT_EQ(quantized_weights, config.network == "resnet20" ? 18 : 3);

      std::vector<at::Tensor> seen;
      network->set_activation_observer([&](size_t, const at::Tensor& values) { seen.push_back(values.detach().to(at::kDouble) * n); });
      network->Forward(Images(config, 4), /*training=*/true);
      ASSERT_EQ(seen.size(), config.network == "resnet20" ? 19u : 4u);
      for (size_t i = 0; i + 1 < seen.size(); ++i) {
        EXPECT_LT((seen[i] - seen[i].round()).abs().max().item<double>(), 1e-5);
        const int64_t distinct = std::get<0>(at::_unique(seen[i].round())).numel();
        EXPECT_LE(distinct, int64_t{1} << bits);
        EXPECT_GT(distinct, 1);
      }
      // What feeds the full-precision layer is a clip without rounding.
      EXPECT_GT(std::get<0>(at::_unique(seen.back())).numel(), int64_t{1} << bits);
    }
  }
}

TEST(NetworkTest, QuantizeLastActivationRoundsItToo) {
  NetworkConfig config = ConvNet28(2, 2);
  config.quantize_last_activation = true;
  const auto network = Make(config);
  at::Tensor last;
  network->set_activation_observer([&](size_t, const at::Tensor& values) { last = values.detach(); });
  network->Forward(Images(config, 8), /*training=*/true);
  EXPECT_LE(std::get<0>(at::_unique(last)).numel(), 4);
}

TEST(NetworkTest, EveryLeafGetsAGradientAndKeepsItsIdentity) {
  for (const NetworkConfig& config :
       {ResNet20(4, 4), ResNet20(8, 32), ResNet20(8, 8), ConvNet28(4, 4), ConvNet28(32, 32), ConvNet28(8, 8), ConvNet28(16, 16)}) {
    const auto network = Make(config);
    std::vector<const void*> leaves;
    for (const Parameter& p : network->parameters()) leaves.push_back(p.leaf.unsafeGetTensorImpl());
    const auto data = network->parameters()[3].leaf.data_ptr();
    network->QuantizeWeights();
    const at::Tensor logits = network->Forward(Images(config, 4), /*training=*/true);
    at::cross_entropy_loss(logits, at::arange(4)).backward();
    for (size_t i = 0; i < leaves.size(); ++i) {
      const Parameter& p = network->parameters()[i];
      EXPECT_EQ(p.leaf.unsafeGetTensorImpl(), leaves[i]);
      ASSERT_TRUE(p.leaf.grad().defined()) << p.name;
      EXPECT_EQ(p.leaf.grad().scalar_type(), config.dtype);
      EXPECT_TRUE(p.leaf.grad().isfinite().all().item<bool>()) << p.name;
    }
    EXPECT_EQ(network->parameters()[3].leaf.data_ptr(), data);
  }
}

// What the patterns say of each layer's width: weights by their greatest code, activations by their number of values.
TEST(NetworkTest, TheLongestPatternGivesALayerItsWidth) {
  NetworkConfig config = ResNet20(2, 2);
  config.layer_widths = {{"layer1.*", 3}, {"layer1.0.conv*", 5}, {"layer3.2.conv1", 32}, {"*.2.relu1", 1}};
  const auto network = Make(config);
  for (const Parameter& p : network->parameters()) {
    if (p.latent.dim() != 4 || p.name == "conv1.weight") continue;
    if (p.name == "layer3.2.conv1.weight") {
      EXPECT_EQ(p.quantizer, nullptr);
      continue;
    }
    const int bits = p.name.starts_with("layer1.0.conv") ? 5 : p.name.starts_with("layer1.") ? 3 : 2;
    ASSERT_NE(p.quantizer, nullptr) << p.name;
    EXPECT_EQ(p.quantizer->greatest_code(), GreatestCode(bits)) << p.name;
  }
  const std::vector<ActivationGroup>& groups = network->activation_groups();
  network->set_activation_observer([&](size_t group, const at::Tensor& values) {
    const std::string& name = groups[group].name;
    const int bits = name.ends_with(".2.relu1") ? 1 : name.starts_with("layer1.") ? 3 : 2;  // "*.2.relu1" is the longer one for layer1.2.relu1
    const at::Tensor codes = values.detach().to(at::kDouble) * static_cast<double>(GreatestCode(bits));
    if (values.size(1) == 64 && name == "relu") return;  // the last one is a clip without rounding
    EXPECT_LT((codes - codes.round()).abs().max().item<double>(), 1e-5) << name;
  });
  network->Forward(Images(config, 4), /*training=*/true);
}

TEST(NetworkTest, PatternsMeanNothingWhereNothingIsQuantised) {
  NetworkConfig config = ConvNet28(32, 32);
  config.layer_widths = {{"*", 4}};
  config.weight_norm = WeightNorm::kStd;
  config.shortcut_conv_bits = 8;
  const auto full = Make(config);
  for (const Parameter& p : full->parameters()) EXPECT_EQ(p.quantizer, nullptr) << p.name;
  config = ConvNet28(8, 32);
  config.layer_widths = {{"relu1", 4}};
  const auto network = Make(config);
  network->set_activation_observer([](size_t, const at::Tensor& values) { EXPECT_GT(std::get<0>(at::_unique(values.detach())).numel(), 16); });
  network->Forward(Images(config, 2), /*training=*/true);
}

TEST(NetworkTest, BadOptionsAreNamed) {
  const auto message = [](const NetworkConfig& config) {
    const absl::Status status = CreateNetwork(config).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  NetworkConfig config = ConvNet28(4, 4);
  config.layer_widths = {{"conv2", 4}, {"layer1.*", 8}};
  EXPECT_NE(message(config).find("\"layer1.*\" matches no quantised layer or activation of network convnet28: conv2, conv3, fc1, relu1"), std::string::npos)
      << message(config);
  for (const char* full_precision : {"conv1", "fc2"}) {
    config.layer_widths = {{full_precision, 4}};
    EXPECT_NE(message(config).find(full_precision), std::string::npos);
  }
  config.layer_widths = {{"conv2", 9}};
  EXPECT_NE(message(config).find("\"conv2\" is 9"), std::string::npos);
  config.layer_widths = {};
  config.shortcut_conv_bits = 4;
  EXPECT_NE(message(config).find("shortcut_conv_bits 4"), std::string::npos);
  config.shortcut_conv_bits = 0;
  config.channel_divisor = 3;
  EXPECT_NE(message(config).find("channel_divisor 3"), std::string::npos);
}

TEST(PatternTest, AStarStandsForAnyCharacters) {
  for (const auto& [pattern, name] : {std::pair("*", ""), std::pair("*", "conv1"), std::pair("layer1.*", "layer1.0.conv1"), std::pair("*conv1", "conv1"),
                                      std::pair("l*.0.*1", "layer1.0.conv1"), std::pair("conv1", "conv1"), std::pair("*1*1*", "layer1.0.conv1")}) {
    EXPECT_TRUE(MatchesPattern(pattern, name)) << pattern << " " << name;
  }
  for (const auto& [pattern, name] : {std::pair("", "conv1"), std::pair("conv", "conv1"), std::pair("conv12", "conv1"), std::pair("*2", "conv1"),
                                      std::pair("layer1.*", "layer2.0.conv1"), std::pair("*1*2*1", "layer1.0.conv1")}) {
    EXPECT_FALSE(MatchesPattern(pattern, name)) << pattern << " " << name;
  }
}

TEST(NetworkTest, InitialWeightsDependOnTheSeedAlone) {
  NetworkConfig config = ResNet20(4, 4);
  const auto a = NetworkToTensors(*Make(config)), b = NetworkToTensors(*Make(config));
  config.seed = 2;
  const auto c = NetworkToTensors(*Make(config));
  config.weight_bits = 32;
  const auto full = NetworkToTensors(*Make(config));
  for (const auto& [name, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
  for (const auto& [name, tensor] : c) EXPECT_TRUE(at::equal(tensor, full.at(name))) << name;
  EXPECT_FALSE(at::equal(a.at("conv1.weight"), c.at("conv1.weight")));
  // Kaiming, fan_out: standard deviation sqrt(2 / (64 * 9)); 36,864 draws, so 5 % is beyond 13 standard errors.
  const at::Tensor w = a.at("layer3.1.conv1.weight");
  EXPECT_NEAR(w.std().item<double>(), std::sqrt(2.0 / 576), 0.05 * std::sqrt(2.0 / 576));
  EXPECT_NEAR(w.mean().item<double>(), 0, 0.05 * std::sqrt(2.0 / 576));
  EXPECT_LE(a.at("fc.weight").abs().max().item<double>(), 1 / std::sqrt(64.0));
}

TEST(NetworkTest, EvaluationChangesNoStateAndBuildsNoGraph) {
  const NetworkConfig config = ConvNet28(4, 4);
  const auto network = Make(config);
  const auto before = NetworkToTensors(*network);
  const at::Tensor logits = network->Forward(Images(config, 3), /*training=*/false);
  EXPECT_FALSE(logits.requires_grad());
  for (const auto& [name, tensor] : NetworkToTensors(*network)) EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

TEST(NetworkTest, BadConfigurationsAreNamed) {
  const auto message = [](NetworkConfig config) {
    const absl::Status status = CreateNetwork(config).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  NetworkConfig config = ConvNet28(4, 4);
  config.image_width = 32;
  EXPECT_NE(message(config).find("28x28"), std::string::npos);
  EXPECT_NE(message(ConvNet28(9, 4)).find("weight_bits 9"), std::string::npos);
  EXPECT_NE(message(ConvNet28(4, 0)).find("activation_bits 0"), std::string::npos);
  config = ConvNet28(4, 4);
  config.network = "resnet21";
  EXPECT_NE(message(config).find("resnet20"), std::string::npos);
  config.network = "convnet28";
  config.quantizer = "x";
  EXPECT_NE(message(config).find("dorefa"), std::string::npos);
  config.quantizer = "dorefa";
  config.classes = 0;
  message(config);
}

TEST(NetworkStateTest, StatesMoveBetweenWidths) {
  const auto from = Make(ConvNet28(32, 32));
  const auto to = Make([] {
    NetworkConfig config = ConvNet28(4, 4);
    config.seed = 9;
    return config;
  }());
  const auto state = NetworkToTensors(*from);
  ASSERT_TRUE(NetworkFromTensors(state, *to).ok());
  for (const auto& [name, tensor] : NetworkToTensors(*to)) EXPECT_TRUE(at::equal(tensor, state.at(name))) << name;
  // Quantised anew already.
  const at::Tensor images = at::randn({2, 1, 28, 28}), logits = to->Forward(images, false);
  to->QuantizeWeights();
  EXPECT_TRUE(at::equal(to->Forward(images, false), logits));
}

TEST(NetworkStateTest, NamesWhatDoesNotFitAndChangesNothing) {
  const auto network = Make(ConvNet28(4, 4));
  const auto before = NetworkToTensors(*network);
  auto state = before;
  for (auto& [name, tensor] : state) tensor = tensor + 1;
  state.erase("bn2.weight");
  state["stray"] = at::zeros({1});
  state["fc2.bias"] = at::zeros({11});
  const std::string message(NetworkFromTensors(state, *network).message());
  EXPECT_NE(message.find("bn2.weight is missing"), std::string::npos) << message;
  EXPECT_NE(message.find("stray is unknown"), std::string::npos) << message;
  EXPECT_NE(message.find("fc2.bias has shape [11] instead of [10]"), std::string::npos) << message;
  for (const auto& [name, tensor] : NetworkToTensors(*network)) EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

}  // namespace
}  // namespace bitstair::core
