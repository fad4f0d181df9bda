// A node of autograd's graph whose backward is a function: for layers that keep their gradients themselves (nn/fast_layers.h).
#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// Makes `output` the result of `inputs` in autograd's graph. backward: from output's gradient to the inputs' gradients, in order; undefined tensors for
// tokens. Runs once, after all users of output; what it holds is freed after it. Without grad mode, or if no input needs a gradient: nothing happens.
void Record(const std::vector<at::Tensor>& inputs, at::Tensor& output, std::function<std::vector<at::Tensor>(const at::Tensor& grad)> backward);

// An empty tensor to be given to Record.
at::Tensor NewToken();

}  // namespace bitstair::core
