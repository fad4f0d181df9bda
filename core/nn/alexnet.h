// AlexNet with batch norm.
#pragma once

#include <memory>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// Five convolutions, two hidden linear layers and a last one, in torchvision's single-tower sizes; max pool 3x3/2 after conv1, conv2 and conv5. Each but the
// last has batch norm in place of a bias, which also takes the place of dropout. Names: conv1 to conv5, fc1 to fc3, bn1 to bn7. conv1 and fc3 are full
// precision. fc1 reads whatever conv5's pooling leaves of the image: 256 channels of 6x6 for 224x224. By config.network:
//   alexnet        conv1 11x11, stride 4; images of at least 63x63
//   alexnet_cifar  conv1 3x3, stride 1; images of at least 15x15
// Hint points: "relu1" to "relu7"; relu6 and relu7 are the last two hidden linear layers. INVALID_ARGUMENT for another name or smaller images.
absl::StatusOr<std::unique_ptr<Network>> MakeAlexNet(const NetworkConfig& config, const QuantizerFamily& family);

}  // namespace bitstair::core
