// The table of chunk loops behind fused_norm.h and fused_pool.h: one per kind of lanes. Private to kernels/fused/.
#pragma once

#include <cstdint>

#include "core/kernels/fused/fused_norm.h"

namespace bitstair::core {

// The array cut into virtual rows of `width` elements (see norm_kernels.inc).
struct VirtualRows {
  int64_t width = 0;
  int64_t size = 0;  // elements in all
};

// Where an input lies that a window looks at (or a window that looks at an input), by row or by column, and its share of its place in the window: offsets and
// places of a row and of a column add up.
struct PoolLink {
  int64_t at;  // elements
  uint8_t index;
};

// All links of a row of windows (or of inputs): those of column x are rows x columns[column_begin[x] .. column_begin[x + 1]).
struct PoolLinks {
  const PoolLink* rows = nullptr;
  int64_t row_count = 0;
  const PoolLink* columns = nullptr;
  const int32_t* column_begin = nullptr;
  int64_t width = 0;
  int64_t channels = 0;
};

// Per-channel vectors come widened to a virtual row's width.
struct NormKernels {
  void (*integer_moments)(const int32_t* s, int16_t* compact, const VirtualRows& rows, int64_t begin, int64_t end, int64_t* sum, int64_t* squares, bool* fits);
  void (*float_moments)(ConstArray s, const VirtualRows& rows, int64_t begin, int64_t end, float* sum, float* squares);
  bool (*normalize)(const NormalizeArgs& args, const float* alpha, const float* beta, const float* other_alpha, const float* other_beta,
                    const VirtualRows& rows, int64_t begin, int64_t end);
  void (*gradient_sums)(const NormGradientArgs& args, const float* mean, const float* other_mean, const VirtualRows& rows, int64_t begin, int64_t end,
                        float* sum, float* dot, float* other_dot);
  void (*gradient_apply)(const NormApplyArgs& args, const float* mean, const float* a, const float* b, const float* c, const VirtualRows& rows, int64_t begin,
                         int64_t end);
  void (*expand)(const uint8_t* codes, MutableArray out, int64_t begin, int64_t end);
  void (*add)(const GradientPart (&parts)[2], MutableArray sum, int64_t begin, int64_t end);
  void (*join)(const int32_t* s, int64_t stride, int64_t channels, int32_t* sums, int64_t begin, int64_t end);
  // A row of `width` windows, per channel: the first greatest of its inputs, at least one, to pooled[at..], its place to taken[at..].
  void (*take_greatest)(ConstArray x, const PoolLinks& links, int64_t at, MutableArray pooled, uint8_t* taken);
  // A row of `width` inputs: grad_x[at..] = sum of the gradients of windows that took this input, in float32.
  void (*sum_where_taken)(ConstArray grad, const uint8_t* taken, const PoolLinks& links, int64_t at, MutableArray grad_x);
  void (*philox16)(uint64_t key, uint32_t counter0, uint32_t first, uint32_t* words);
};

namespace avx512_bf16 {
extern const NormKernels kNormKernels;
}
namespace avx512 {
extern const NormKernels kNormKernels;
}
namespace plain {
extern const NormKernels kNormKernels;
}

// The table for this processor.
const NormKernels& Kernels();

}  // namespace bitstair::core
