// Every network at a size that is cheap to run: fewer channels, small images, all of its layers.
#pragma once

#include <algorithm>
#include <string>

#include <ATen/ATen.h>

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

}  // namespace bitstair::core
