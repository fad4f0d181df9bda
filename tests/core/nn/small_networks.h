// Every network at a size that is cheap to run: fewer channels, small images, all of its layers.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/nn/network.h"

namespace bitstair::core {

inline bool IsForImageNet(const std::string& network) {
  return network == "alexnet" || network == "resnet18" || network == "resnet34" || network == "resnet50" || network == "resnet101";
}

// The smallest images a network takes.
inline int LeastSide(const std::string& network) {
  if (network == "convnet28") return 28;
  if (network == "alexnet") return 63;
  if (network == "alexnet_cifar") return 15;
  return IsForImageNet(network) ? 32 : 4;
}

inline NetworkConfig SmallNetwork(const std::string& network, int weight_bits, int activation_bits) {
  NetworkConfig config;
  config.network = network;
  config.image_channels = network == "convnet28" ? 1 : 3;
  config.image_height = config.image_width = std::max(8, LeastSide(network));
  config.classes = 10;
  config.channel_divisor = IsForImageNet(network) || network == "alexnet_cifar" ? 8 : 4;
  config.weight_bits = weight_bits;
  config.activation_bits = activation_bits;
  config.activation = ActivationFunction::kClip;
  return config;
}

inline std::unique_ptr<Network> NetworkOf(NetworkConfig config, Numerics numerics) {
  config.numerics = numerics;
  absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
  EXPECT_TRUE(network.ok()) << network.status();
  return *std::move(network);
}

// Values of every activation, planes first, and the logits at last.
inline std::vector<at::Tensor> OutputsOf(Network& network, const at::Tensor& images, bool training) {
  std::vector<at::Tensor> seen;
  const bool fast = network.config().numerics != Numerics::kReference;
  network.set_activation_observer([&](size_t, const at::Tensor& values) {
    const at::Tensor v = values.detach().clone();
    seen.push_back(!fast ? v : v.size(1) == 1 && v.size(2) == 1 && images.size(2) > 1 ? v.flatten(1) : v.permute({0, 3, 1, 2}));
  });
  const at::NoGradGuard no_grad;
  const at::Tensor logits = network.Forward(images, training).detach();
  network.set_activation_observer(nullptr);
  seen.push_back(logits);
  return seen;
}

// What fast gives, element by element.
inline void ExpectEqualOutputs(const std::vector<at::Tensor>& fast, const std::vector<at::Tensor>& reference) {
  ASSERT_EQ(fast.size(), reference.size());
  for (size_t i = 0; i < fast.size(); ++i) {
    const at::Tensor expected = reference[i].reshape(fast[i].sizes());
    ASSERT_EQ(fast[i].ne(expected).sum().item<int64_t>(), 0) << "output " << i << " of " << fast.size();
    EXPECT_TRUE(expected.ne(expected.flatten()[0]).any().item<bool>()) << "output " << i << " is constant: nothing is compared";
  }
}

}  // namespace bitstair::core
