// Stochastic gradient descent with momentum, as in PyTorch: g += weight_decay * w; v = momentum * v + g (v = g at the first step);
// w -= lr * (nesterov ? g + momentum * v : v).
#pragma once

#include <map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/nn/network.h"

namespace bitstair::core {

struct SgdOptions {
  double momentum = 0.9;
  bool nesterov = true;
  double weight_decay = 1e-4;
  bool decay_batch_norm = true;
  double batch_norm_learning_rate_factor = 1;  // of gamma's and beta's rate
  double clip_weight_decay = 1e-4;             // of PACT's clips; steps and the logits' scale never decay
};

class Sgd {
 public:
  // Borrows the network's parameters, which must outlive it. Momentum starts at zero, which equals PyTorch's first step.
  Sgd(std::vector<Parameter>& parameters, SgdOptions options);

  // One pass over all parameters: dL/dleaf (leaf.grad()) -> the quantiser's backward -> dL/dlatent -> update of latent; then clears the grads.
  // The quantiser's backward is linear in dL/dw_q, so it comes after the all-reduce (DESIGN section 5); so is what a weight's step gets. A scalar that must
  // stay positive and would fall below half of itself becomes that half, and its momentum 0: no fixed floor that would be large for one layer, small for
  // another.
  void Step(double learning_rate);

  // Telemetry: each Step writes the norm of every leaf's gradient here, as it comes (averaged over the ranks; no weight decay), in the order of the parameters;
  // 0 for a batch norm's parameters, which nobody asks for, and for a weight's step, which has no leaf gradient. Null: nowhere.
  void set_gradient_norms(std::vector<double>* norms) { norms_ = norms; }

  // Same order, shapes and dtype as the parameters' latent tensors. For checkpoints.
  std::vector<at::Tensor>& momentum() { return momentum_; }

 private:
  std::vector<Parameter>& parameters_;
  SgdOptions options_;
  std::vector<at::Tensor> momentum_;
  std::map<const void*, size_t> steps_;  // data of a weight's step -> its index
  std::vector<double>* norms_ = nullptr;
};

}  // namespace bitstair::core
