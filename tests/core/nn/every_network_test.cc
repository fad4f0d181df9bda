// What holds for every network that CreateNetwork knows.
#include <map>
#include <numeric>
#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/kernels/convolution.h"
#include "core/nn/batch_norm.h"
#include "core/nn/network_state.h"
#include "tests/core/nn/small_networks.h"

namespace bitstair::core {
namespace {

class EveryNetworkTest : public testing::TestWithParam<std::string> {
 protected:
  // The contract is about codes, so the floats of the first layer must not differ: with images and first weights of -1, 0 and 1 its sums are exact.
  void SetUp() override {
    SetFastFloat(at::kFloat);
    at::manual_seed(11);
  }
  void TearDown() override { SetFastFloat(at::kHalf); }

  static std::unique_ptr<Network> Make(NetworkConfig config, Numerics numerics) { return NetworkOf(std::move(config), numerics); }

  static at::Tensor Trits(at::IntArrayRef shape) { return at::randint(-1, 2, shape, at::kFloat); }
  static at::Tensor Images(const NetworkConfig& config, int64_t count) {
    return Trits({count, config.image_channels, config.image_height, config.image_width});
  }

  // Batch norms that are not the identity, and running statistics of these images.
  static void Settle(Network& network, const at::Tensor& images) {
    for (const Parameter& p : network.parameters()) {
      at::Tensor latent = p.latent.detach();
      if (p.quantizer == nullptr && latent.dim() == 4) {
        latent.copy_(Trits(latent.sizes()));
      } else if (p.batch_norm) {
        latent.copy_(p.name.ends_with("weight") ? at::rand_like(latent) * 0.4 + 0.2 : at::rand_like(latent) * 0.6 + 0.1);
      }
    }
    for (Buffer& b : network.buffers()) b.value.zero_();
    network.QuantizeWeights();
    const at::NoGradGuard no_grad;
    network.Forward(images, /*training=*/true);
    for (Buffer& b : network.buffers()) b.value.div_(BatchNorm::kMomentum);
  }

  // The learned scalars of lsq and pact, away from where they start: ranges above and below 1, different ones for each.
  static void Unsettle(Network& network) {
    int number = 0;
    for (const Parameter& p : network.parameters()) {
      if (p.scalar == Scalar::kNone) continue;
      at::Tensor value = p.latent.detach();
      value.mul_(0.6 + 0.13 * (number++ % 7));
    }
  }

  // One network in both numerics, with the same learned scalars, none of which is what it starts with.
  struct LearnedPair {
    at::Tensor images;
    std::unique_ptr<Network> reference, fast;
  };
  static LearnedPair MakeLearnedPair(const std::string& network, const char* quantizer, int weight_bits, int activation_bits) {
    NetworkConfig config = SmallNetwork(network, weight_bits, activation_bits);
    config.quantizer = quantizer;
    LearnedPair pair{Images(config, 4), Make(config, Numerics::kReference), Make(config, Numerics::kFast)};
    Unsettle(*pair.reference);
    Settle(*pair.reference, pair.images);
    EXPECT_TRUE(NetworkFromTensors(NetworkToTensors(*pair.reference), *pair.fast).ok());
    return pair;
  }

  // Values of every activation, planes first.
  static std::vector<at::Tensor> Activations(Network& network, const at::Tensor& images, bool training) {
    std::vector<at::Tensor> seen = OutputsOf(network, images, training);
    seen.pop_back();
    return seen;
  }
};

TEST_P(EveryNetworkTest, BothNumericsGiveTheSameCodesInEveryLayerAtEveryPairOfWidths) {
  for (int weight_bits = 1; weight_bits <= 8; ++weight_bits) {
    for (int activation_bits = 1; activation_bits <= 8; ++activation_bits) {
      SCOPED_TRACE("W" + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
      const NetworkConfig config = SmallNetwork(GetParam(), weight_bits, activation_bits);
      const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
      const at::Tensor images = Images(config, 2);
      Settle(*reference, images);
      ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
      ExpectEqualOutputs(Activations(*fast, images, false), Activations(*reference, images, false));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(EveryNetworkTest, BothNumericsGiveTheSameCodesWithLearnedQuantizers) {
  for (const char* quantizer : {"lsq", "pact"}) {
    for (const auto& [weight_bits, activation_bits] : {std::pair(2, 2), std::pair(3, 5), std::pair(4, 4), std::pair(7, 1), std::pair(8, 8)}) {
      for (const bool training : {false, true}) {
        if (training && GetParam().starts_with("preresnet")) continue;
        SCOPED_TRACE(std::string(quantizer) + " W" + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
        const auto [images, reference, fast] = MakeLearnedPair(GetParam(), quantizer, weight_bits, activation_bits);
        ExpectEqualOutputs(Activations(*fast, images, training), Activations(*reference, images, training));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(EveryNetworkTest, GradientsOfLearnedQuantizersAgree) {
  constexpr double kRelative = 2e-3;  // of float32 sums in another order, where what is added is of both signs
  for (const char* quantizer : {"lsq", "pact"}) {
    const auto [images, reference, fast] = MakeLearnedPair(GetParam(), quantizer, 4, 4);
    for (Network* network : {reference.get(), fast.get()}) at::cross_entropy_loss(network->Forward(images, true), at::arange(4)).backward();
    double greatest = 0;
    for (const Parameter& p : reference->parameters()) {
      if (p.scalar != Scalar::kNone && p.scalar != Scalar::kWeightStep) greatest = std::max(greatest, p.leaf.grad().abs().item<double>());
    }
    EXPECT_GT(greatest, 0) << quantizer;
    for (size_t i = 0; i < reference->parameters().size(); ++i) {
      const Parameter& p = reference->parameters()[i];
      if (p.scalar == Scalar::kWeightStep) continue;
      const at::Tensor expected = p.leaf.grad().flatten(), got = fast->parameters()[i].leaf.grad().flatten();
      if (p.scalar == Scalar::kNone) {
        EXPECT_GT(at::cosine_similarity(expected, got, 0).item<double>(), 0.9999) << quantizer << " " << p.name;
      } else {
        EXPECT_NEAR(got.item<double>(), expected.item<double>(), kRelative * greatest) << quantizer << " " << p.name;
      }
    }
  }
}

// Statistics of a batch of integer sums are exact too. The pre-activation networks' are those of floats, which are added in different orders.
TEST_P(EveryNetworkTest, EveryActivationHasARangeOfItsOwn) {
  for (const char* quantizer : {"lsq", "pact"}) {
    for (const bool last : {false, true}) {
      NetworkConfig config = SmallNetwork(GetParam(), 4, 4);
      config.quantizer = quantizer;
      config.quantize_last_activation = last;
      const auto network = Make(config, Numerics::kFast);
      const auto ranges = std::count_if(network->parameters().begin(), network->parameters().end(),
                                        [](const Parameter& p) { return p.scalar == Scalar::kStep || p.scalar == Scalar::kClip; });
      // A unit is what reads an activation; the last one is read by the last layer.
      EXPECT_EQ(ranges, static_cast<ptrdiff_t>(network->units().size() + (last ? 1 : 0))) << quantizer;
    }
  }
}

TEST_P(EveryNetworkTest, BothNumericsGiveTheSameCodesInTraining) {
  if (GetParam().starts_with("preresnet")) return;
  for (const auto& [weight_bits, activation_bits] : {std::pair(2, 2), std::pair(4, 4), std::pair(8, 8)}) {
    const NetworkConfig config = SmallNetwork(GetParam(), weight_bits, activation_bits);
    const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
    const at::Tensor images = Images(config, 4);
    Settle(*reference, images);
    ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
    ExpectEqualOutputs(Activations(*fast, images, true), Activations(*reference, images, true));
  }
}

// The last unit is not rounded: all codes before it are as ever, and what it gives are floats.
TEST_P(EveryNetworkTest, BothNumericsGiveTheSameCodesWhereAUnitIsNotRounded) {
  const NetworkConfig config = SmallNetwork(GetParam(), 4, 4);
  const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
  const at::Tensor images = Images(config, 2);
  Settle(*reference, images);
  ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
  std::vector<bool> rounded(reference->units().size(), true);
  rounded.back() = false;
  std::vector<std::vector<at::Tensor>> seen;
  for (Network* network : {fast.get(), reference.get()}) {
    network->set_rounded_units(rounded);
    network->QuantizeWeights();
    seen.push_back(Activations(*network, images, false));
  }
  ASSERT_EQ(seen[0].size(), rounded.size() + 1);
  for (size_t i = 0; i < seen[0].size(); ++i) {
    const at::Tensor theirs = seen[1][i].reshape(seen[0][i].sizes());
    if (i + 1 < rounded.size()) {
      ASSERT_TRUE(at::equal(seen[0][i], theirs)) << "activation " << i;
    } else {
      EXPECT_TRUE(at::allclose(seen[0][i], theirs, 1e-4, 1e-5)) << "activation " << i;
    }
  }
  const at::Tensor steps = seen[1][rounded.size() - 1] * 15;
  EXPECT_GT((steps - steps.round()).abs().max().item<double>(), 1e-3) << "the unit is rounded";
}

TEST_P(EveryNetworkTest, ClipsAreCountedAlikeInBothNumerics) {
  if (GetParam().starts_with("preresnet")) return;  // statistics of floats, as above
  const NetworkConfig config = SmallNetwork(GetParam(), 4, 4);
  const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
  const at::Tensor images = Images(config, 4);
  Settle(*reference, images);
  ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
  const size_t groups = reference->activation_groups().size();
  std::vector<ClipCount> counts[2] = {std::vector<ClipCount>(groups), std::vector<ClipCount>(groups)};
  std::vector<int64_t> inputs(groups), inside(groups);
  reference->set_activation_observer([&](size_t group, const at::Tensor& values) {
    inputs[group] += values.numel();
    inside[group] += values.detach().gt(0).logical_and_(values.detach().lt(1)).sum().item<int64_t>();
  });
  for (const auto& [network, into] : {std::pair(reference.get(), &counts[0]), std::pair(fast.get(), &counts[1])}) {
    network->set_clip_counts(into);
    network->Forward(images, /*training=*/true);
    network->set_clip_counts(nullptr);
    network->Forward(images, /*training=*/true);
    network->set_clip_counts(into);
    network->Forward(images, /*training=*/false);
  }
  for (size_t g = 0; g < groups; ++g) {
    EXPECT_EQ(3 * counts[0][g].inputs, inputs[g]) << reference->activation_groups()[g].name;
    EXPECT_EQ(counts[0][g].inputs, counts[1][g].inputs);
    EXPECT_EQ(counts[0][g].passed, counts[1][g].passed) << reference->activation_groups()[g].name;
    EXPECT_LT(counts[0][g].passed, counts[0][g].inputs) << "nothing is clipped";
    EXPECT_GT(inside[g], 0);
  }
}

TEST_P(EveryNetworkTest, LevelsOfWeightsAddUpAndAreThoseOfTheWidth) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const auto network = Make(SmallNetwork(GetParam(), 2, 4), numerics);
    network->QuantizeWeights();
    std::map<std::string, int64_t> sizes;
    for (const Parameter& p : network->parameters()) {
      if (p.quantizer != nullptr) sizes[p.name] = p.latent.numel();
    }
    const std::vector<WeightLevels> all = network->CountWeightLevels();
    ASSERT_EQ(all.size(), sizes.size());
    for (const WeightLevels& levels : all) {
      int64_t sum = 0;
      for (const auto& [code, count] : levels.counts) {
        EXPECT_TRUE(std::abs(code) == 1 || std::abs(code) == 3) << code;
        sum += count;
      }
      EXPECT_EQ(sum, sizes.at(levels.layer + ".weight")) << levels.layer;
    }
  }
  EXPECT_TRUE(Make(SmallNetwork(GetParam(), 16, 4), Numerics::kReference)->CountWeightLevels().empty());
  EXPECT_TRUE(Make(SmallNetwork(GetParam(), 32, 32), Numerics::kReference)->CountWeightLevels().empty());
}

TEST_P(EveryNetworkTest, EveryLeafGetsAGradientInBothNumerics) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast, Numerics::kFast8}) {
    for (const int bits : {3, 32}) {
      const NetworkConfig config = SmallNetwork(GetParam(), bits, bits);
      const auto network = Make(config, numerics);
      const at::Tensor images = Images(config, 4);
      network->set_position({});
      at::cross_entropy_loss(network->Forward(images, /*training=*/true), at::arange(4)).backward();
      for (const Parameter& p : network->parameters()) {
        ASSERT_TRUE(p.leaf.grad().defined()) << p.name;
        EXPECT_TRUE(p.leaf.grad().isfinite().all().item<bool>()) << p.name;
      }
    }
  }
}

TEST_P(EveryNetworkTest, GroupsNameEachBatchNormOnceAndParametersThatExist) {
  const auto network = Make(SmallNetwork(GetParam(), 4, 4), Numerics::kReference);
  std::set<std::string> names;
  std::map<std::string, int> norms;
  for (const Parameter& p : network->parameters()) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    if (p.batch_norm && p.name.ends_with(".weight")) norms[p.name.substr(0, p.name.size() - 7)] = 0;
  }
  for (const ActivationGroup& group : network->activation_groups()) {
    EXPECT_FALSE(group.batch_norms.empty()) << group.name;
    for (const std::string& norm : group.batch_norms) {
      ASSERT_TRUE(norms.contains(norm)) << norm;
      ++norms[norm];
    }
    for (const std::string& name : group.restored_by) EXPECT_TRUE(names.contains(name)) << name;
  }
  for (const auto& [norm, count] : norms) EXPECT_EQ(count, 1) << norm;
  EXPECT_GE(network->hint_points().size(), 3U);
  std::set<std::string> hint_points;
  for (const HintPoint& point : network->hint_points()) EXPECT_TRUE(hint_points.insert(point.name).second) << point.name;
}

TEST_P(EveryNetworkTest, EveryHintPointIsShownOnceAndInOrder) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const auto network = Make(SmallNetwork(GetParam(), 4, 4), numerics);
    std::vector<size_t> shown;
    network->set_hint_observer([&](size_t point, const Features&) { shown.push_back(point); });
    network->Forward(Images(network->config(), 2), false);
    std::vector<size_t> all(network->hint_points().size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(shown, all);
  }
}

TEST_P(EveryNetworkTest, ImagesThatAreTooSmallAreRefused) {
  NetworkConfig config = SmallNetwork(GetParam(), 4, 4);
  config.image_height = config.image_width = LeastSide(GetParam());
  const auto network = Make(config, Numerics::kFast);
  EXPECT_EQ(network->Forward(Images(config, 3), false).sizes(), (std::vector<int64_t>{3, 10}));
  config.image_width = LeastSide(GetParam()) - 1;
  const absl::Status status = CreateNetwork(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find(GetParam()), std::string::npos) << status;
  EXPECT_NE(status.message().find(std::to_string(LeastSide(GetParam()))), std::string::npos) << status;
}

INSTANTIATE_TEST_SUITE_P(Networks, EveryNetworkTest, testing::ValuesIn(NetworkNames()), [](const auto& info) { return info.param; });

struct Option {
  const char* name;
  void (*set)(NetworkConfig& config);
};

constexpr Option kOptions[] = {
    {"float_shortcuts", [](NetworkConfig& c) { c.shortcut_values = ShortcutValues::kFloat; }},
    {"float_shortcuts_lsq",
     [](NetworkConfig& c) {
       c.shortcut_values = ShortcutValues::kFloat;
       c.quantizer = "lsq";
     }},
    {"float_shortcuts_pact",
     [](NetworkConfig& c) {
       c.shortcut_values = ShortcutValues::kFloat;
       c.quantizer = "pact";
     }},
    {"shortcut_conv_8_bits", [](NetworkConfig& c) { c.shortcut_conv_bits = 8; }},
    {"shortcut_conv_full_precision", [](NetworkConfig& c) { c.shortcut_conv_bits = 32; }},
    {"weights_by_std", [](NetworkConfig& c) { c.weight_norm = WeightNorm::kStd; }},
    {"widths_of_layers",
     [](NetworkConfig& c) {
       c.layer_widths = {{"*conv2", 8}, {"layer1.0.conv2", 32}, {"*relu*", 3}, {"relu", 5}, {"layer2.0.relu1", 32}};
     }},
    {"all",
     [](NetworkConfig& c) {
       c.shortcut_values = ShortcutValues::kFloat;
       c.shortcut_conv_bits = 32;
       c.weight_norm = WeightNorm::kStd;
       c.layer_widths = {{"layer1.*", 8}, {"*.conv1", 2}};
     }},
};

class OptionTest : public EveryNetworkTest {};

TEST_P(OptionTest, BothNumericsGiveTheSameCodes) {
  for (const Option& option : kOptions) {
    for (const auto& [weight_bits, activation_bits] : {std::pair(2, 2), std::pair(4, 4), std::pair(8, 8), std::pair(3, 6)}) {
      SCOPED_TRACE(option.name + std::string(" W") + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
      NetworkConfig config = SmallNetwork(GetParam(), weight_bits, activation_bits);
      option.set(config);
      const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
      const at::Tensor images = Images(config, 2);
      Settle(*reference, images);
      ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
      ExpectEqualOutputs(Activations(*fast, images, false), Activations(*reference, images, false));
      if (HasFatalFailure()) return;
    }
  }
}

// Where the codes of a training step are equal, so are the gradients but for rounding.
TEST_P(OptionTest, GradientsAgree) {
  constexpr double kCosine = 0.9999;
  for (const Option& option : kOptions) {
    NetworkConfig config = SmallNetwork(GetParam(), 4, 4);
    option.set(config);
    const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
    const at::Tensor images = Images(config, 4);
    Settle(*reference, images);
    ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
    for (Network* network : {reference.get(), fast.get()}) at::cross_entropy_loss(network->Forward(images, true), at::arange(4)).backward();
    // Of learned ranges all together: one number has no direction.
    std::vector<at::Tensor> expected_ranges, ranges;
    const auto compare = [&](const at::Tensor& expected, const at::Tensor& got, const std::string& name) {
      EXPECT_GT(at::cosine_similarity(expected, got, 0).item<double>(), kCosine) << option.name << " " << name;
    };
    for (size_t i = 0; i < reference->parameters().size(); ++i) {
      const Parameter& p = reference->parameters()[i];
      if (p.scalar == Scalar::kWeightStep) continue;
      const at::Tensor expected = p.leaf.grad().flatten(), got = fast->parameters()[i].leaf.grad().flatten();
      if (p.scalar == Scalar::kNone) {
        compare(expected, got, p.name);
      } else {
        expected_ranges.push_back(expected);
        ranges.push_back(got);
      }
    }
    if (!ranges.empty()) compare(at::cat(expected_ranges), at::cat(ranges), "ranges");
  }
}

// From equal latent weights an option must change what the network computes, or it has not arrived.
TEST_P(OptionTest, EachChangesTheResult) {
  for (const Option& option : kOptions) {
    const bool of_convolutions = std::string(option.name).starts_with("shortcut_conv");
    if (of_convolutions && GetParam() == "resnet20") continue;
    NetworkConfig config = SmallNetwork(GetParam(), 4, 4), without = config;
    option.set(config);
    without.quantizer = config.quantizer;
    const auto plain = Make(without, Numerics::kReference);
    const auto network = Make(config, Numerics::kReference);
    const at::Tensor images = Images(config, 2);
    Settle(*plain, images);
    ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*plain), *network).ok());
    EXPECT_FALSE(network->Forward(images, false).equal(plain->Forward(images, false))) << option.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, OptionTest, testing::Values("resnet20", "resnet20_b", "resnet18", "resnet50"), [](const auto& info) { return info.param; });

// At their own sizes: the bounds of sums are those of real layers. alexnet's fc1 has 9216 taps.
class WholeNetworkTest : public EveryNetworkTest {};

TEST_P(WholeNetworkTest, BothNumericsGiveTheSameCodes) {
  NetworkConfig config = SmallNetwork(GetParam(), 8, 8);
  config.channel_divisor = 1;
  if (GetParam() == "alexnet") config.image_height = config.image_width = 224;
  const auto reference = Make(config, Numerics::kReference), fast = Make(config, Numerics::kFast);
  const at::Tensor images = Images(config, 2);
  Settle(*reference, images);
  ASSERT_TRUE(NetworkFromTensors(NetworkToTensors(*reference), *fast).ok());
  ExpectEqualOutputs(Activations(*fast, images, false), Activations(*reference, images, false));
}

INSTANTIATE_TEST_SUITE_P(Networks, WholeNetworkTest,
                         testing::Values("alexnet", "alexnet_cifar", "preresnet20", "resnet20", "resnet20_b", "resnet18", "resnet50"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bitstair::core
