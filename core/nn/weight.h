// A layer's weight tensor: latent values, and the codes the forward pass multiplies with.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "core/nn/network.h"
#include "core/quant/quantizer.h"
#include "core/quant/weight_pass.h"

namespace bitstair::core {

class Weight {
 public:
  // quantizer: null for full precision. initial: becomes the latent tensor. compact: codes of at most 8 bits are stored as int8 or int16, for numerics fast;
  // otherwise in initial's type.
  Weight(std::string name, const at::Tensor& initial, std::unique_ptr<WeightQuantizer> quantizer, bool compact);

  // For the network's list; shares the tensors and borrows the quantiser.
  Parameter parameter() const;

  // The step that the quantiser learns, if it learns one: "layer1.0.conv1.weight_step".
  std::optional<Parameter> step() const;

  // To be given to QuantizeWeights (quant/weight_pass.h). Only for quantised weights.
  WeightToQuantize to_quantize() const { return {quantizer_.get(), latent_, rounded_ ? codes_ : values_, rounded_}; }

  // False: the layer multiplies with what the quantiser would have rounded (stochastic precision). Before QuantizeWeights; only for quantised weights.
  void set_rounded(bool rounded);

  // What a layer multiplies with: codes or unrounded values (see the last QuantizeWeights), or the leaf itself in full precision.
  const at::Tensor& operand() const { return !quantizer_ ? leaf_ : rounded_ ? codes_ : values_; }
  const at::Tensor& leaf() const { return leaf_; }
  double scale() const { return quantizer_ && rounded_ ? quantizer_->scale() : 1; }  // value = scale * operand
  int64_t greatest_code() const { return quantizer_ && rounded_ ? quantizer_->greatest_code() : 0; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  at::Tensor latent_;
  at::Tensor leaf_;
  at::Tensor codes_;
  at::Tensor values_;  // made when first needed
  bool rounded_ = true;
  std::unique_ptr<WeightQuantizer> quantizer_;
};

}  // namespace bitstair::core
