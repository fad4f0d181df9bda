#include "core/quant/dorefa.h"

#include <cmath>

#include <ATen/ops/empty_like.h>

#include "core/kernels/activation.h"
#include "core/kernels/dorefa_weights.h"
#include "core/kernels/quant_math.h"
#include "core/quant/dorefa_std.h"

namespace bitstair::core {
namespace {

template <typename F>
decltype(auto) WithType(c10::ScalarType type, F&& f) {
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "weights of type ", type);
  return type == at::kFloat ? f(float{}) : f(double{});
}

class DorefaWeightQuantizer final : public WeightQuantizer {
 public:
  DorefaWeightQuantizer(int bits, bool detach_max) : n_(GreatestCode(bits)), detach_max_(detach_max) {}

  // {max|w|}
  WeightSummary Summarize(WeightBlock latent) const override {
    return WithType(latent.type, [&](auto t) -> WeightSummary { return {MaxAbs(static_cast<const decltype(t)*>(latent.data), latent.size)}; });
  }
  void Add(WeightSummary& sum, const WeightSummary& block) const override {
    if (block[0] > sum[0] || std::isnan(block[0])) sum[0] = block[0];
  }
  void WriteCodes(WeightBlock latent, const WeightSummary& all, void* codes, c10::ScalarType type) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      const T max = MaxTanh(static_cast<T>(all[0])), n = static_cast<T>(n_);
      const T* w = static_cast<const T*>(latent.data);
      if (type == at::kChar) {
        DorefaCodes(w, latent.size, max, n, static_cast<int8_t*>(codes));
      } else if (type == at::kShort) {
        DorefaCodes(w, latent.size, max, n, static_cast<int16_t*>(codes));
      } else {
        DorefaCodes(w, latent.size, max, n, static_cast<T*>(codes));
      }
    });
  }

  void WriteValues(WeightBlock latent, const WeightSummary& all, void* values) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      DorefaValues(static_cast<const T*>(latent.data), latent.size, MaxTanh(static_cast<T>(all[0])), static_cast<T*>(values));
    });
  }

  // A DorefaSums
  WeightSummary SummarizeGradient(WeightBlock latent, const WeightSummary&, const void* grad_values) const override {
    return WithType(latent.type, [&](auto t) -> WeightSummary {
      using T = decltype(t);
      const DorefaSums sums = SumDorefaGradient(static_cast<const T*>(latent.data), static_cast<const T*>(grad_values), latent.size);
      return {sums.max, sums.dot, sums.ties};
    });
  }
  void AddGradient(WeightSummary& sum, const WeightSummary& block) const override {
    DorefaSums all{sum[0], sum[1], sum[2]};
    all.Add({block[0], block[1], block[2]});
    sum = {all.max, all.dot, all.ties};
  }
  void WriteGradient(WeightBlock latent, const WeightSummary&, const void* grad_values, const WeightSummary& all, void* grad_latent) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      DorefaGradient(static_cast<const T*>(latent.data), static_cast<const T*>(grad_values), latent.size, {all[0], all[1], all[2]}, detach_max_,
                     static_cast<T*>(grad_latent));
    });
  }

  int64_t greatest_code() const override { return n_; }
  double scale() const override { return 1.0 / static_cast<double>(n_); }

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
  if (options.weight_norm == WeightNorm::kStd) return MakeStdWeightQuantizer(bits, options.detach_weight_max);
  return std::make_unique<DorefaWeightQuantizer>(bits, options.detach_weight_max);
}

std::unique_ptr<ActivationQuantizer> MakeDorefaActivationQuantizer(int bits, const QuantizerOptions&) {
  return std::make_unique<DorefaActivationQuantizer>(bits);
}

}  // namespace bitstair::core
