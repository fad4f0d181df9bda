#include "core/kernels/sgd.h"

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

}  // namespace

template <typename T>
void UpdateSgd(const T* gradient, const SgdFactors& factors, int64_t size, T* w, T* v) {
  Update(gradient, static_cast<T>(factors.learning_rate), static_cast<T>(factors.momentum), static_cast<T>(factors.weight_decay), factors.nesterov, size, w, v);
}
template void UpdateSgd(const float*, const SgdFactors&, int64_t, float*, float*);
template void UpdateSgd(const double*, const SgdFactors&, int64_t, double*, double*);

}  // namespace bitstair::core
