// ResNets whose blocks begin with batch norm and activation (He et al., arXiv 1603.05027) for CIFAR. docs/adr/0007 says how they fit codes.
#pragma once

#include <memory>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// "preresnet20" and "preresnet56": conv1 3x3, three groups of blocks with 16, 32, 64 channels, then bn, activation, average pool and fc. A block is
//   stream + conv2(act(bn2(conv1(act(bn1(stream))))))
// with conv1's stride, and option A where the shape changes: every second row and column of the stream, new channels 0. The stream holds float32 values
// (nn/residual_stream.h); convolutions but the first read codes. conv1 and fc are full precision. Hint points "layer1", ...: the activation that reads the
// stream behind each group of blocks, which is the next group's first one, and "relu" behind the last.
// INVALID_ARGUMENT for another name, and for images smaller than 4x4.
absl::StatusOr<std::unique_ptr<Network>> MakePreactivationResNet(const NetworkConfig& config, const QuantizerFamily& family);

}  // namespace bitstair::core
