#include "core/kernels/range_gradient.h"

#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "core/kernels/bfloat16.h"
#include "core/kernels/cpu_clones.h"

namespace bitstair::core {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 4096;  // elements that one float32 sum may cover, per lane 256

BITSTAIR_CPU_CLONES void AddScaled(const float* part, float scale, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] += scale * part[i];
}
BITSTAIR_CPU_CLONES void AddScaled(const Bfloat16* part, float scale, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] += scale * Value(part[i]);
}

// mask: the word of the first element, whose number is a multiple of 16.
BITSTAIR_CPU_CLONES double SumBlock(const float* g, const uint8_t* codes, const uint16_t* mask, const float* unrounded, float n, int64_t size) {
  float sum[kLanes] = {};
  for (int64_t at = 0; at < size; at += kLanes) {
    const unsigned word = mask[at / kLanes];
    const int64_t count = std::min(kLanes, size - at);
    for (int64_t l = 0; l < count; ++l) {
      const auto code = static_cast<float>(codes[at + l]);
      const float inside = unrounded != nullptr ? code - n * unrounded[at + l] : 0.0f;
      sum[l] += g[at + l] * ((word >> l & 1u) != 0 ? inside : code);
    }
  }
  double total = 0;
  for (const float s : sum) total += s;
  return total;
}

}  // namespace

double SumRangeGradient(const RangeGradientArgs& args) {
  static_assert(kBlock % kLanes == 0);
  const int64_t blocks = (args.size + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
    float g[kBlock];
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlock, size = std::min(kBlock, args.size - first);
      std::fill_n(g, size, 0.0f);
      for (const GradientPart& part : args.parts) {
        if (part.gradient.data == nullptr) continue;
        if (part.gradient.type == Stored::kBfloat16) {
          AddScaled(static_cast<const Bfloat16*>(part.gradient.data) + first, part.scale, size, g);
        } else {
          TORCH_CHECK(part.gradient.type == Stored::kFloat32, "a range's gradient takes floats");
          AddScaled(static_cast<const float*>(part.gradient.data) + first, part.scale, size, g);
        }
      }
      sums[b] = SumBlock(g, args.codes + first, args.mask + first / kLanes, args.unrounded != nullptr ? args.unrounded + first : nullptr, args.n, size);
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace bitstair::core
