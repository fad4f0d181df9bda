#include "core/quant/dorefa.h"

#include <ATen/ops/empty_like.h>

#include "core/kernels/activation.h"
#include "core/kernels/dorefa_weights.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

class DorefaWeightQuantizer final : public WeightQuantizer {
 public:
  DorefaWeightQuantizer(int bits, bool detach_max) : n_(GreatestCode(bits)), detach_max_(detach_max) {}

  Quantized Forward(const at::Tensor& latent, at::Tensor& values) const override {
    Quantized q{at::empty_like(latent), 1.0 / static_cast<double>(n_), 0};
    QuantizeDorefaWeights(latent, static_cast<double>(n_), q.codes, values);
    return q;
  }

  at::Tensor Backward(const at::Tensor& latent, const at::Tensor& grad_values) const override {
    at::Tensor grad = at::empty_like(latent);
    DorefaWeightsBackward(latent, grad_values.contiguous(), detach_max_, grad);
    return grad;
  }

  int64_t greatest_code() const override { return n_; }

 private:
  const int64_t n_;
  const bool detach_max_;
};

class DorefaActivationQuantizer final : public ActivationQuantizer {
 public:
  explicit DorefaActivationQuantizer(int bits) : n_(GreatestCode(bits)) {}

  Quantized Forward(const at::Tensor& x) const override {
    Quantized q{at::empty_like(x), 1.0 / static_cast<double>(n_), 0};
    QuantizeActivations(x, static_cast<double>(n_), q.codes);
    return q;
  }

  at::Tensor Backward(const at::Tensor& x, const at::Tensor& grad_codes) const override {
    at::Tensor grad = at::empty_like(x);
    ClipBackward(x, grad_codes.contiguous(), static_cast<double>(n_), grad);
    return grad;
  }

  int64_t greatest_code() const override { return n_; }

 private:
  const int64_t n_;
};

}  // namespace

std::unique_ptr<WeightQuantizer> MakeDorefaWeightQuantizer(int bits, const QuantizerOptions& options) {
  return std::make_unique<DorefaWeightQuantizer>(bits, options.detach_weight_max);
}

std::unique_ptr<ActivationQuantizer> MakeDorefaActivationQuantizer(int bits, const QuantizerOptions&) {
  return std::make_unique<DorefaActivationQuantizer>(bits);
}

}  // namespace bitstair::core
