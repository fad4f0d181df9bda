// One pass over all weights of a network, cut into blocks by size alone: threads share the blocks, not the tensors, and what is added over blocks is added in
// their order, so results do not depend on the number of threads. Contiguous CPU tensors, float32 or float64. Runs on LibTorch's intra-op pool.
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/kernels/sgd.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

struct WeightToQuantize {
  const WeightQuantizer* quantizer;
  at::Tensor latent;
  at::Tensor codes;     // of latent's shape; its type, kChar or kShort
  bool rounded = true;  // false: `codes`, of latent's type, takes the values before rounding (WriteValues)
};

// latent -> codes. If a weight is not a number: the index of the first such tensor, and no codes are written.
std::optional<size_t> QuantizeWeights(const std::vector<WeightToQuantize>& weights);

struct WeightToUpdate {
  const WeightQuantizer* quantizer;  // null: gradient is dL/dlatent
  at::Tensor latent;
  at::Tensor gradient;  // dL/dvalue
  at::Tensor momentum;
  SgdFactors factors;
  at::Tensor step_gradient = {};  // [1]; takes the gradient of what the quantiser learns, if it is defined
};

// The quantisers' backward and the update of latent and momentum, a block at a time.
void UpdateWeights(const std::vector<WeightToUpdate>& weights);

// For one tensor. dL/dlatent.
at::Tensor WeightCodes(const WeightQuantizer& quantizer, const at::Tensor& latent, c10::ScalarType type);
at::Tensor WeightGradient(const WeightQuantizer& quantizer, const at::Tensor& latent, const at::Tensor& grad_values);

}  // namespace bitstair::core
