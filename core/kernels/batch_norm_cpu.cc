#include "core/kernels/batch_norm.h"

#include <cmath>
#include <type_traits>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

// Each sum has kLanes partial sums: element i goes to lane i % kLanes, lanes are added in order at the end of a plane, planes in order of the image.
constexpr int64_t kLanes = 8;

template <typename Accumulator>
struct Moments {
  Accumulator sum = 0;
  Accumulator squares = 0;
};

// A NaN among integers counts as 0 here: it stays visible in x, which is computed from the sum itself.
template <typename Accumulator, typename S>
[[gnu::always_inline]] inline Accumulator Convert(S s) {
  if constexpr (std::is_integral_v<Accumulator>) return s == s ? static_cast<Accumulator>(s) : 0;
  return static_cast<Accumulator>(s);
}

template <typename Accumulator, typename S>
[[gnu::always_inline]] inline void AddPlane(const S* s, int64_t n, Moments<Accumulator>& total) {
  Accumulator sum[kLanes] = {};
  Accumulator squares[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const auto v = Convert<Accumulator>(s[i + l]);
      sum[l] += v;
      squares[l] += v * v;
    }
  }
  for (int64_t l = 0; i < n; ++i, ++l) {
    const auto v = Convert<Accumulator>(s[i]);
    sum[l] += v;
    squares[l] += v * v;
  }
  for (int64_t l = 0; l < kLanes; ++l) {
    total.sum += sum[l];
    total.squares += squares[l];
  }
}

template <typename T>
[[gnu::always_inline]] inline void BackwardPlane(const T* g, const auto* s, int64_t n, double mean, double& grad_sum, double& grad_dot) {
  double sum[kLanes] = {};
  double dot[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const double v = g[i + l];
      sum[l] += v;
      dot[l] += v * (static_cast<double>(s[i + l]) - mean);
    }
  }
  for (int64_t l = 0; i < n; ++i, ++l) {
    const double v = g[i];
    sum[l] += v;
    dot[l] += v * (static_cast<double>(s[i]) - mean);
  }
  for (int64_t l = 0; l < kLanes; ++l) {
    grad_sum += sum[l];
    grad_dot += dot[l];
  }
}

// target_clones takes plain functions only, so each element type has its own thin overload.
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_PLANES(S)                                                          \
  BITSTAIR_CPU_CLONES void AddPlaneOf(const S* s, int64_t n, Moments<double>& m) {  \
    AddPlane<double>(s, n, m);                                                      \
  }                                                                                 \
  BITSTAIR_CPU_CLONES void AddPlaneOf(const S* s, int64_t n, Moments<int64_t>& m) { \
    AddPlane<int64_t>(s, n, m);                                                     \
  }
BITSTAIR_PLANES(float)
BITSTAIR_PLANES(double)
#undef BITSTAIR_PLANES

#define BITSTAIR_PLANES(S, T)                                                                                                    \
  BITSTAIR_CPU_CLONES void ApplyPlane(const S* s, T alpha, T beta, int64_t n, T* x) {                                            \
    for (int64_t i = 0; i < n; ++i) x[i] = std::fma(static_cast<T>(s[i]), alpha, beta);                                          \
  }                                                                                                                              \
  BITSTAIR_CPU_CLONES void ApplyPlane(const S* s, T alpha, T beta, const T* shortcut, double scale, int64_t n, T* x) {           \
    for (int64_t i = 0; i < n; ++i) x[i] = std::fma(static_cast<T>(s[i]), alpha, beta) + CodeValue(shortcut[i], scale);          \
  }                                                                                                                              \
  BITSTAIR_CPU_CLONES void BackwardPlaneOf(const T* g, const S* s, int64_t n, double mean, double& grad_sum, double& grad_dot) { \
    BackwardPlane(g, s, n, mean, grad_sum, grad_dot);                                                                            \
  }                                                                                                                              \
  BITSTAIR_CPU_CLONES void BackwardApplyPlane(const T* g, const S* s, S mean, T a, T b, T c, int64_t n, T* out) {                \
    for (int64_t i = 0; i < n; ++i) out[i] = std::fma(static_cast<T>(s[i] - mean), b, std::fma(g[i], a, c));                     \
  }
BITSTAIR_PLANES(float, float)
BITSTAIR_PLANES(double, float)
BITSTAIR_PLANES(double, double)
#undef BITSTAIR_PLANES
// NOLINTEND(bugprone-macro-parentheses)

struct Planes {
  int64_t images, channels, size;
};

Planes PlanesOf(const at::Tensor& t) {
  TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.dim() >= 2, "batch norm takes contiguous CPU tensors [N, C, ...], got ", t.sizes());
  const int64_t outer = t.size(0) * t.size(1);
  return {t.size(0), t.size(1), outer == 0 ? 0 : t.numel() / outer};
}

// f(S tag, T tag) for the element types of sums and of the network.
template <typename F>
void DispatchTypes(const at::Tensor& sums, const at::Tensor& x, F&& f) {
  const bool wide_sums = sums.scalar_type() == at::kDouble;
  const bool wide = x.scalar_type() == at::kDouble;
  TORCH_CHECK((wide_sums || sums.scalar_type() == at::kFloat) && (wide || x.scalar_type() == at::kFloat) && (wide_sums || !wide), "batch norm: sums of type ",
              sums.scalar_type(), " with values of type ", x.scalar_type());
  if (wide) {
    f(double{}, double{});
  } else if (wide_sums) {
    f(double{}, float{});
  } else {
    f(float{}, float{});
  }
}

constexpr int64_t kGrainElements = 32768;

int64_t ChannelGrain(const Planes& p) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, p.images * p.size));
}

template <typename Accumulator, typename S>
void StatisticsOf(const S* s, const Planes& p, double* mean, double* variance) {
  const double count = static_cast<double>(p.images * p.size);
  at::parallel_for(0, p.channels, ChannelGrain(p), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      Moments<Accumulator> total;
      for (int64_t n = 0; n < p.images; ++n) AddPlaneOf(s + (n * p.channels + c) * p.size, p.size, total);
      mean[c] = static_cast<double>(total.sum) / count;
      const double v = static_cast<double>(total.squares) / count - mean[c] * mean[c];
      variance[c] = v < 0 ? 0 : v;  // rounding may take it below zero; NaN stays
    }
  });
}

}  // namespace

void BatchNormStatistics(const at::Tensor& sums, int64_t bound, at::Tensor& mean, at::Tensor& variance) {
  const Planes p = PlanesOf(sums);
  // Exact in float64 too while every partial sum stays below 2^53: the faster way to the same number.
  const double squares = static_cast<double>(bound) * static_cast<double>(bound) * static_cast<double>(p.images * p.size);
  const bool integers = bound > 0 && squares >= 0x1p53 && squares < 0x1p63;
  double* m = mean.mutable_data_ptr<double>();
  double* v = variance.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(sums.scalar_type(), "BatchNormStatistics", [&] {
    if (integers) {
      StatisticsOf<int64_t>(sums.const_data_ptr<scalar_t>(), p, m, v);
    } else {
      StatisticsOf<double>(sums.const_data_ptr<scalar_t>(), p, m, v);
    }
  });
}

void BatchNormApply(const at::Tensor& sums, const at::Tensor& alpha, const at::Tensor& beta, const std::optional<at::Tensor>& shortcut, double shortcut_scale,
                    at::Tensor& x) {
  const Planes p = PlanesOf(sums);
  if (shortcut) {
    TORCH_CHECK(shortcut->sizes() == x.sizes() && shortcut->is_contiguous() && shortcut->scalar_type() == x.scalar_type(), "shortcut ", shortcut->sizes(),
                " does not fit ", x.sizes());
  }
  const double* a = alpha.const_data_ptr<double>();
  const double* b = beta.const_data_ptr<double>();
  DispatchTypes(sums, x, [&](auto s_tag, auto t_tag) {
    using S = decltype(s_tag);
    using T = decltype(t_tag);
    const S* s = sums.const_data_ptr<S>();
    const T* add = shortcut ? shortcut->const_data_ptr<T>() : nullptr;
    T* out = x.mutable_data_ptr<T>();
    at::parallel_for(0, p.images * p.channels, std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, p.size)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t c = i % p.channels;
        const int64_t at = i * p.size;
        if (add == nullptr) {
          ApplyPlane(s + at, static_cast<T>(a[c]), static_cast<T>(b[c]), p.size, out + at);
        } else {
          ApplyPlane(s + at, static_cast<T>(a[c]), static_cast<T>(b[c]), add + at, shortcut_scale, p.size, out + at);
        }
      }
    });
  });
}

void BatchNormBackwardSums(const at::Tensor& grad_x, const at::Tensor& sums, const at::Tensor& mean, at::Tensor& grad_sum, at::Tensor& grad_dot) {
  const Planes p = PlanesOf(sums);
  TORCH_CHECK(grad_x.is_contiguous() && grad_x.sizes() == sums.sizes(), "batch norm: gradient ", grad_x.sizes(), " for sums ", sums.sizes());
  const double* m = mean.const_data_ptr<double>();
  double* gs = grad_sum.mutable_data_ptr<double>();
  double* gd = grad_dot.mutable_data_ptr<double>();
  DispatchTypes(sums, grad_x, [&](auto s_tag, auto t_tag) {
    using S = decltype(s_tag);
    using T = decltype(t_tag);
    const S* s = sums.const_data_ptr<S>();
    const T* g = grad_x.const_data_ptr<T>();
    at::parallel_for(0, p.channels, ChannelGrain(p), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        gs[c] = gd[c] = 0;
        for (int64_t n = 0; n < p.images; ++n) {
          const int64_t at = (n * p.channels + c) * p.size;
          BackwardPlaneOf(g + at, s + at, p.size, m[c], gs[c], gd[c]);
        }
      }
    });
  });
}

void BatchNormBackwardApply(const at::Tensor& grad_x, const at::Tensor& sums, const at::Tensor& mean, const at::Tensor& a, const at::Tensor& b,
                            const at::Tensor& c, at::Tensor& grad_sums) {
  const Planes p = PlanesOf(sums);
  const double* m = mean.const_data_ptr<double>();
  const double* pa = a.const_data_ptr<double>();
  const double* pb = b.const_data_ptr<double>();
  const double* pc = c.const_data_ptr<double>();
  DispatchTypes(sums, grad_x, [&](auto s_tag, auto t_tag) {
    using S = decltype(s_tag);
    using T = decltype(t_tag);
    const S* s = sums.const_data_ptr<S>();
    const T* g = grad_x.const_data_ptr<T>();
    T* out = grad_sums.mutable_data_ptr<T>();
    at::parallel_for(0, p.images * p.channels, std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, p.size)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = i % p.channels;
        const int64_t at = i * p.size;
        BackwardApplyPlane(g + at, s + at, static_cast<S>(m[k]), static_cast<T>(pa[k]), static_cast<T>(pb[k]), static_cast<T>(pc[k]), p.size, out + at);
      }
    });
  });
}

}  // namespace bitstair::core
