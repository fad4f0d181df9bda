#include "core/kernels/max_pool.h"

#include <cstring>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"

namespace bitstair::core {
namespace {

template <typename T>
[[gnu::always_inline]] inline void PlaneForward(const T* x, int64_t width, int64_t size, int64_t out_height, int64_t out_width, T* pooled, uint8_t* taken) {
  for (int64_t r = 0; r < out_height; ++r) {
    for (int64_t c = 0; c < out_width; ++c) {
      const T* window = x + r * size * width + c * size;
      T best = window[0];
      uint8_t first = 0;
      for (int64_t i = 0; i < size; ++i) {
        for (int64_t j = 0; j < size; ++j) {
          const T v = window[i * width + j];
          const bool better = v > best || (v != v && best == best);
          best = better ? v : best;
          first = better ? static_cast<uint8_t>(i * size + j) : first;
        }
      }
      pooled[r * out_width + c] = best;
      taken[r * out_width + c] = first;
    }
  }
}

template <typename T>
[[gnu::always_inline]] inline void PlaneBackward(const T* g, const uint8_t* taken, int64_t width, int64_t size, int64_t out_height, int64_t out_width, T* out) {
  for (int64_t r = 0; r < out_height; ++r) {
    for (int64_t i = 0; i < size; ++i) {
      T* row = out + (r * size + i) * width;
      for (int64_t c = 0; c < out_width; ++c) {
        for (int64_t j = 0; j < size; ++j) row[c * size + j] = taken[r * out_width + c] == i * size + j ? g[r * out_width + c] : T{0};
      }
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_PLANES(T)                                                                                                    \
  BITSTAIR_CPU_CLONES void Forward(const T* x, int64_t w, int64_t k, int64_t oh, int64_t ow, T* pooled, uint8_t* taken) {     \
    if (k == 2) {                                                                                                             \
      PlaneForward(x, w, 2, oh, ow, pooled, taken);                                                                           \
    } else {                                                                                                                  \
      PlaneForward(x, w, k, oh, ow, pooled, taken);                                                                           \
    }                                                                                                                         \
  }                                                                                                                           \
  BITSTAIR_CPU_CLONES void Backward(const T* g, const uint8_t* taken, int64_t w, int64_t k, int64_t oh, int64_t ow, T* out) { \
    if (k == 2) {                                                                                                             \
      PlaneBackward(g, taken, w, 2, oh, ow, out);                                                                             \
    } else {                                                                                                                  \
      PlaneBackward(g, taken, w, k, oh, ow, out);                                                                             \
    }                                                                                                                         \
  }
BITSTAIR_PLANES(float)
BITSTAIR_PLANES(double)
#undef BITSTAIR_PLANES
// NOLINTEND(bugprone-macro-parentheses)

struct Shape {
  int64_t planes, height, width, out_height, out_width;
};

Shape ShapeOf(const at::Tensor& x, const at::Tensor& pooled, const at::Tensor& taken, int64_t size) {
  TORCH_CHECK(x.dim() == 4 && size >= 1 && size <= 16 && pooled.dim() == 4 && pooled.size(2) == x.size(2) / size && pooled.size(3) == x.size(3) / size &&
                  taken.sizes() == pooled.sizes() && taken.scalar_type() == at::kByte && x.is_cpu() && x.is_contiguous() && pooled.is_contiguous() &&
                  taken.is_contiguous(),
              "max pool of size ", size, ": ", x.sizes(), " to ", pooled.sizes());
  return {x.size(0) * x.size(1), x.size(2), x.size(3), pooled.size(2), pooled.size(3)};
}

constexpr int64_t kGrainElements = 16384;

}  // namespace

void MaxPool(const at::Tensor& x, int64_t size, at::Tensor& pooled, at::Tensor& taken) {
  const Shape s = ShapeOf(x, pooled, taken, size);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "MaxPool", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* out = pooled.mutable_data_ptr<scalar_t>();
    auto* index = taken.mutable_data_ptr<uint8_t>();
    const int64_t out_size = s.out_height * s.out_width;
    at::parallel_for(0, s.planes, 1 + kGrainElements / (s.height * s.width + 1), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        Forward(in + p * s.height * s.width, s.width, size, s.out_height, s.out_width, out + p * out_size, index + p * out_size);
      }
    });
  });
}

void MaxPoolBackward(const at::Tensor& grad_pooled, const at::Tensor& taken, int64_t size, at::Tensor& grad_x) {
  const Shape s = ShapeOf(grad_x, grad_pooled, taken, size);
  AT_DISPATCH_FLOATING_TYPES(grad_x.scalar_type(), "MaxPoolBackward", [&] {
    const auto* g = grad_pooled.const_data_ptr<scalar_t>();
    const auto* index = taken.const_data_ptr<uint8_t>();
    auto* out = grad_x.mutable_data_ptr<scalar_t>();
    const int64_t out_size = s.out_height * s.out_width;
    if (s.out_height * size != s.height || s.out_width * size != s.width) {
      std::memset(out, 0, sizeof(scalar_t) * static_cast<size_t>(grad_x.numel()));
    }
    at::parallel_for(0, s.planes, 1 + kGrainElements / (s.height * s.width + 1), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        Backward(g + p * out_size, index + p * out_size, s.width, size, s.out_height, s.out_width, out + p * s.height * s.width);
      }
    });
  });
}

}  // namespace bitstair::core
