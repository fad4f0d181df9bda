// ResNets for CIFAR (He et al., arXiv 1512.03385, section 4.2) with option-A shortcuts and torchvision's names.
#pragma once

#include <memory>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// 20 layers: conv1 16, three stages of three blocks with 16, 32 and 64 channels, average pool, fc. conv1 and fc are full precision.
// INVALID_ARGUMENT for images smaller than 4x4.
absl::StatusOr<std::unique_ptr<Network>> MakeResNet20(const NetworkConfig& config, const QuantizerFamily& family);

}  // namespace bitstair::core
