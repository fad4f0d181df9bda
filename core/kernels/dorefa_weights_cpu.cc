#include "core/kernels/dorefa_weights.h"

#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                                   \
  BITSTAIR_CPU_CLONES void TanhAll(const T* w, int64_t size, T* t) {                                        \
    for (int64_t i = 0; i < size; ++i) t[i] = TanhOf(w[i]);                                                 \
  }                                                                                                         \
  BITSTAIR_CPU_CLONES void CodeAll(const T* t, T max_abs, T n, int64_t size, T* odd, T* values) {           \
    for (int64_t i = 0; i < size; ++i) {                                                                    \
      odd[i] = OddWeightCode(t[i], max_abs, n);                                                             \
      values[i] = odd[i] / n;                                                                               \
    }                                                                                                       \
  }                                                                                                         \
  BITSTAIR_CPU_CLONES void GradientAll(const T* t, const T* g, T max_abs, T at_max, int64_t size, T* out) { \
    for (int64_t i = 0; i < size; ++i) {                                                                    \
      const T through_max = t[i] == max_abs ? at_max : (t[i] == -max_abs ? -at_max : T{0});                 \
      out[i] = (T{1} - t[i] * t[i]) * (g[i] / max_abs + through_max);                                       \
    }                                                                                                       \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(double)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

// NaN if any element is.
template <typename T>
T MaxAbs(const T* t, int64_t size) {
  T max = 0;
  for (int64_t i = 0; i < size; ++i) {
    const T a = t[i] < 0 ? -t[i] : t[i];
    if (!(a <= max)) max = a;
    if (max != max) break;
  }
  return max;
}

void Check(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.is_cpu() && a.is_contiguous() && b.is_contiguous() && a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type(),
              "weight quantiser: contiguous CPU tensors of one shape and type are needed, got ", a.sizes(), " and ", b.sizes());
}

}  // namespace

void QuantizeDorefaWeights(const at::Tensor& latent, double n, at::Tensor& odd_codes, at::Tensor& values) {
  Check(latent, odd_codes);
  Check(latent, values);
  AT_DISPATCH_FLOATING_TYPES(latent.scalar_type(), "QuantizeDorefaWeights", [&] {
    const int64_t size = latent.numel();
    auto* odd = odd_codes.mutable_data_ptr<scalar_t>();
    TanhAll(latent.const_data_ptr<scalar_t>(), size, odd);
    scalar_t max = MaxAbs(odd, size);
    if (max == 0) max = 1;  // every t is 0, so c = rint(n/2)
    CodeAll(odd, max, static_cast<scalar_t>(n), size, odd, values.mutable_data_ptr<scalar_t>());
  });
}

void DorefaWeightsBackward(const at::Tensor& latent, const at::Tensor& grad_values, bool detach_max, at::Tensor& grad_latent) {
  Check(latent, grad_values);
  Check(latent, grad_latent);
  AT_DISPATCH_FLOATING_TYPES(latent.scalar_type(), "DorefaWeightsBackward", [&] {
    const int64_t size = latent.numel();
    const auto* g = grad_values.const_data_ptr<scalar_t>();
    auto* out = grad_latent.mutable_data_ptr<scalar_t>();
    std::vector<scalar_t> t(static_cast<size_t>(size));
    TanhAll(latent.const_data_ptr<scalar_t>(), size, t.data());
    const scalar_t max = MaxAbs(t.data(), size);
    if (max == 0) {
      for (int64_t i = 0; i < size; ++i) out[i] = 0;
      return;
    }
    double dot = 0;
    int64_t ties = 0;
    for (int64_t i = 0; i < size; ++i) {
      dot += static_cast<double>(g[i]) * static_cast<double>(t[i]);
      ties += t[i] == max || t[i] == -max;
    }
    const double m = max;
    const double at_max = detach_max ? 0 : -dot / (m * m) / static_cast<double>(ties);
    GradientAll(t.data(), g, max, static_cast<scalar_t>(at_max), size, out);
  });
}

}  // namespace bitstair::core
