// ResNets (He et al., arXiv 1512.03385) for CIFAR (section 4.2) and ImageNet (table 1).
#pragma once

#include <memory>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// By config.network:
//   resnet20, 32, 44, 56, 110     conv1 3x3, three groups of basic blocks with 16, 32, 64 channels; shortcuts of option A (padding with code 0)
//   resnet20_b, ..., resnet110_b  the same with option B: a 1x1 convolution where the shape changes
//   resnet18, 34                  conv1 7x7/2, max pool 3x3/2, four groups of basic blocks with 64 to 512 channels, option B
//   resnet50, 101                 the same with bottleneck blocks, whose stride is on the 3x3 convolution (torchvision's "v1.5")
// Then average pool and fc. Names are torchvision's; those of CIFAR follow them. conv1 and fc are full precision; convolution shortcuts are quantised like the
// other convolutions and keep their batch norm. Hint points: "layer1", ...: the output of each group of blocks.
// INVALID_ARGUMENT for another name, and for images smaller than 4x4 (CIFAR) or 32x32 (ImageNet).
absl::StatusOr<std::unique_ptr<Network>> MakeResNet(const NetworkConfig& config, const QuantizerFamily& family);

}  // namespace bitstair::core
