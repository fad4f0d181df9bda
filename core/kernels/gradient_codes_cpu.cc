#include "core/kernels/gradient_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>

#include "core/kernels/bfloat16.h"
#include "core/kernels/cpu_clones.h"
#include "core/kernels/fused/norm_kernels.h"
#include "core/kernels/step_clock.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

constexpr int64_t kBlocks = 16;           // Philox blocks side by side, for the vector units
constexpr int64_t kStrip = 16 * kBlocks;  // elements that take their bytes: one each
constexpr int64_t kPiece = 64 * kStrip;   // elements of a thread's piece of work
constexpr float kGreatest = 127;

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                                       \
  BITSTAIR_CPU_CLONES uint32_t GreatestPattern(const T* g, int64_t size) {                                      \
    uint32_t max = 0;                                                                                           \
    for (int64_t i = 0; i < size; ++i) {                                                                        \
      const uint32_t pattern = std::bit_cast<uint32_t>(Value(g[i])) & 0x7fffffffu;                              \
      max = pattern > max ? pattern : max;                                                                      \
    }                                                                                                           \
    return max;                                                                                                 \
  }                                                                                                             \
  BITSTAIR_CPU_CLONES void RoundAll(const T* g, const uint8_t* random, float factor, int64_t size, int8_t* q) { \
    for (int64_t i = 0; i < size; ++i) {                                                                        \
      const float u = (static_cast<float>(random[i]) + 0.5f) * 0x1p-8f;                                         \
      float x = std::floor(Value(g[i]) * factor + u);                                                           \
      x = x < -kGreatest ? -kGreatest : x;                                                                      \
      q[i] = static_cast<int8_t>(static_cast<int32_t>(x > kGreatest ? kGreatest : x));                          \
    }                                                                                                           \
  }                                                                                                             \
  BITSTAIR_CPU_CLONES void ScaleAll(float scale, int64_t size, T* x) {                                          \
    for (int64_t i = 0; i < size; ++i) Set(x[i], Value(x[i]) * scale);                                          \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(Bfloat16)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

// The key of an image's numbers.
uint64_t KeyOf(const GradientRandom& random, int64_t image) {
  const auto c = static_cast<uint32_t>((random.layer << 20) + static_cast<uint32_t>(random.first_image + image));
  const std::array<uint32_t, 4> words = Philox4x32(random.seed, Purpose::kGradient, random.epoch, random.batch, c);
  return (uint64_t{words[1]} << 32) | words[0];
}

// f(image, first element, count), shared out among the threads.
template <typename F>
void ForPieces(int64_t images, int64_t per_image, F&& f) {
  const int64_t pieces = (per_image + kPiece - 1) / kPiece;
  at::parallel_for(0, images * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i % pieces * kPiece;
      f(i / pieces, at, std::min(kPiece, per_image - at));
    }
  });
}

template <typename T>
void Quantize(const T* g, int64_t images, int64_t per_image, const GradientRandom& random, int64_t from, int8_t* q, float* scales) {
  const int64_t pieces = (per_image + kPiece - 1) / kPiece;
  std::vector<uint32_t> greatest(static_cast<size_t>(images * pieces));
  ForPieces(images, per_image,
            [&](int64_t image, int64_t at, int64_t count) { greatest[image * pieces + at / kPiece] = GreatestPattern(g + image * per_image + at, count); });
  for (int64_t image = 0; image < images; ++image) {
    const auto first = greatest.begin() + image * pieces;
    const auto max = std::bit_cast<float>(*std::max_element(first, first + pieces));
    scales[image] = std::isfinite(max) ? max / kGreatest : std::numeric_limits<float>::quiet_NaN();
  }
  ForPieces(images, per_image, [&](int64_t image, int64_t at, int64_t count) {
    const T* piece = g + image * per_image + at;
    int8_t* to = q + image * per_image + at;
    const float factor = scales[image] > 0 ? 1 / scales[image] : 0;
    if (!(factor > 0 && std::isfinite(factor))) {  // nothing but zeros and denormals, or not a number
      std::fill_n(to, count, int8_t{0});
      return;
    }
    const uint64_t key = KeyOf(random, from + image);
    for (int64_t i = 0; i < count; i += kStrip) {
      uint32_t words[4 * kBlocks];
      Kernels().philox16(key, static_cast<uint32_t>(Purpose::kGradient), static_cast<uint32_t>((at + i) / 16), words);
      RoundAll(piece + i, reinterpret_cast<const uint8_t*>(words), factor, std::min(kStrip, count - i), to + i);
    }
  });
}

}  // namespace

void QuantizeGradients(ConstArray g, int64_t images, int64_t per_image, const GradientRandom& random, int64_t from, int8_t* q, float* scales) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(images * per_image * static_cast<int64_t>(2 * BytesOf(g.type) + 1));
  if (g.type == Stored::kBfloat16) {
    Quantize(static_cast<const Bfloat16*>(g.data), images, per_image, random, from, q, scales);
  } else {
    Quantize(static_cast<const float*>(g.data), images, per_image, random, from, q, scales);
  }
}

void ScaleImages(MutableArray x, int64_t images, int64_t per_image, const float* scales) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(images * per_image * static_cast<int64_t>(2 * BytesOf(x.type)));
  ForPieces(images, per_image, [&](int64_t image, int64_t at, int64_t count) {
    if (x.type == Stored::kBfloat16) {
      ScaleAll(scales[image], count, static_cast<Bfloat16*>(x.data) + image * per_image + at);
    } else {
      ScaleAll(scales[image], count, static_cast<float*>(x.data) + image * per_image + at);
    }
  });
}

}  // namespace bitstair::core
