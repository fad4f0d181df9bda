#include <bit>

#include <ATen/Parallel.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/float_halves.h"
#include "core/kernels/step_clock.h"

namespace bitstair::core {
namespace {

constexpr int64_t kGrainElements = 32768;
constexpr int64_t kElementBytes = 8;  // that one element reads and writes

BITSTAIR_CPU_CLONES void Split(const float* numbers, int64_t n, Bfloat16* upper, uint16_t* lower) {
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(numbers[i]);
    upper[i].bits = static_cast<uint16_t>(bits >> 16);
    lower[i] = static_cast<uint16_t>(bits);
  }
}

BITSTAIR_CPU_CLONES void Join(const Bfloat16* upper, const uint16_t* lower, int64_t n, float* numbers) {
  for (int64_t i = 0; i < n; ++i) numbers[i] = std::bit_cast<float>(static_cast<uint32_t>(upper[i].bits) << 16 | lower[i]);
}

// f(begin, end) over all elements.
template <typename F>
void ForElements(int64_t size, F&& f) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(size * kElementBytes);
  at::parallel_for(0, size, kGrainElements, f);
}

}  // namespace

void SplitFloats(const float* numbers, int64_t size, Bfloat16* upper, uint16_t* lower) {
  ForElements(size, [&](int64_t begin, int64_t end) { Split(numbers + begin, end - begin, upper + begin, lower + begin); });
}

void JoinFloats(const Bfloat16* upper, const uint16_t* lower, int64_t size, float* numbers) {
  ForElements(size, [&](int64_t begin, int64_t end) { Join(upper + begin, lower + begin, end - begin, numbers + begin); });
}

}  // namespace bitstair::core
