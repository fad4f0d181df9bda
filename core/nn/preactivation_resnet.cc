#include "core/nn/preactivation_resnet.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/nn/layered_network.h"
#include "core/nn/residual_stream.h"

namespace bitstair::core {
namespace {

constexpr int kGroups = 3;

class PreactivationResNet final : public LayeredNetwork {
 public:
  PreactivationResNet(const NetworkConfig& config, const QuantizerFamily& family, int blocks_per_group)
      : LayeredNetwork(config, family),
        channels_(16 / config.channel_divisor),
        conv1_(MakeFirstConv2d("conv1", channels_, 3, 1, 1)),
        blocks_(MakeBlocks(blocks_per_group)),
        bn_(MakeBatchNorm("bn", blocks_.back().channels)),
        fc_(MakeLastLayer("fc", blocks_.back().channels)),
        activation_(MakeActivation(false)),
        last_activation_(MakeActivation(true)) {
    // No two activations share a range: only values of the stream are added up. conv2 has no batch norm behind it, so it takes the range of its input back.
    for (Block& block : blocks_) {
      block.outer_group = AddGroup(block.name + ".relu1");
      JoinGroup(block.outer_group, block.name + ".bn1");
      AddActivation(block.outer_group, block.name + ".relu1");
      block.inner_group = AddGroup(block.name + ".relu2", {block.name + ".conv2.weight"});
      JoinGroup(block.inner_group, block.name + ".bn2");
      AddActivation(block.inner_group, block.name + ".relu2");
      const size_t number = static_cast<size_t>(&block - blocks_.data()) + 1;
      block.hint_point = AddBlockHintPoint(block.name, number % blocks_per_group == 0, number > blocks_.size() / kGroups);
    }
    last_group_ = AddGroup("relu", {"fc.weight"});
    JoinGroup(last_group_, "bn");
    AddActivation(last_group_, "relu", true);
  }

 protected:
  at::Tensor Logits(const Features& images, bool training) override {
    Features stream = AddToStream(conv1_.Forward(images), nullptr, config().dtype, training);
    const Block* before = nullptr;
    for (Block& block : blocks_) {
      const Features outer = Normalize(block.bn1, activation_, block.outer_group, StreamSums(stream, training), nullptr, training);
      if (before != nullptr) ShowHint(before->hint_point, outer);
      before = &block;
      const Features inner = Normalize(block.bn2, activation_, block.inner_group, block.conv1.Forward(outer), nullptr, training);
      if (block.stride != 1) stream = PaddedShortcut(stream, block.channels, block.stride);
      stream = AddToStream(block.conv2.Forward(inner), &stream, config().dtype, training);
    }
    const Features last = Normalize(bn_, last_activation_, last_group_, StreamSums(stream, training), nullptr, training);
    ShowHint(before->hint_point, last);
    return fc_.Forward(last);
  }

 private:
  struct Block {
    std::string name;  // "layer1.0"
    int64_t channels, stride;
    BatchNorm bn1;
    QuantizedConv2d conv1;
    BatchNorm bn2;
    QuantizedConv2d conv2;
    size_t outer_group = 0, inner_group = 0, hint_point = 0;
  };

  std::vector<Block> MakeBlocks(int blocks_per_group) {
    std::vector<Block> blocks;
    int64_t in = channels_, channels = channels_;
    for (int group = 0; group < kGroups; ++group, channels *= 2) {
      for (int i = 0; i < blocks_per_group; ++i) {
        const std::string name = absl::StrCat("layer", group + 1, ".", i);
        const int64_t stride = group > 0 && i == 0 ? 2 : 1;
        // Braces evaluate in order.
        blocks.push_back(Block{name, channels, stride, MakeBatchNorm(name + ".bn1", in), MakeConv2d(name + ".conv1", in, channels, 3, stride, 1),
                               MakeBatchNorm(name + ".bn2", channels), MakeConv2d(name + ".conv2", channels, channels, 3, 1, 1)});
        in = channels;
      }
    }
    return blocks;
  }

  const int64_t channels_;
  QuantizedConv2d conv1_;
  std::vector<Block> blocks_;
  BatchNorm bn_;
  LastLayer fc_;
  Activation activation_;
  Activation last_activation_;
  size_t last_group_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> MakePreactivationResNet(const NetworkConfig& config, const QuantizerFamily& family) {
  const bool deep = config.network == "preresnet56";
  if (!deep && config.network != "preresnet20") return absl::InvalidArgumentError(absl::StrCat("no pre-activation ResNet is called \"", config.network, "\""));
  if (absl::Status status = CheckImageSize(config, 4); !status.ok()) return status;
  return std::make_unique<PreactivationResNet>(config, family, deep ? 9 : 3);
}

}  // namespace bitstair::core
