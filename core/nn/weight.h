// A layer's weight tensor: latent values, and the codes the forward pass multiplies with.
#pragma once

#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

class Weight {
 public:
  // quantizer: null for full precision. initial: becomes the latent tensor.
  Weight(std::string name, const at::Tensor& initial, std::unique_ptr<WeightQuantizer> quantizer);

  // For the network's list; shares the tensors and borrows the quantiser.
  Parameter parameter() const;

  // latent -> codes and leaf. Nothing to do in full precision.
  void Quantize();

  // What a layer multiplies with: codes (see the last Quantize), or the leaf itself in full precision.
  const at::Tensor& operand() const { return quantizer_ ? codes_ : leaf_; }
  const at::Tensor& leaf() const { return leaf_; }
  double scale() const { return scale_; }  // leaf = scale * operand
  int64_t greatest_code() const { return quantizer_ ? quantizer_->greatest_code() : 0; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  at::Tensor latent_;
  at::Tensor leaf_;
  at::Tensor codes_;
  double scale_ = 1;
  std::unique_ptr<WeightQuantizer> quantizer_;
};

}  // namespace bitstair::core
