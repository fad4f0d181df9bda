#include "core/nn/resnet.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/nn/layered_network.h"

namespace bitstair::core {
namespace {

enum class Blocks { kBasic, kBottleneck };
enum class Shortcuts { kPadded, kConvolution };  // options A and B

struct Plan {
  const char* name;
  std::vector<int> blocks;  // of each group
  Blocks kind = Blocks::kBasic;
  Shortcuts shortcuts = Shortcuts::kConvolution;

  bool imagenet() const { return blocks.size() == 4; }
  int64_t expansion() const { return kind == Blocks::kBottleneck ? 4 : 1; }  // channels that leave a block over channels inside it
};

const std::vector<Plan>& Plans() {
  static const auto* plans = new std::vector<Plan>{
      {"resnet20", {3, 3, 3}, Blocks::kBasic, Shortcuts::kPadded},
      {"resnet32", {5, 5, 5}, Blocks::kBasic, Shortcuts::kPadded},
      {"resnet44", {7, 7, 7}, Blocks::kBasic, Shortcuts::kPadded},
      {"resnet56", {9, 9, 9}, Blocks::kBasic, Shortcuts::kPadded},
      {"resnet110", {18, 18, 18}, Blocks::kBasic, Shortcuts::kPadded},
      {"resnet20_b", {3, 3, 3}},
      {"resnet32_b", {5, 5, 5}},
      {"resnet44_b", {7, 7, 7}},
      {"resnet56_b", {9, 9, 9}},
      {"resnet110_b", {18, 18, 18}},
      {"resnet18", {2, 2, 2, 2}},
      {"resnet34", {3, 4, 6, 3}},
      {"resnet50", {3, 4, 6, 3}, Blocks::kBottleneck},
      {"resnet101", {3, 4, 23, 3}, Blocks::kBottleneck},
  };
  return *plans;
}

class ResNet final : public LayeredNetwork {
 public:
  ResNet(const NetworkConfig& config, const QuantizerFamily& family, const Plan& plan)
      : LayeredNetwork(config, family),
        imagenet_(plan.imagenet()),
        channels_((imagenet_ ? 64 : 16) / config.channel_divisor),
        conv1_(imagenet_ ? MakeFirstConv2d("conv1", channels_, 7, 2, 3) : MakeFirstConv2d("conv1", channels_, 3, 1, 1)),
        bn1_(MakeBatchNorm("bn1", channels_)),
        groups_(MakeGroups(plan)),
        fc_(MakeLastLayer("fc", groups_.back().back().out_channels)),
        activation_(MakeActivation(false)),
        last_activation_(MakeActivation(true)) {
    // Identity and padded shortcuts join activations to one calibrated range; a convolution shortcut begins a new one.
    stem_ = AddGroup("relu");
    AddActivation(stem_, "relu");
    JoinGroup(stem_, "bn1");
    size_t stream = stem_;
    for (size_t g = 0; g < groups_.size(); ++g) {
      const std::string name = absl::StrCat("layer", g + 1);
      for (Block& block : groups_[g]) {
        if (block.shortcut) {
          stream = AddGroup(name);
          JoinGroup(stream, block.name + ".downsample.1");
        }
        block.stream = stream;
        block.hint_point = AddBlockHintPoint(block.name, &block == &groups_[g].back(), g + 2 >= groups_.size());
        for (size_t i = 0; i < block.layers.size(); ++i) {
          const std::string name_of_activation = absl::StrCat(block.name, ".relu", i + 1);
          const bool inner = i + 1 < block.layers.size();
          const size_t group = inner ? AddGroup(name_of_activation) : stream;
          block.layers[i].group = group;
          JoinGroup(group, absl::StrCat(block.name, ".bn", i + 1));
          AddActivation(group, name_of_activation, !inner && &block == &groups_.back().back());
        }
      }
    }
    RestoredBy(stream, "fc.weight");
  }

 protected:
  at::Tensor Logits(const Features& images, bool training) override {
    Features shortcut;
    Features x = Normalize(bn1_, activation_, stem_, conv1_.Forward(images), nullptr, training, &shortcut);
    if (imagenet_) {
      const bool apart = shortcut.fast != x.fast || !shortcut.tensor.is_same(x.tensor);
      x = MaxPool2d(x, 3, 2, 1);
      shortcut = apart ? MaxPool2d(shortcut, 3, 2, 1) : x;
    }
    for (std::vector<Block>& group : groups_) {
      for (Block& block : group) {
        x = Forward(block, x, &block == &groups_.back().back() ? last_activation_ : activation_, training, shortcut);
        ShowHint(block.hint_point, x);
      }
    }
    return fc_.Forward(x);
  }

 private:
  struct Layer {
    QuantizedConv2d conv;
    BatchNorm norm;
    size_t group = 0;  // of the activation behind it
  };
  struct Block {
    std::string name;  // "layer1.0"
    int64_t in_channels, out_channels, stride;
    std::vector<Layer> layers;  // two or three
    std::optional<Layer> shortcut;
    size_t stream = 0;  // group of its output
    size_t hint_point = 0;
  };

  // shortcut: x as shortcuts carry it; becomes the output's.
  Features Forward(Block& block, const Features& x, const Activation& activation, bool training, Features& shortcut) {
    Features inner = x;
    for (size_t i = 0; i + 1 < block.layers.size(); ++i) {
      Layer& layer = block.layers[i];
      inner = Normalize(layer.norm, activation_, layer.group, layer.conv.Forward(inner), nullptr, training);
    }
    Layer& last = block.layers.back();
    const Sums sums = last.conv.Forward(inner);
    if (block.shortcut) {
      return NormalizeSum(last.norm, activation, block.stream, sums, block.shortcut->norm, block.shortcut->conv.Forward(x), training, &shortcut);
    }
    const bool same_shape = block.stride == 1 && block.in_channels == block.out_channels;
    const Features carried = same_shape ? shortcut : PaddedShortcut(shortcut, block.out_channels, block.stride);
    return Normalize(last.norm, activation, block.stream, sums, &carried, training, &shortcut);
  }

  std::vector<std::vector<Block>> MakeGroups(const Plan& plan) {
    std::vector<std::vector<Block>> groups;
    int64_t in = channels_, width = channels_;
    for (size_t g = 0; g < plan.blocks.size(); ++g, width *= 2) {
      groups.emplace_back();
      for (int i = 0; i < plan.blocks[g]; ++i) {
        groups.back().push_back(MakeBlock(plan, absl::StrCat("layer", g + 1, ".", i), in, width, g > 0 && i == 0 ? 2 : 1));
        in = groups.back().back().out_channels;
      }
    }
    return groups;
  }

  // In torchvision's order: each convolution with its batch norm, then the shortcut.
  Block MakeBlock(const Plan& plan, const std::string& name, int64_t in, int64_t width, int64_t stride) {
    Block block{name, in, width * plan.expansion(), stride, {}, std::nullopt};
    const auto add = [&](int64_t from, int64_t to, int64_t kernel, int64_t step) {
      const size_t number = block.layers.size() + 1;
      block.layers.push_back(
          {MakeConv2d(absl::StrCat(name, ".conv", number), from, to, kernel, step, kernel / 2), MakeBatchNorm(absl::StrCat(name, ".bn", number), to)});
    };
    if (plan.kind == Blocks::kBasic) {
      add(in, width, 3, stride);
      add(width, width, 3, 1);
    } else {
      add(in, width, 1, 1);
      add(width, width, 3, stride);
      add(width, block.out_channels, 1, 1);
    }
    if (plan.shortcuts == Shortcuts::kConvolution && (stride != 1 || in != block.out_channels)) {
      block.shortcut.emplace(
          Layer{MakeShortcutConv2d(name + ".downsample.0", in, block.out_channels, stride), MakeBatchNorm(name + ".downsample.1", block.out_channels)});
    }
    return block;
  }

  const bool imagenet_;
  const int64_t channels_;
  QuantizedConv2d conv1_;
  BatchNorm bn1_;
  std::vector<std::vector<Block>> groups_;
  LastLayer fc_;
  Activation activation_;
  Activation last_activation_;
  size_t stem_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> MakeResNet(const NetworkConfig& config, const QuantizerFamily& family) {
  const auto plan = std::find_if(Plans().begin(), Plans().end(), [&](const Plan& p) { return config.network == p.name; });
  if (plan == Plans().end()) return absl::InvalidArgumentError(absl::StrCat("no ResNet is called \"", config.network, "\""));
  if (absl::Status status = CheckImageSize(config, plan->imagenet() ? 32 : 4); !status.ok()) return status;
  return std::make_unique<ResNet>(config, family, *plan);
}

}  // namespace bitstair::core
