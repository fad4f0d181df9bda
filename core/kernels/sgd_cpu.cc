#include "core/kernels/sgd.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"

namespace bitstair::core {
namespace {

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                                                                          \
  BITSTAIR_CPU_CLONES void Update(const T* gradient, T rate, T momentum, T decay, bool nesterov, int64_t size, T* __restrict w, T* __restrict v) { \
    const T ahead = nesterov ? momentum : T{0}, own = nesterov ? T{1} : T{0}, velocity = nesterov ? T{0} : T{1};                                   \
    for (int64_t i = 0; i < size; ++i) {                                                                                                           \
      const T g = gradient[i] + decay * w[i];                                                                                                      \
      const T next = momentum * v[i] + g;                                                                                                          \
      v[i] = next;                                                                                                                                 \
      w[i] -= rate * ((own * g + ahead * next) + velocity * next);                                                                                 \
    }                                                                                                                                              \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(double)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

constexpr int64_t kGrainElements = 16384;

}  // namespace

void UpdateSgd(const at::Tensor& gradient, const SgdFactors& factors, at::Tensor& w, at::Tensor& v) {
  TORCH_CHECK(w.is_contiguous() && v.is_contiguous() && gradient.is_contiguous() && gradient.sizes() == w.sizes() && v.sizes() == w.sizes() &&
                  gradient.scalar_type() == w.scalar_type() && v.scalar_type() == w.scalar_type(),
              "SGD: gradient ", gradient.sizes(), " and momentum ", v.sizes(), " for weights ", w.sizes());
  AT_DISPATCH_FLOATING_TYPES(w.scalar_type(), "UpdateSgd", [&] {
    const auto* g = gradient.const_data_ptr<scalar_t>();
    auto* pw = w.mutable_data_ptr<scalar_t>();
    auto* pv = v.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, w.numel(), kGrainElements, [&](int64_t b, int64_t e) {
      Update(g + b, static_cast<scalar_t>(factors.learning_rate), static_cast<scalar_t>(factors.momentum), static_cast<scalar_t>(factors.weight_decay),
             factors.nesterov, e - b, pw + b, pv + b);
    });
  });
}

}  // namespace bitstair::core
