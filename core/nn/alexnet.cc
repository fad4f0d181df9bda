#include "core/nn/alexnet.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/nn/layered_network.h"

namespace bitstair::core {
namespace {

constexpr int64_t kPoolSize = 3, kPoolStride = 2;

int64_t Pooled(int64_t size) {
  return (size - kPoolSize) / kPoolStride + 1;
}

constexpr int kConvolutions = 5;

class AlexNet final : public LayeredNetwork {
 public:
  AlexNet(const NetworkConfig& config, const QuantizerFamily& family, bool imagenet)
      : LayeredNetwork(config, family),
        convolutions_(MakeConvolutions(imagenet)),
        linears_(MakeLinears(imagenet)),
        fc3_(MakeLastLayer("fc3", 4096 / config.channel_divisor)),
        activation_(MakeActivation(false)),
        last_activation_(MakeActivation(true)) {
    for (int i = 1; i <= 7; ++i) {
      const size_t group = AddGroup(absl::StrCat("relu", i), i == 7 ? std::vector<std::string>{"fc3.weight"} : std::vector<std::string>{});
      JoinGroup(group, absl::StrCat("bn", i));
      AddActivation(group, absl::StrCat("relu", i), i == 7);
      AddHintPoint(i <= kConvolutions ? absl::StrCat("conv", i) : absl::StrCat("fc", i - kConvolutions), i > kConvolutions);
    }
  }

 protected:
  at::Tensor Logits(const Features& images, bool training) override {
    Features x = images;
    size_t group = 0;
    for (Convolution& layer : convolutions_) {
      x = Normalize(layer.norm, activation_, group, layer.conv.Forward(x), nullptr, training);
      ShowHint(group++, x);  // a hint point for each group
      if (layer.pooled) x = MaxPool2d(x, kPoolSize, kPoolStride, 0);
    }
    x = Flatten(x);
    for (Hidden& layer : linears_) {
      x = Normalize(layer.norm, &layer == &linears_.back() ? last_activation_ : activation_, group, layer.linear.Forward(x), nullptr, training);
      ShowHint(group++, x);
    }
    return fc3_.Forward(x);
  }

 private:
  struct Convolution {
    QuantizedConv2d conv;
    BatchNorm norm;
    bool pooled;
  };
  struct Hidden {
    QuantizedLinear linear;
    BatchNorm norm;
  };

  std::vector<Convolution> MakeConvolutions(bool imagenet) {
    std::vector<Convolution> layers;
    int64_t in = config().image_channels;
    const auto add = [&](int64_t channels, int64_t kernel, int64_t stride, int64_t padding, bool pooled) {
      const size_t number = layers.size() + 1;
      const int64_t out = channels / config().channel_divisor;
      const std::string name = absl::StrCat("conv", number);
      // Braces evaluate in order.
      layers.push_back(Convolution{number == 1 ? MakeFirstConv2d(name, out, kernel, stride, padding) : MakeConv2d(name, in, out, kernel, stride, padding),
                                   MakeBatchNorm(absl::StrCat("bn", number), out), pooled});
      in = out;
    };
    if (imagenet) {
      add(64, 11, 4, 2, true);
    } else {
      add(64, 3, 1, 1, true);
    }
    add(192, 5, 1, 2, true);
    add(384, 3, 1, 1, false);
    add(256, 3, 1, 1, false);
    add(256, 3, 1, 1, true);
    return layers;
  }

  std::vector<Hidden> MakeLinears(bool imagenet) {
    const auto left = [&](int64_t size) { return Pooled(Pooled(Pooled(imagenet ? (size + 4 - 11) / 4 + 1 : size))); };
    const int64_t hidden = 4096 / config().channel_divisor;
    const int64_t in = 256 / config().channel_divisor * left(config().image_height) * left(config().image_width);
    std::vector<Hidden> layers;
    // Braces evaluate in order.
    layers.push_back(Hidden{MakeQuantizedLinear("fc1", in, hidden), MakeBatchNorm("bn6", hidden)});
    layers.push_back(Hidden{MakeQuantizedLinear("fc2", hidden, hidden), MakeBatchNorm("bn7", hidden)});
    return layers;
  }

  std::vector<Convolution> convolutions_;
  std::vector<Hidden> linears_;
  LastLayer fc3_;
  Activation activation_;
  Activation last_activation_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> MakeAlexNet(const NetworkConfig& config, const QuantizerFamily& family) {
  const bool imagenet = config.network == "alexnet";
  if (!imagenet && config.network != "alexnet_cifar") return absl::InvalidArgumentError(absl::StrCat("no AlexNet is called \"", config.network, "\""));
  if (absl::Status status = CheckImageSize(config, imagenet ? 63 : 15); !status.ok()) return status;
  return std::make_unique<AlexNet>(config, family, imagenet);
}

}  // namespace bitstair::core
