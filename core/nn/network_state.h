// A network's tensors by name: for checkpoints, and for handing weights from one stage to the next.
#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "core/nn/network.h"

namespace bitstair::core {

// Copies of all latent parameters and buffers.
std::map<std::string, at::Tensor> NetworkToTensors(Network& network);

// Copies the tensors into the network (converted to its dtype) and quantises the weights. `tensors` must hold all of the network's names and no others; else
// INVALID_ARGUMENT names the tensors that are missing, unknown or of another shape, and the network is unchanged.
absl::Status NetworkFromTensors(const std::map<std::string, at::Tensor>& tensors, Network& network);

}  // namespace bitstair::core
