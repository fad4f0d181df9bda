#include "core/kernels/allocator.h"

#include <limits>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace bitstair::core {

void KeepFreedMemory() {
#if defined(__GLIBC__)
  constexpr int never = std::numeric_limits<int>::max();
  mallopt(M_MMAP_MAX, 0);  // M_MMAP_THRESHOLD takes no more than 32 MiB
  mallopt(M_TRIM_THRESHOLD, never);
#endif
}

}  // namespace bitstair::core
