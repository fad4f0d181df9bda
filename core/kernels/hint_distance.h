// How far the features of a guided pair are apart at a hint point, and the gradients of that, in one pass over both (DESIGN section 3, "Guided"; Zhuang et al.,
// arXiv 1711.00205, guided training).
#pragma once

#include <cstdint>

#include "core/kernels/fused/fused_norm.h"

namespace bitstair::core {

struct HintArgs {
  int64_t size = 0;         // elements of each array
  ConstArray low;           // kCodes: 0..n; kBfloat16 or kFloat32: values
  ConstArray full;          // kBfloat16 or kFloat32: values
  float n = 0;              // greatest code; 0: Q is the clip alone
  MutableArray difference;  // d where the low net's gradient passes, else 0
  MutableArray
      full_masked;  // d where the full net's gradient passes, else 0. May be empty where no float of the two is outside of [0, 1]: then it equals `difference`
};

// d = c(low) - c(full), where c(x) = rint(n clip(x, 0, 1)), or clip(x, 0, 1) for n = 0, and c(code) = code. The gradient of Q passes where 0 <= x <= 1, and at
// codes. Values are d in units of 1/n: the distance and the gradients by values follow from factors that the caller knows. Outputs: kBfloat16 (d up to 255 is
// exact) or kFloat32. Returns sum d^2: float32 over 4096 elements in 16 lanes, then float64 in the order of the elements, so it does not depend on the number
// of threads. A NaN in a float array gives a NaN. CPU only; runs on LibTorch's intra-op pool; allocates only the partial sums.
double HintDistance(const HintArgs& args);

}  // namespace bitstair::core
