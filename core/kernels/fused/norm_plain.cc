// The loops of norm_kernels.inc on lanes_plain.h.
#define BITSTAIR_LANES plain
#define BITSTAIR_INLINE
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/kernels/fused/lanes_plain.h"
#include "core/kernels/fused/norm_kernels.h"
#include "core/kernels/fused/norm_kernels.inc"
