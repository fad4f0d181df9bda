#include "core/kernels/activation.h"

#include <atomic>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                         \
  BITSTAIR_CPU_CLONES void Quantize(const T* x, T n, int64_t size, T* codes) {                    \
    for (int64_t i = 0; i < size; ++i) codes[i] = ActivationCode(x[i], n);                        \
  }                                                                                               \
  BITSTAIR_CPU_CLONES void Clip(const T* x, int64_t size, T* y) {                                 \
    for (int64_t i = 0; i < size; ++i) y[i] = Clip01(x[i]);                                       \
  }                                                                                               \
  BITSTAIR_CPU_CLONES void Rectify(const T* x, int64_t size, T* y) {                              \
    for (int64_t i = 0; i < size; ++i) y[i] = Relu(x[i]);                                         \
  }                                                                                               \
  BITSTAIR_CPU_CLONES void ClipGradient(const T* x, const T* g, T factor, int64_t size, T* out) { \
    for (int64_t i = 0; i < size; ++i) out[i] = ClipPasses(x[i]) ? factor * g[i] : T{0};          \
  }                                                                                               \
  BITSTAIR_CPU_CLONES void ReluGradient(const T* x, const T* g, int64_t size, T* out) {           \
    for (int64_t i = 0; i < size; ++i) out[i] = x[i] > T{0} ? g[i] : T{0};                        \
  }                                                                                               \
  BITSTAIR_CPU_CLONES int64_t CountClip(const T* x, int64_t size) {                               \
    int64_t count = 0;                                                                            \
    for (int64_t i = 0; i < size; ++i) count += ClipPasses(x[i]) ? 1 : 0;                         \
    return count;                                                                                 \
  }                                                                                               \
  BITSTAIR_CPU_CLONES int64_t CountRelu(const T* x, int64_t size) {                               \
    int64_t count = 0;                                                                            \
    for (int64_t i = 0; i < size; ++i) count += x[i] > T{0} ? 1 : 0;                              \
    return count;                                                                                 \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(double)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

constexpr int64_t kGrainElements = 32768;

void Check(const at::Tensor& in, const at::Tensor& out) {
  TORCH_CHECK(in.is_cpu() && in.is_contiguous() && out.is_contiguous() && in.sizes() == out.sizes() && in.scalar_type() == out.scalar_type(),
              "activation: contiguous CPU tensors of one shape and type are needed, got ", in.sizes(), " and ", out.sizes());
}

}  // namespace

void QuantizeActivations(const at::Tensor& x, double n, at::Tensor& codes) {
  Check(x, codes);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "QuantizeActivations", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* out = codes.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x.numel(), kGrainElements, [&](int64_t b, int64_t e) { Quantize(in + b, static_cast<scalar_t>(n), e - b, out + b); });
  });
}

void ClipActivations(const at::Tensor& x, at::Tensor& y) {
  Check(x, y);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "ClipActivations", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* out = y.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x.numel(), kGrainElements, [&](int64_t b, int64_t e) { Clip(in + b, e - b, out + b); });
  });
}

void ReluActivations(const at::Tensor& x, at::Tensor& y) {
  Check(x, y);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "ReluActivations", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* out = y.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x.numel(), kGrainElements, [&](int64_t b, int64_t e) { Rectify(in + b, e - b, out + b); });
  });
}

void ClipBackward(const at::Tensor& x, const at::Tensor& grad, double factor, at::Tensor& grad_x) {
  Check(x, grad);
  Check(x, grad_x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "ClipBackward", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* g = grad.const_data_ptr<scalar_t>();
    auto* out = grad_x.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x.numel(), kGrainElements, [&](int64_t b, int64_t e) { ClipGradient(in + b, g + b, static_cast<scalar_t>(factor), e - b, out + b); });
  });
}

void ReluBackward(const at::Tensor& x, const at::Tensor& grad, at::Tensor& grad_x) {
  Check(x, grad);
  Check(x, grad_x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "ReluBackward", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* g = grad.const_data_ptr<scalar_t>();
    auto* out = grad_x.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x.numel(), kGrainElements, [&](int64_t b, int64_t e) { ReluGradient(in + b, g + b, e - b, out + b); });
  });
}

int64_t CountPassing(const at::Tensor& x, bool clips) {
  Check(x, x);
  std::atomic<int64_t> passing{0};
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "CountPassing", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    at::parallel_for(0, x.numel(), kGrainElements, [&](int64_t b, int64_t e) { passing += clips ? CountClip(in + b, e - b) : CountRelu(in + b, e - b); });
  });
  return passing;
}

}  // namespace bitstair::core
