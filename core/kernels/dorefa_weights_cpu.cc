#include "core/kernels/dorefa_weights.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

template <typename T>
using PatternOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                                            \
  BITSTAIR_CPU_CLONES PatternOf<T> MaxPattern(const T* t, int64_t size) {                                            \
    PatternOf<T> max = 0;                                                                                            \
    for (int64_t i = 0; i < size; ++i) {                                                                             \
      const PatternOf<T> pattern = std::bit_cast<PatternOf<T>>(t[i]) & (~PatternOf<T>{0} >> 1);                      \
      max = pattern > max ? pattern : max;                                                                           \
    }                                                                                                                \
    return max;                                                                                                      \
  }                                                                                                                  \
  BITSTAIR_CPU_CLONES void TanhAll(const T* w, int64_t size, T* t) {                                                 \
    for (int64_t i = 0; i < size; ++i) t[i] = TanhOf(w[i]);                                                          \
  }                                                                                                                  \
  BITSTAIR_CPU_CLONES void CodeAll(const T* t, T max_abs, T n, int64_t size, T* odd, T* values) {                    \
    for (int64_t i = 0; i < size; ++i) {                                                                             \
      odd[i] = OddWeightCode(t[i], max_abs, n);                                                                      \
      values[i] = odd[i] / n;                                                                                        \
    }                                                                                                                \
  }                                                                                                                  \
  BITSTAIR_CPU_CLONES void DotAndTies(const T* t, const T* g, T max_abs, int64_t size, double* dot, int64_t* ties) { \
    double sum[8] = {};                                                                                              \
    int64_t count = 0;                                                                                               \
    int64_t i = 0;                                                                                                   \
    for (; i + 8 <= size; i += 8) {                                                                                  \
      for (int64_t l = 0; l < 8; ++l) sum[l] += static_cast<double>(g[i + l]) * static_cast<double>(t[i + l]);       \
    }                                                                                                                \
    for (; i < size; ++i) sum[0] += static_cast<double>(g[i]) * static_cast<double>(t[i]);                           \
    for (int64_t j = 0; j < size; ++j) count += (t[j] == max_abs ? 1 : 0) + (t[j] == -max_abs ? 1 : 0);              \
    *dot = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));                        \
    *ties = count;                                                                                                   \
  }                                                                                                                  \
  BITSTAIR_CPU_CLONES void GradientAll(const T* t, const T* g, T max_abs, T at_max, int64_t size, T* out) {          \
    for (int64_t i = 0; i < size; ++i) {                                                                             \
      const T through_max = t[i] == max_abs ? at_max : (t[i] == -max_abs ? -at_max : T{0});                          \
      out[i] = (T{1} - t[i] * t[i]) * (g[i] / max_abs + through_max);                                                \
    }                                                                                                                \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(double)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

// Tensors are cut into blocks of this many elements; what is summed over blocks is added in their order, so results do not depend on the number of threads.
constexpr int64_t kBlock = 16384;

// f(block, begin, end), on LibTorch's pool.
template <typename F>
void ForBlocks(int64_t size, F&& f) {
  at::parallel_for(0, (size + kBlock - 1) / kBlock, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) f(block, block * kBlock, std::min(size, (block + 1) * kBlock));
  });
}

// NaN if any element is: without its sign, a NaN's pattern is greater than every number's.
template <typename T>
T MaxAbs(const T* t, int64_t size) {
  return std::bit_cast<T>(MaxPattern(t, size));
}

// t = tanh(w); returns max|t|.
template <typename T>
T TanhAndMax(const T* w, int64_t size, T* t) {
  std::vector<T> maxima(static_cast<size_t>((size + kBlock - 1) / kBlock));
  ForBlocks(size, [&](int64_t block, int64_t begin, int64_t end) {
    TanhAll(w + begin, end - begin, t + begin);
    maxima[block] = MaxAbs(t + begin, end - begin);
  });
  return MaxAbs(maxima.data(), static_cast<int64_t>(maxima.size()));
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
    scalar_t max = TanhAndMax(latent.const_data_ptr<scalar_t>(), size, odd);
    if (max == 0) max = 1;  // every t is 0, so c = rint(n/2)
    auto* value = values.mutable_data_ptr<scalar_t>();
    ForBlocks(size, [&](int64_t, int64_t begin, int64_t end) { CodeAll(odd + begin, max, static_cast<scalar_t>(n), end - begin, odd + begin, value + begin); });
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
    const scalar_t max = TanhAndMax(latent.const_data_ptr<scalar_t>(), size, t.data());
    if (max == 0) {
      std::fill_n(out, size, scalar_t{0});
      return;
    }
    const auto blocks = static_cast<size_t>((size + kBlock - 1) / kBlock);
    std::vector<double> dots(blocks);
    std::vector<int64_t> ties_of(blocks);
    ForBlocks(size,
              [&](int64_t block, int64_t begin, int64_t end) { DotAndTies(t.data() + begin, g + begin, max, end - begin, &dots[block], &ties_of[block]); });
    const double dot = std::accumulate(dots.begin(), dots.end(), 0.0), m = max;
    const auto ties = static_cast<double>(std::accumulate(ties_of.begin(), ties_of.end(), int64_t{0}));
    const double at_max = detach_max ? 0 : -dot / (m * m) / ties;
    ForBlocks(size, [&](int64_t, int64_t begin, int64_t end) {
      GradientAll(t.data() + begin, g + begin, max, static_cast<scalar_t>(at_max), end - begin, out + begin);
    });
  });
}

}  // namespace bitstair::core
