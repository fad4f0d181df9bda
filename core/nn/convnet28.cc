#include "core/nn/convnet28.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/nn/layered_network.h"

namespace bitstair::core {
namespace {

class ConvNet28 final : public LayeredNetwork {
 public:
  ConvNet28(const NetworkConfig& config, const QuantizerFamily& family)
      : LayeredNetwork(config, family),
        width_(16 / config.channel_divisor),
        conv1_(MakeFirstConv2d("conv1", width_, 3, 1, 1)),
        bn1_(MakeBatchNorm("bn1", width_)),
        conv2_(MakeConv2d("conv2", width_, 2 * width_, 3, 1, 1)),
        bn2_(MakeBatchNorm("bn2", 2 * width_)),
        conv3_(MakeConv2d("conv3", 2 * width_, 4 * width_, 3, 1, 1)),
        bn3_(MakeBatchNorm("bn3", 4 * width_)),
        fc1_(MakeQuantizedLinear("fc1", 4 * width_ * 3 * 3, 8 * width_)),
        bn4_(MakeBatchNorm("bn4", 8 * width_)),
        fc2_(MakeLastLayer("fc2", 8 * width_)),
        activation_(MakeActivation(false)),
        last_activation_(MakeActivation(true)) {
    for (int i = 1; i <= 4; ++i) {
      const size_t group = AddGroup(absl::StrCat("relu", i), i == 4 ? std::vector<std::string>{"fc2.weight"} : std::vector<std::string>{});
      JoinGroup(group, absl::StrCat("bn", i));
      AddActivation(group, absl::StrCat("relu", i), i == 4);
      AddHintPoint(i == 4 ? "fc1" : absl::StrCat("conv", i), i >= 3);
    }
  }

 protected:
  at::Tensor Logits(const Features& images, bool training) override {
    Features x = Normalize(bn1_, activation_, 0, conv1_.Forward(images), nullptr, training);
    ShowHint(0, x);
    x = Normalize(bn2_, activation_, 1, conv2_.Forward(MaxPool2d(x, 2, 2, 0)), nullptr, training);
    ShowHint(1, x);
    x = Normalize(bn3_, activation_, 2, conv3_.Forward(MaxPool2d(x, 2, 2, 0)), nullptr, training);
    ShowHint(2, x);
    x = Flatten(MaxPool2d(x, 2, 2, 0));
    x = Normalize(bn4_, last_activation_, 3, fc1_.Forward(x), nullptr, training);
    ShowHint(3, x);
    return fc2_.Forward(x);
  }

 private:
  const int64_t width_;
  QuantizedConv2d conv1_;
  BatchNorm bn1_;
  QuantizedConv2d conv2_;
  BatchNorm bn2_;
  QuantizedConv2d conv3_;
  BatchNorm bn3_;
  QuantizedLinear fc1_;
  BatchNorm bn4_;
  LastLayer fc2_;
  Activation activation_;
  Activation last_activation_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> MakeConvNet28(const NetworkConfig& config, const QuantizerFamily& family) {
  if (config.image_height != 28 || config.image_width != 28) {
    return absl::InvalidArgumentError(absl::StrCat("network convnet28 takes images of 28x28, not ", config.image_height, "x", config.image_width));
  }
  return std::make_unique<ConvNet28>(config, family);
}

}  // namespace bitstair::core
