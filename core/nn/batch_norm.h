// Batch norm on the sums of a layer, with the shortcut added in the same pass. Statistics and per-channel factors are float64 (DESIGN section 4).
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/nn/fast_layers.h"
#include "core/nn/features.h"
#include "core/nn/network.h"

namespace bitstair::core {

class BatchNorm {
 public:
  static constexpr double kEpsilon = 1e-5;
  static constexpr double kMomentum = 0.1;  // running = (1 - momentum) running + momentum batch, as in PyTorch; the running variance is the unbiased one

  // name: "bn1". gamma = 1, beta = 0, running mean 0 and variance 1.
  BatchNorm(std::string name, int64_t channels, c10::ScalarType dtype);

  // x = gamma (y - mean) / sqrt(variance + epsilon) + beta with y = sums.scale * S, plus the shortcut's value: [N, C, ...] of the network's dtype.
  // training: statistics of the batch, which move the running statistics, and gradients by S, gamma, beta and the shortcut's tensor.
  // range: returns x / range, by dividing the factors; a constant here.
  at::Tensor Forward(const Sums& sums, const Features* shortcut, bool training, double range = 1);

  // The same for numerics fast: what nn/fast_layers.h needs, and the update of the running statistics by a batch's moments of S.
  FastNorm fast() const { return {name_, gamma_, beta_, running_mean_, running_variance_}; }
  void UpdateStatistics(const at::Tensor& mean, const at::Tensor& variance, double sum_scale, int64_t per_channel);

  void AddParameters(std::vector<Parameter>& parameters) const;  // NAME.weight, NAME.bias
  void AddBuffers(std::vector<Buffer>& buffers) const;           // NAME.running_mean, NAME.running_var (of y), float64

 private:
  std::string name_;
  c10::ScalarType dtype_;
  at::Tensor gamma_, beta_;
  at::Tensor running_mean_, running_variance_;
};

}  // namespace bitstair::core
