#include "core/quant/lsq.h"

#include <cmath>
#include <limits>

#include <ATen/ops/abs.h>
#include <ATen/ops/mean.h>
#include <c10/util/Exception.h>

#include "core/quant/ranged_activation.h"

namespace bitstair::core {
namespace {

template <typename F>
decltype(auto) WithType(c10::ScalarType type, F&& f) {
  TORCH_CHECK(type == c10::ScalarType::Float || type == c10::ScalarType::Double, "weights of type ", type);
  return type == c10::ScalarType::Float ? f(float{}) : f(double{});
}

class LsqWeightQuantizer final : public WeightQuantizer {
 public:
  LsqWeightQuantizer(int bits, c10::ScalarType dtype)
      : least_(-(int64_t{1} << (bits - 1))), greatest_(-least_ - 1), step_(at::full({1}, 1.0, at::TensorOptions().dtype(dtype))) {}

  // {NaN if a weight or the step is no number}
  WeightSummary Summarize(WeightBlock latent) const override {
    return WithType(latent.type, [&](auto t) -> WeightSummary {
      const auto* w = static_cast<const decltype(t)*>(latent.data);
      bool finite = std::isfinite(scale()) && scale() > 0;
      for (int64_t i = 0; i < latent.size; ++i) finite &= std::isfinite(w[i]);
      return {finite ? 0 : std::numeric_limits<double>::quiet_NaN()};
    });
  }
  void Add(WeightSummary& sum, const WeightSummary& block) const override { sum[0] += block[0]; }
  void WriteCodes(WeightBlock latent, const WeightSummary&, void* codes, c10::ScalarType type) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      if (type == c10::ScalarType::Char) {
        Write(w, latent.size, static_cast<int8_t*>(codes));
      } else if (type == c10::ScalarType::Short) {
        Write(w, latent.size, static_cast<int16_t*>(codes));
      } else {
        Write(w, latent.size, static_cast<T*>(codes));
      }
    });
  }

  // {sum of dL/dw_q dw_q/ds}
  WeightSummary SummarizeGradient(WeightBlock latent, const WeightSummary&, const void* grad_values) const override {
    return WithType(latent.type, [&](auto t) -> WeightSummary {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      const auto* g = static_cast<const T*>(grad_values);
      const T step = static_cast<T>(scale()), low = static_cast<T>(least_), high = static_cast<T>(greatest_);
      double sum = 0;
      for (int64_t i = 0; i < latent.size; ++i) {
        const T q = w[i] / step;
        const T slope = q < low ? low : (q > high ? high : std::rint(q) - q);
        sum += static_cast<double>(g[i]) * static_cast<double>(slope);
      }
      return {sum};
    });
  }
  void AddGradient(WeightSummary& sum, const WeightSummary& block) const override { sum[0] += block[0]; }
  void WriteGradient(WeightBlock latent, const WeightSummary&, const void* grad_values, const WeightSummary&, void* grad_latent) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      const auto* g = static_cast<const T*>(grad_values);
      auto* out = static_cast<T*>(grad_latent);
      const T step = static_cast<T>(scale()), low = static_cast<T>(least_), high = static_cast<T>(greatest_);
      for (int64_t i = 0; i < latent.size; ++i) {
        const T q = w[i] / step;
        out[i] = q >= low && q <= high ? g[i] : T{0};
      }
    });
  }

  int64_t greatest_code() const override { return -least_; }
  double scale() const override {
    return step_.scalar_type() == at::kFloat ? static_cast<double>(*step_.const_data_ptr<float>()) : *step_.const_data_ptr<double>();
  }

  LearnedScalar learned() const override { return {"step", step_}; }
  void StartLearning(const at::Tensor& latent) const override {
    const double mean = latent.detach().to(at::kDouble).abs().mean().item<double>();
    at::Tensor step = step_;
    step.fill_(mean > 0 ? 2 * mean / std::sqrt(static_cast<double>(greatest_)) : 1.0);
  }
  double LearnedGradient(const WeightSummary& all, int64_t size) const override {
    return all[0] / std::sqrt(static_cast<double>(size) * static_cast<double>(greatest_));
  }

 private:
  template <typename T, typename C>
  void Write(const T* w, int64_t size, C* codes) const {
    const T step = static_cast<T>(scale()), low = static_cast<T>(least_), high = static_cast<T>(greatest_);
    for (int64_t i = 0; i < size; ++i) {
      const T q = w[i] / step;
      codes[i] = static_cast<C>(std::rint(q < low ? low : (q > high ? high : q)));
    }
  }

  const int64_t least_, greatest_;  // -Q_N, Q_P
  const at::Tensor step_;
};

class LsqActivationQuantizer final : public RangedActivation {
 public:
  using RangedActivation::RangedActivation;

  double range() const override { return value() * static_cast<double>(greatest_code()); }
  double scale() const override { return value(); }
  LearnedScalar learned() const override { return {"step", tensor()}; }
  bool learns_rounding() const override { return true; }
  // dL/ds = g sum dL/dvalue t, dL/dvalue = dL/dcode / s.
  double LearnedFactor(int64_t features) const override {
    return 1 / (value() * std::sqrt(static_cast<double>(features) * static_cast<double>(greatest_code())));
  }
};

}  // namespace

std::unique_ptr<WeightQuantizer> MakeLsqWeightQuantizer(int bits, const QuantizerOptions& options) {
  TORCH_CHECK(bits >= 2 && bits <= 8, "LSQ weights have 2 to 8 bits, not ", bits);
  return std::make_unique<LsqWeightQuantizer>(bits, options.dtype);
}

std::unique_ptr<ActivationQuantizer> MakeLsqActivationQuantizer(int bits, const QuantizerOptions& options) {
  return std::make_unique<LsqActivationQuantizer>(bits, 1.0 / static_cast<double>(GreatestCode(bits)), options.dtype);
}

}  // namespace bitstair::core
