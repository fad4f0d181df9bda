#include "core/nn/resnet.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/nn/layered_network.h"

namespace bitstair::core {
namespace {

constexpr int kStages = 3;
constexpr int64_t kStageChannels[kStages] = {16, 32, 64};

class CifarResNet final : public LayeredNetwork {
 public:
  CifarResNet(const NetworkConfig& config, const QuantizerFamily& family, int blocks_per_stage)
      : LayeredNetwork(config, family),
        conv1_(MakeConv2d("conv1", config.image_channels, kStageChannels[0], 3, 1, 1, false)),
        bn1_(MakeBatchNorm("bn1", kStageChannels[0])),
        blocks_(MakeBlocks(blocks_per_stage)),
        fc_(MakeLinear("fc", kStageChannels[kStages - 1], config.classes)),
        activation_(MakeActivation(false)),
        last_activation_(MakeActivation(true)) {
    // Option A joins all block outputs by identity, from conv1's to the last one's.
    stream_ = AddGroup("relu", {"fc.weight"});
    JoinGroup(stream_, "bn1");
    for (Block& block : blocks_) {
      JoinGroup(stream_, block.name + ".bn2");
      block.inner_group = AddGroup(block.name + ".relu1");
      JoinGroup(block.inner_group, block.name + ".bn1");
      block.hint_point = AddBlockHintPoint(block.name, block.last_of_group, block.channels > kStageChannels[0]);
    }
  }

 protected:
  at::Tensor Logits(const Features& images, bool training) override {
    Features x = Normalize(bn1_, activation_, stream_, conv1_.Forward(images), nullptr, training);
    for (Block& block : blocks_) {
      const bool last = &block == &blocks_.back();
      const Features inner = Normalize(block.bn1, activation_, block.inner_group, block.conv1.Forward(x), nullptr, training);
      const bool same_shape = block.stride == 1 && block.in_channels == block.channels;
      const Features shortcut = same_shape ? x : PaddedShortcut(x, block.channels, block.stride);
      x = Normalize(block.bn2, last ? last_activation_ : activation_, stream_, block.conv2.Forward(inner), &shortcut, training);
      ShowHint(block.hint_point, x);
    }
    return fc_.Forward(GlobalAveragePool(x));
  }

 private:
  struct Block {
    std::string name;  // "layer1.0"
    int64_t in_channels;
    int64_t channels;
    int64_t stride;
    bool last_of_group;
    QuantizedConv2d conv1;
    BatchNorm bn1;
    QuantizedConv2d conv2;
    BatchNorm bn2;
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
        blocks.push_back(Block{name, in, channels, stride, i == blocks_per_stage - 1, MakeConv2d(name + ".conv1", in, channels, 3, stride, 1, true),
                               MakeBatchNorm(name + ".bn1", channels), MakeConv2d(name + ".conv2", channels, channels, 3, 1, 1, true),
                               MakeBatchNorm(name + ".bn2", channels)});
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
  size_t stream_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> MakeResNet20(const NetworkConfig& config, const QuantizerFamily& family) {
  if (config.image_height < 4 || config.image_width < 4) {
    return absl::InvalidArgumentError(absl::StrCat("network resnet20 takes images of at least 4x4, not ", config.image_height, "x", config.image_width));
  }
  return std::make_unique<CifarResNet>(config, family, 3);
}

}  // namespace bitstair::core
