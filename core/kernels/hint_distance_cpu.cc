#include "core/kernels/hint_distance.h"

#include <algorithm>
#include <bit>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "core/kernels/bfloat16.h"
#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"
#include "core/kernels/step_clock.h"

namespace bitstair::core {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 4096;        // elements of one partial sum
constexpr int64_t kPiece = 8 * kBlock;  // elements of a thread's piece of work

// c(x), n > 0: rounded
[[gnu::always_inline]] inline float Level(float x, float n, bool round) {
  const float clipped = Clip01(x);
  return round ? std::rint(n * clipped) : clipped;
}
[[gnu::always_inline]] inline float Low(uint8_t code, float, bool) {
  return static_cast<float>(code);
}
[[gnu::always_inline]] inline bool LowPasses(uint8_t) {
  return true;
}
template <typename T>
[[gnu::always_inline]] inline float Low(T x, float n, bool round) {
  return Level(Value(x), n, round);
}
template <typename T>
[[gnu::always_inline]] inline bool LowPasses(T x) {
  return ClipPasses(Value(x));
}

// A block; whole lanes first, so that the loop over lanes has a fixed length.
template <typename L, typename F, bool kRound, bool kMasked>
[[gnu::always_inline]] inline double Block(const L* low, const F* full, float n, F* difference, F* masked, int64_t size) {
  float sum[kLanes] = {};
  const auto one = [&](int64_t i, float& total) __attribute__((always_inline)) {
    const float z = Value(full[i]);
    const float d = Low(low[i], n, kRound) - Level(z, n, kRound);
    Set(difference[i], LowPasses(low[i]) ? d : 0.0f);
    if (kMasked) Set(masked[i], ClipPasses(z) ? d : 0.0f);
    total += d * d;
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) one(i + lane, sum[lane]);
  }
  for (int64_t lane = 0; i + lane < size; ++lane) one(i + lane, sum[lane]);
  double total = 0;
  for (const float s : sum) total += s;
  return total;
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
// target_clones does not work on templates, so each pair of types gets a function of its own.
#define BITSTAIR_BLOCK(L, F)                                                                                                                               \
  BITSTAIR_CPU_CLONES double HintBlock(const L* low, const F* full, float n, F* difference, F* masked, int64_t size) {                                     \
    if (masked == nullptr) {                                                                                                                               \
      return n > 0 ? Block<L, F, true, false>(low, full, n, difference, masked, size) : Block<L, F, false, false>(low, full, n, difference, masked, size); \
    }                                                                                                                                                      \
    return n > 0 ? Block<L, F, true, true>(low, full, n, difference, masked, size) : Block<L, F, false, true>(low, full, n, difference, masked, size);     \
  }
BITSTAIR_BLOCK(uint8_t, float)
BITSTAIR_BLOCK(uint8_t, Bfloat16)
BITSTAIR_BLOCK(float, float)
BITSTAIR_BLOCK(Bfloat16, Bfloat16)
#undef BITSTAIR_BLOCK
// NOLINTEND(bugprone-macro-parentheses)

template <typename L, typename F>
double Distance(const HintArgs& args) {
  const auto* low = static_cast<const L*>(args.low.data);
  const auto* full = static_cast<const F*>(args.full.data);
  auto* difference = static_cast<F*>(args.difference.data);
  auto* masked = static_cast<F*>(args.full_masked.data);
  std::vector<double> sums(static_cast<size_t>((args.size + kBlock - 1) / kBlock));
  at::parallel_for(0, (args.size + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * kPiece; at < std::min(args.size, end * kPiece); at += kBlock) {
      sums[at / kBlock] = HintBlock(low + at, full + at, args.n, difference + at, masked != nullptr ? masked + at : nullptr, std::min(kBlock, args.size - at));
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

double HintDistance(const HintArgs& args) {
  const StepTimer timer(StepPart::kElementwise);
  const Stored floats = args.full.type;
  TORCH_CHECK((floats == Stored::kFloat32 || floats == Stored::kBfloat16) && (args.low.type == Stored::kCodes || args.low.type == floats) &&
                  args.difference.type == floats && (args.full_masked.data == nullptr || args.full_masked.type == floats),
              "hint arrays of other types than codes and one float type");
  TORCH_CHECK(args.low.type != Stored::kCodes || args.n > 0, "codes without their greatest one");
  CountElementwiseBytes(args.size *
                        static_cast<int64_t>(BytesOf(args.low.type) + 2 * BytesOf(floats) + (args.full_masked.data != nullptr ? BytesOf(floats) : 0)));
  if (floats == Stored::kFloat32) return args.low.type == Stored::kCodes ? Distance<uint8_t, float>(args) : Distance<float, float>(args);
  return args.low.type == Stored::kCodes ? Distance<uint8_t, Bfloat16>(args) : Distance<Bfloat16, Bfloat16>(args);
}

}  // namespace bitstair::core
