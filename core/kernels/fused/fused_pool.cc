#include "core/kernels/fused/fused_pool.h"

#include <algorithm>
#include <bit>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "core/kernels/cpu_clones.h"

#include "core/kernels/step_clock.h"

namespace bitstair::core {
namespace {

struct Bfloat16 {
  uint16_t bits;
};
[[gnu::always_inline]] inline float ToFloat(uint8_t x) {
  return x;
}
[[gnu::always_inline]] inline float ToFloat(float x) {
  return x;
}
[[gnu::always_inline]] inline float ToFloat(Bfloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
[[gnu::always_inline]] inline void FromFloat(float x, float* to) {
  *to = x;
}
[[gnu::always_inline]] inline void FromFloat(float x, Bfloat16* to) {
  const auto bits = std::bit_cast<uint32_t>(x);
  to->bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // gradients that are not numbers stop the training elsewhere
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_POOL_LOOPS(T)                                                                                 \
  BITSTAIR_CPU_CLONES void TakeGreater(const T* x, uint8_t index, int64_t channels, T* best, uint8_t* taken) { \
    for (int64_t c = 0; c < channels; ++c) {                                                                   \
      const bool greater = ToFloat(x[c]) > ToFloat(best[c]);                                                   \
      best[c] = greater ? x[c] : best[c];                                                                      \
      taken[c] = greater ? index : taken[c];                                                                   \
    }                                                                                                          \
  }
BITSTAIR_POOL_LOOPS(uint8_t)
BITSTAIR_POOL_LOOPS(Bfloat16)
BITSTAIR_POOL_LOOPS(float)
#undef BITSTAIR_POOL_LOOPS
#define BITSTAIR_POOL_LOOPS(T)                                                                                               \
  BITSTAIR_CPU_CLONES void AddWhereTaken(const T* grad, const uint8_t* taken, uint8_t index, int64_t channels, float* sum) { \
    for (int64_t c = 0; c < channels; ++c) sum[c] += taken[c] == index ? ToFloat(grad[c]) : 0.0f;                            \
  }                                                                                                                          \
  BITSTAIR_CPU_CLONES void StoreSum(const float* sum, int64_t channels, T* out) {                                            \
    for (int64_t c = 0; c < channels; ++c) FromFloat(sum[c], out + c);                                                       \
  }
BITSTAIR_POOL_LOOPS(Bfloat16)
BITSTAIR_POOL_LOOPS(float)
#undef BITSTAIR_POOL_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

void Check(const PoolShape& s) {
  TORCH_CHECK(s.size >= 1 && s.size <= 15 && s.stride >= 1 && s.padding >= 0 && s.padding < s.size && s.height + 2 * s.padding >= s.size &&
                  s.width + 2 * s.padding >= s.size,
              "max pool: window ", s.size, " stride ", s.stride, " padding ", s.padding, " over ", s.height, "x", s.width);
}

template <typename T>
void PoolRow(const PoolShape& s, const T* x, int64_t image, int64_t oy, T* pooled, uint8_t* taken) {
  for (int64_t ox = 0; ox < s.out_width(); ++ox) {
    const int64_t at = ((image * s.out_height() + oy) * s.out_width() + ox) * s.channels;
    bool first = true;
    for (int64_t ky = 0; ky < s.size; ++ky) {
      const int64_t y = oy * s.stride + ky - s.padding;
      if (y < 0 || y >= s.height) continue;
      for (int64_t kx = 0; kx < s.size; ++kx) {
        const int64_t column = ox * s.stride + kx - s.padding;
        if (column < 0 || column >= s.width) continue;
        const T* from = x + ((image * s.height + y) * s.width + column) * s.channels;
        const auto index = static_cast<uint8_t>(ky * s.size + kx);
        if (first) {
          std::copy_n(from, s.channels, pooled + at);
          std::fill_n(taken + at, s.channels, index);
          first = false;
        } else {
          TakeGreater(from, index, s.channels, pooled + at, taken + at);
        }
      }
    }
  }
}

template <typename T>
void GradientRow(const PoolShape& s, const T* grad, const uint8_t* taken, int64_t image, int64_t y, T* grad_x, std::vector<float>& sum) {
  for (int64_t x = 0; x < s.width; ++x) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    // Windows that hold (y, x): oy stride <= y + padding < oy stride + size.
    const int64_t first_y = std::max<int64_t>(0, (y + s.padding - s.size + s.stride) / s.stride),
                  last_y = std::min((y + s.padding) / s.stride, s.out_height() - 1);
    const int64_t first_x = std::max<int64_t>(0, (x + s.padding - s.size + s.stride) / s.stride),
                  last_x = std::min((x + s.padding) / s.stride, s.out_width() - 1);
    for (int64_t oy = first_y; oy <= last_y; ++oy) {
      for (int64_t ox = first_x; ox <= last_x; ++ox) {
        const int64_t at = ((image * s.out_height() + oy) * s.out_width() + ox) * s.channels;
        const auto index = static_cast<uint8_t>((y + s.padding - oy * s.stride) * s.size + (x + s.padding - ox * s.stride));
        AddWhereTaken(grad + at, taken + at, index, s.channels, sum.data());
      }
    }
    StoreSum(sum.data(), s.channels, grad_x + ((image * s.height + y) * s.width + x) * s.channels);
  }
}

}  // namespace

void MaxPoolRows(const PoolShape& shape, ConstArray x, MutableArray pooled, uint8_t* taken) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(shape.images * shape.channels *
                        (shape.height * shape.width * static_cast<int64_t>(BytesOf(x.type)) +
                         shape.out_height() * shape.out_width() * static_cast<int64_t>(BytesOf(x.type) + 1)));
  Check(shape);
  const auto run = [&]<typename T>(T) {
    at::parallel_for(0, shape.images * shape.out_height(), 4, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        PoolRow(shape, static_cast<const T*>(x.data), row / shape.out_height(), row % shape.out_height(), static_cast<T*>(pooled.data), taken);
      }
    });
  };
  switch (x.type) {
    case Stored::kCodes:
      return run(uint8_t{});
    case Stored::kBfloat16:
      return run(Bfloat16{});
    default:
      return run(float{});
  }
}

void MaxPoolRowsBackward(const PoolShape& shape, ConstArray grad_pooled, const uint8_t* taken, MutableArray grad_x) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(shape.images * shape.channels *
                        (shape.height * shape.width * static_cast<int64_t>(BytesOf(grad_x.type)) +
                         shape.out_height() * shape.out_width() * static_cast<int64_t>(BytesOf(grad_x.type) + 1)));
  Check(shape);
  const auto run = [&]<typename T>(T) {
    at::parallel_for(0, shape.images * shape.height, 4, [&](int64_t begin, int64_t end) {
      std::vector<float> sum(static_cast<size_t>(shape.channels));
      for (int64_t row = begin; row < end; ++row) {
        GradientRow(shape, static_cast<const T*>(grad_pooled.data), taken, row / shape.height, row % shape.height, static_cast<T*>(grad_x.data), sum);
      }
    });
  };
  if (grad_pooled.type == Stored::kBfloat16) {
    run(Bfloat16{});
  } else {
    run(float{});
  }
}

}  // namespace bitstair::core
