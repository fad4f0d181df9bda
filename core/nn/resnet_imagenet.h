// ResNets for ImageNet (He et al., arXiv 1512.03385, table 1) with torchvision's names and layout.
#pragma once

#include <memory>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// 18 layers: conv1 7x7/2 64, max pool 3x3/2, four stages of two basic blocks with 64 to 512 channels, average pool, fc. conv1 and fc are full precision;
// convolution shortcuts (option B) are quantised like the others and keep their batch norm. INVALID_ARGUMENT for images smaller than 32x32.
absl::StatusOr<std::unique_ptr<Network>> MakeResNet18(const NetworkConfig& config, const QuantizerFamily& family);

}  // namespace bitstair::core
