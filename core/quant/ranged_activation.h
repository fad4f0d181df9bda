// The common half of activation quantisers with a learned range: codes rint(n clip(x / range, 0, 1)). What is learned, and its gradient, is the derived
// class's.
#pragma once

#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>

#include "core/kernels/activation.h"
#include "core/kernels/quant_math.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

class RangedActivation : public ActivationQuantizer {
 public:
  RangedActivation(int bits, double initial, c10::ScalarType dtype)
      : n_(GreatestCode(bits)), value_(at::full({1}, initial, at::TensorOptions().dtype(dtype))) {}

  Quantized Forward(const at::Tensor& u) const final {
    Quantized q{at::empty_like(u), scale(), 0};
    QuantizeActivations(u, static_cast<double>(n_), q.codes);
    return q;
  }
  at::Tensor Backward(const at::Tensor& u, const at::Tensor& grad_codes) const final {
    at::Tensor grad = at::empty_like(u);
    ClipBackward(u, grad_codes.contiguous(), static_cast<double>(n_), grad);
    return grad;
  }
  int64_t greatest_code() const final { return n_; }

 protected:
  // The scalar as it is now.
  double value() const { return value_.scalar_type() == at::kFloat ? static_cast<double>(*value_.const_data_ptr<float>()) : *value_.const_data_ptr<double>(); }
  const at::Tensor& tensor() const { return value_; }

 private:
  const int64_t n_;
  const at::Tensor value_;
};

}  // namespace bitstair::core
