#include "core/nn/resnet_imagenet.h"

#include <optional>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/nn/layered_network.h"

namespace bitstair::core {
namespace {

constexpr int kStages = 4;
constexpr int64_t kStageChannels[kStages] = {64, 128, 256, 512};

class ImageNetResNet final : public LayeredNetwork {
 public:
  ImageNetResNet(const NetworkConfig& config, const QuantizerFamily& family, int blocks_per_stage)
      : LayeredNetwork(config, family),
        conv1_(MakeConv2d("conv1", config.image_channels, kStageChannels[0], 7, 2, 3, false)),
        bn1_(MakeBatchNorm("bn1", kStageChannels[0])),
        blocks_(MakeBlocks(blocks_per_stage)),
        fc_(MakeLinear("fc", kStageChannels[kStages - 1], config.classes)),
        activation_(MakeActivation(false)),
        last_activation_(MakeActivation(true)) {
    // Identity shortcuts join activations; a convolution shortcut begins a new group.
    std::vector<size_t> streams;
    for (int stage = 0; stage < kStages; ++stage) {
      const bool last = stage == kStages - 1;
      streams.push_back(
          AddGroup(stage == 0 ? "relu" : absl::StrCat("layer", stage + 1), last ? std::vector<std::string>{"fc.weight"} : std::vector<std::string>{}));
    }
    JoinGroup(streams[0], "bn1");
    for (Block& block : blocks_) {
      block.stream = streams[block.stage];
      JoinGroup(block.stream, block.name + ".bn2");
      if (block.shortcut) JoinGroup(block.stream, block.name + ".downsample.1");
      block.inner_group = AddGroup(block.name + ".relu1");
      JoinGroup(block.inner_group, block.name + ".bn1");
      block.hint_point = AddBlockHintPoint(block.name, block.last_of_group, block.stage >= kStages - 2);
    }
  }

 protected:
  at::Tensor Logits(const Features& images, bool training) override {
    Features x = Normalize(bn1_, activation_, blocks_.front().stream, conv1_.Forward(images), nullptr, training);
    x = MaxPool2d(x, 3, 2, 1);
    for (Block& block : blocks_) {
      const Activation& activation = &block == &blocks_.back() ? last_activation_ : activation_;
      const Features inner = Normalize(block.bn1, activation_, block.inner_group, block.conv1.Forward(x), nullptr, training);
      if (block.shortcut) {
        x = NormalizeSum(block.bn2, activation, block.stream, block.conv2.Forward(inner), block.shortcut->norm, block.shortcut->conv.Forward(x), training);
      } else {
        x = Normalize(block.bn2, activation, block.stream, block.conv2.Forward(inner), &x, training);
      }
      ShowHint(block.hint_point, x);
    }
    return fc_.Forward(GlobalAveragePool(x));
  }

 private:
  struct Shortcut {
    QuantizedConv2d conv;
    BatchNorm norm;
  };
  struct Block {
    std::string name;  // "layer1.0"
    int stage;
    bool last_of_group;
    QuantizedConv2d conv1;
    BatchNorm bn1;
    QuantizedConv2d conv2;
    BatchNorm bn2;
    std::optional<Shortcut> shortcut;
    size_t stream = 0;
    size_t inner_group = 0;
    size_t hint_point = 0;
  };

  std::vector<Block> MakeBlocks(int blocks_per_stage) {
    std::vector<Block> blocks;
    int64_t in = kStageChannels[0];
    for (int stage = 0; stage < kStages; ++stage) {
      const int64_t channels = kStageChannels[stage];
      for (int i = 0; i < blocks_per_stage; ++i) {
        const std::string name = absl::StrCat("layer", stage + 1, ".", i);
        const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
        // Braces evaluate in order, so parameters are listed as torchvision lists them.
        blocks.push_back(Block{name, stage, i == blocks_per_stage - 1, MakeConv2d(name + ".conv1", in, channels, 3, stride, 1, true),
                               MakeBatchNorm(name + ".bn1", channels), MakeConv2d(name + ".conv2", channels, channels, 3, 1, 1, true),
                               MakeBatchNorm(name + ".bn2", channels), std::nullopt});
        if (stride != 1) {
          blocks.back().shortcut.emplace(
              Shortcut{MakeConv2d(name + ".downsample.0", in, channels, 1, stride, 0, true), MakeBatchNorm(name + ".downsample.1", channels)});
        }
        in = channels;
      }
    }
    return blocks;
  }

  QuantizedConv2d conv1_;
  BatchNorm bn1_;
  std::vector<Block> blocks_;
  Linear fc_;
  Activation activation_;
  Activation last_activation_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> MakeResNet18(const NetworkConfig& config, const QuantizerFamily& family) {
  if (config.image_height < 32 || config.image_width < 32) {
    return absl::InvalidArgumentError(absl::StrCat("network resnet18 takes images of at least 32x32, not ", config.image_height, "x", config.image_width));
  }
  return std::make_unique<ImageNetResNet>(config, family, 2);
}

}  // namespace bitstair::core
