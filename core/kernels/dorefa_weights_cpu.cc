#include "core/kernels/dorefa_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

template <typename T>
using PatternOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// Elements whose tanh is computed, used and forgotten at a time.
constexpr int64_t kStrip = 128;

// Whether a code that was computed with TanhFast could differ from the exact one: y = n (t/(2M) + 1/2) lies near the middle between two integers. TanhFast is
// off by at most 4 units in the last place: y by n 2^-22, and by about as much through the roundings of both formulas. The margin is almost twice the sum.
[[gnu::always_inline]] inline bool NearTie(float y, float n) {
  const float off = y - std::rint(y);
  return 0.5f - (off < 0 ? -off : off) < n * 1e-6f + 1e-6f;
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                                          \
  BITSTAIR_CPU_CLONES PatternOf<T> MaxPattern(const T* t, int64_t size) {                                          \
    PatternOf<T> max = 0;                                                                                          \
    for (int64_t i = 0; i < size; ++i) {                                                                           \
      const PatternOf<T> pattern = std::bit_cast<PatternOf<T>>(t[i]) & (~PatternOf<T>{0} >> 1);                    \
      max = pattern > max ? pattern : max;                                                                         \
    }                                                                                                              \
    return max;                                                                                                    \
  }                                                                                                                \
  BITSTAIR_CPU_CLONES void ExactCodes(const T* w, int64_t size, T max_tanh, T n, T* odd) {                         \
    for (int64_t i = 0; i < size; ++i) odd[i] = OddWeightCode(TanhOf(w[i]), max_tanh, n);                          \
  }                                                                                                                \
  BITSTAIR_CPU_CLONES void GradientTanh(const T* w, int64_t size, T* t) {                                          \
    for (int64_t i = 0; i < size; ++i) t[i] = TanhFast(w[i]);                                                      \
  }                                                                                                                \
  BITSTAIR_CPU_CLONES void Dot(const T* t, const T* g, int64_t size, double* sum) {                                \
    for (int64_t i = 0; i + 8 <= size; i += 8) {                                                                   \
      for (int64_t l = 0; l < 8; ++l) sum[l] += static_cast<double>(g[i + l]) * static_cast<double>(t[i + l]);     \
    }                                                                                                              \
    for (int64_t i = size / 8 * 8; i < size; ++i) sum[0] += static_cast<double>(g[i]) * static_cast<double>(t[i]); \
  }                                                                                                                \
  BITSTAIR_CPU_CLONES int32_t Ties(const T* t, int64_t size, T max) {                                              \
    int32_t count = 0;                                                                                             \
    for (int64_t i = 0; i < size; ++i) count += (t[i] == max ? 1 : 0) + (t[i] == -max ? 1 : 0);                    \
    return count;                                                                                                  \
  }                                                                                                                \
  BITSTAIR_CPU_CLONES void Gradient(const T* w, const T* g, T max, T at_max, int64_t size, T* out) {               \
    const T over_max = T{1} / max;                                                                                 \
    for (int64_t i = 0; i < size; ++i) {                                                                           \
      const T t = TanhFast(w[i]);                                                                                  \
      const T through_max = t == max ? at_max : (t == -max ? -at_max : T{0});                                      \
      out[i] = std::fma(-t, t, T{1}) * std::fma(g[i], over_max, through_max);                                      \
    }                                                                                                              \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(double)
#undef BITSTAIR_LOOPS

// Codes by TanhFast; says which could be wrong.
#define BITSTAIR_LOOPS(Code)                                                                                                \
  BITSTAIR_CPU_CLONES int32_t QuickCodes(const float* w, int64_t size, float max_tanh, float n, Code* odd, uint8_t* near) { \
    int32_t any = 0;                                                                                                        \
    const float steps = n / (2.0f * max_tanh), middle = 0.5f * n;                                                           \
    for (int64_t i = 0; i < size; ++i) {                                                                                    \
      const float y = std::fma(TanhFast(w[i]), steps, middle);                                                              \
      odd[i] = static_cast<Code>(2.0f * std::rint(y) - n);                                                                  \
      near[i] = NearTie(y, n) ? 1 : 0;                                                                                      \
      any |= near[i];                                                                                                       \
    }                                                                                                                       \
    return any;                                                                                                             \
  }
BITSTAIR_LOOPS(int8_t)
BITSTAIR_LOOPS(int16_t)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace

// Without its sign, a NaN's pattern is greater than every number's.
template <typename T>
T MaxAbs(const T* w, int64_t size) {
  return std::bit_cast<T>(MaxPattern(w, size));
}

template <typename T>
T MaxTanh(T max_abs) {
  return TanhOf(max_abs);
}

template <typename T, typename Code>
void DorefaCodes(const T* w, int64_t size, T max_tanh, T n, Code* odd_codes) {
  if (max_tanh == 0) max_tanh = 1;
  for (int64_t begin = 0; begin < size; begin += kStrip) {
    const int64_t count = std::min(kStrip, size - begin);
    if constexpr (std::is_same_v<Code, T>) {
      ExactCodes(w + begin, count, max_tanh, n, odd_codes + begin);
    } else if constexpr (std::is_same_v<T, float>) {
      uint8_t near[kStrip];
      if (QuickCodes(w + begin, count, max_tanh, n, odd_codes + begin, near) == 0) continue;
      for (int64_t i = 0; i < count; ++i) {
        if (near[i] != 0) odd_codes[begin + i] = static_cast<Code>(OddWeightCode(TanhOf(w[begin + i]), max_tanh, n));
      }
    } else {
      T exact[kStrip];
      ExactCodes(w + begin, count, max_tanh, n, exact);
      std::transform(exact, exact + count, odd_codes + begin, [](T code) { return static_cast<Code>(code); });
    }
  }
}

template <typename T>
void DorefaValues(const T* w, int64_t size, T max_tanh, T* values) {
  if (max_tanh == 0) max_tanh = 1;
  for (int64_t i = 0; i < size; ++i) values[i] = TanhOf(w[i]) / max_tanh;
}

void DorefaSums::Add(const DorefaSums& block) {
  dot += block.dot;
  // NaN comes from a weight that is one, and stays.
  if (block.max > max || std::isnan(block.max)) {
    max = block.max;
    ties = block.ties;
  } else if (block.max == max) {
    ties += block.ties;
  }
}

template <typename T>
DorefaSums SumDorefaGradient(const T* w, const T* grad_values, int64_t size) {
  DorefaSums sums;
  double dot[8] = {};
  for (int64_t begin = 0; begin < size; begin += kStrip) {
    const int64_t count = std::min(kStrip, size - begin);
    T t[kStrip];
    GradientTanh(w + begin, count, t);
    Dot(t, grad_values + begin, count, dot);
    const T max = MaxAbs(t, count);
    // Most strips stay below the greatest so far.
    if (!(max < static_cast<T>(sums.max))) sums.Add({max, 0, static_cast<double>(Ties(t, count, max))});
  }
  sums.dot = ((dot[0] + dot[1]) + (dot[2] + dot[3])) + ((dot[4] + dot[5]) + (dot[6] + dot[7]));
  return sums;
}

template <typename T>
void DorefaGradient(const T* w, const T* grad_values, int64_t size, const DorefaSums& whole, bool detach_max, T* grad_latent) {
  if (whole.max == 0) {
    std::fill_n(grad_latent, size, T{0});
    return;
  }
  const double at_max = detach_max ? 0 : -whole.dot / (whole.max * whole.max) / whole.ties;
  Gradient(w, grad_values, static_cast<T>(whole.max), static_cast<T>(at_max), size, grad_latent);
}

template float MaxAbs(const float*, int64_t);
template double MaxAbs(const double*, int64_t);
template float MaxTanh(float);
template double MaxTanh(double);
template void DorefaCodes(const float*, int64_t, float, float, float*);
template void DorefaCodes(const float*, int64_t, float, float, int8_t*);
template void DorefaCodes(const float*, int64_t, float, float, int16_t*);
template void DorefaCodes(const double*, int64_t, double, double, double*);
template void DorefaCodes(const double*, int64_t, double, double, int8_t*);
template void DorefaCodes(const double*, int64_t, double, double, int16_t*);
template void DorefaValues(const float*, int64_t, float, float*);
template void DorefaValues(const double*, int64_t, double, double*);
template DorefaSums SumDorefaGradient(const float*, const float*, int64_t);
template DorefaSums SumDorefaGradient(const double*, const double*, int64_t);
template void DorefaGradient(const float*, const float*, int64_t, const DorefaSums&, bool, float*);
template void DorefaGradient(const double*, const double*, int64_t, const DorefaSums&, bool, double*);

}  // namespace bitstair::core
