// A small ConvNet for 28x28 images: three convolutions with max pooling, one hidden linear layer.
//   conv1 3x3 16 (full precision) - pool - conv2 3x3 32 - pool - conv3 3x3 64 - pool - fc1 128 - fc2 (full precision)
#pragma once

#include <memory>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// Any number of channels and classes. INVALID_ARGUMENT for images that are not 28x28.
absl::StatusOr<std::unique_ptr<Network>> MakeConvNet28(const NetworkConfig& config, const QuantizerFamily& family);

}  // namespace bitstair::core
