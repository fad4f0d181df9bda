// The loops of norm_kernels.inc on lanes_avx512.h.
#define BITSTAIR_LANES avx512
#define BITSTAIR_TYPED_LOOPS
#define BITSTAIR_INLINE __attribute__((always_inline))
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/kernels/fused/lanes_avx512.h"
#include "core/kernels/fused/norm_kernels.h"
#include "core/kernels/fused/norm_kernels.inc"
