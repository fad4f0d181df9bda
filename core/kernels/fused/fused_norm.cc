#include "core/kernels/fused/fused_norm.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "core/kernels/fused/norm_kernels.h"
#include "core/kernels/step_clock.h"

namespace bitstair::core {
namespace {

constexpr int64_t kChunkElements = 32768;
constexpr int64_t kMaxWidth = 64;

// What a test asked for; null: the widest there is.
std::atomic<const NormKernels*> chosen{nullptr};

#if defined(__x86_64__)
bool HasAvx512() {
  static const bool has =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

bool HasBf16() {
  static const bool has = HasAvx512() && __builtin_cpu_supports("avx512bf16");
  return has;
}
#endif

VirtualRows RowsOf(RowShape shape) {
  TORCH_CHECK(shape.rows >= 0 && shape.channels > 0, "rows ", shape.rows, " of ", shape.channels, " channels");
  int64_t width = std::lcm(shape.channels, int64_t{16});
  if (width < kMaxWidth && kMaxWidth % width == 0) width = kMaxWidth;
  return {width, shape.size()};
}

int64_t ChunkRows(const VirtualRows& rows) {
  return std::max<int64_t>(1, kChunkElements / rows.width);
}
int64_t Count(const VirtualRows& rows) {
  return (rows.size + rows.width - 1) / rows.width;
}
int64_t Chunks(const VirtualRows& rows) {
  return (Count(rows) + ChunkRows(rows) - 1) / ChunkRows(rows);
}

// f(chunk, first virtual row, behind the last one)
template <typename F>
void ForChunks(const VirtualRows& rows, F&& f) {
  const int64_t step = ChunkRows(rows), count = Count(rows);
  at::parallel_for(0, Chunks(rows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) f(chunk, chunk * step, std::min(count, (chunk + 1) * step));
  });
}

// f(partial sum, its channel), in the order of the chunks.
template <typename F>
void ForPartials(size_t partials, int64_t channels, F&& f) {
  size_t i = 0;
  while (i < partials) {
    for (int64_t c = 0; c < channels; ++c, ++i) f(i, c);
  }
}

ConstArray Const(MutableArray array) {
  return {array.data, array.type};
}

// One pass over these arrays, for the step's clock.
class Pass {
 public:
  Pass(RowShape shape, std::initializer_list<ConstArray> arrays, const void* mask) : timer_(StepPart::kElementwise) {
    size_t bits = mask != nullptr ? 1 : 0;
    for (const ConstArray& array : arrays) bits += array.data != nullptr ? 8 * BytesOf(array.type) : 0;
    CountElementwiseBytes(shape.size() * static_cast<int64_t>(bits) / 8);
  }

 private:
  StepTimer timer_;
};

std::vector<float> Widen(const float* per_channel, int64_t channels, const VirtualRows& rows) {
  std::vector<float> wide;
  if (per_channel == nullptr) return wide;
  wide.resize(static_cast<size_t>(rows.width));
  for (int64_t w = 0; w < rows.width; ++w) wide[w] = per_channel[w % channels];
  return wide;
}

}  // namespace

namespace {

struct NamedKernels {
  const char* name;
  const NormKernels* kernels;
  bool (*runs_here)();
};
// The widest first.
constexpr NamedKernels kAll[] = {
#if defined(__x86_64__)
    {"avx512_bf16", &avx512_bf16::kNormKernels, HasBf16},
    {"avx512", &avx512::kNormKernels, HasAvx512},
#endif
    {"plain", &plain::kNormKernels, [] { return true; }},
};

}  // namespace

const NormKernels& Kernels() {
  if (const NormKernels* asked = chosen.load(std::memory_order_relaxed); asked != nullptr) return *asked;
  static const NormKernels* const widest = std::find_if(std::begin(kAll), std::end(kAll), [](const NamedKernels& k) { return k.runs_here(); })->kernels;
  return *widest;
}

std::string LanesName() {
  return std::find_if(std::begin(kAll), std::end(kAll), [](const NamedKernels& k) { return k.kernels == &Kernels(); })->name;
}
bool SetLanes(const std::string& name) {
  for (const NamedKernels& k : kAll) {
    if (name == k.name && k.runs_here()) {
      chosen = k.kernels;
      return true;
    }
  }
  chosen = nullptr;
  return name.empty();
}

size_t BytesOf(Stored type) {
  switch (type) {
    case Stored::kNone:
      return 0;
    case Stored::kCodes:
      return 1;
    case Stored::kInt16:
    case Stored::kBfloat16:
      return 2;
    default:
      return 4;
  }
}

ChannelMoments::ChannelMoments(int64_t channels) : sum_(channels), squares_(channels), float_sum_(channels), float_squares_(channels) {}

bool ChannelMoments::Add(ConstArray sums, int64_t bound, RowShape shape, MutableArray compact) {
  const Pass pass(shape, {sums, Const(compact)}, nullptr);
  const auto channels = static_cast<int64_t>(sum_.size());
  TORCH_CHECK(shape.channels == channels, "moments of ", channels, " channels, got ", shape.channels);
  const VirtualRows rows = RowsOf(shape);
  const size_t partials = static_cast<size_t>(Chunks(rows) * rows.width);
  count_ += shape.rows;
  std::atomic<bool> fits{true};
  if (sums.type == Stored::kInt32) {
    // So many squares of the greatest S fit 64 bits; chunks of greater S are added up in pieces.
    const int64_t most_rows = std::max<int64_t>(1, bound > 0 ? std::numeric_limits<int64_t>::max() / bound / bound : 1);
    std::vector<int64_t> sum(partials);
    std::vector<Wide> squares(partials);
    ForChunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
      bool piece_fits = true;
      std::vector<int64_t> piece(static_cast<size_t>(2 * rows.width));
      for (int64_t from = begin; from < end; from += most_rows) {
        Kernels().integer_moments(static_cast<const int32_t*>(sums.data), static_cast<int16_t*>(compact.data), rows, from, std::min(end, from + most_rows),
                                  piece.data(), piece.data() + rows.width, &piece_fits);
        for (int64_t w = 0; w < rows.width; ++w) {
          sum[chunk * rows.width + w] += piece[w];
          squares[chunk * rows.width + w] += static_cast<uint64_t>(piece[rows.width + w]);
        }
      }
      if (!piece_fits) fits = false;
    });
    ForPartials(partials, channels, [&](size_t i, int64_t c) {
      sum_[c] += sum[i];
      squares_[c] += squares[i];
    });
    return fits;
  }
  integers_ = false;
  std::vector<float> sum(partials), squares(partials);
  ForChunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    Kernels().float_moments(sums, rows, begin, end, sum.data() + chunk * rows.width, squares.data() + chunk * rows.width);
  });
  ForPartials(partials, channels, [&](size_t i, int64_t c) {
    float_sum_[c] += sum[i];
    float_squares_[c] += squares[i];
  });
  return true;
}

void ChannelMoments::Add(const ChannelMoments& other) {
  if (other.count_ == 0) return;
  TORCH_CHECK(other.sum_.size() == sum_.size() && (count_ == 0 || other.integers_ == integers_), "moments of other channels or of another type");
  count_ += other.count_;
  integers_ = other.integers_;
  for (size_t c = 0; c < sum_.size(); ++c) {
    sum_[c] += other.sum_[c];
    squares_[c] += other.squares_[c];
    float_sum_[c] += other.float_sum_[c];
    float_squares_[c] += other.float_squares_[c];
  }
}

void ChannelMoments::Finish(double* mean, double* variance) const {
  const auto count = static_cast<double>(count_);
  for (size_t c = 0; c < sum_.size(); ++c) {
    const double sum = integers_ ? static_cast<double>(sum_[c]) : float_sum_[c];
    const double squares = integers_ ? static_cast<double>(squares_[c]) : float_squares_[c];
    mean[c] = sum / count;
    const double v = squares / count - mean[c] * mean[c];
    variance[c] = v < 0 ? 0 : v;  // rounding may take it below zero; NaN stays
  }
}

void JoinOddWeights(const int32_t* s, int64_t stride, RowShape shape, int32_t* sums) {
  at::parallel_for(0, shape.rows, std::max<int64_t>(1, kChunkElements / shape.channels),
                   [&](int64_t begin, int64_t end) { Kernels().join(s, stride, shape.channels, sums, begin, end); });
}

bool Normalize(const NormalizeArgs& args) {
  const Pass pass(args.shape, {args.main.sums, args.shortcut, args.shortcut_affine.sums, Const(args.out)}, args.mask);
  const VirtualRows rows = RowsOf(args.shape);
  const std::vector<float> alpha = Widen(args.main.alpha, args.shape.channels, rows), beta = Widen(args.main.beta, args.shape.channels, rows);
  const std::vector<float> other_alpha = Widen(args.shortcut_affine.alpha, args.shape.channels, rows),
                           other_beta = Widen(args.shortcut_affine.beta, args.shape.channels, rows);
  std::atomic<bool> good{true};
  ForChunks(rows, [&](int64_t, int64_t begin, int64_t end) {
    if (!Kernels().normalize(args, alpha.data(), beta.data(), other_alpha.data(), other_beta.data(), rows, begin, end)) good = false;
  });
  return good;
}

void NormGradientSums(const NormGradientArgs& args, double* grad_sum, double* grad_dot, double* other_dot) {
  const Pass pass(args.shape, {args.parts[0].gradient, args.parts[1].gradient, args.sums, args.other_sums, Const(args.masked)}, args.mask);
  const VirtualRows rows = RowsOf(args.shape);
  const int64_t channels = args.shape.channels;
  const std::vector<float> mean = Widen(args.mean, channels, rows), other_mean = Widen(args.other_mean, channels, rows);
  const bool other = args.other_sums.data != nullptr;
  const size_t partials = static_cast<size_t>(Chunks(rows) * rows.width);
  std::vector<float> sum(partials), dot(partials), second(other ? partials : 0);
  ForChunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    const int64_t at = chunk * rows.width;
    Kernels().gradient_sums(args, mean.data(), other_mean.data(), rows, begin, end, sum.data() + at, dot.data() + at, other ? second.data() + at : nullptr);
  });
  std::fill_n(grad_sum, channels, 0);
  std::fill_n(grad_dot, channels, 0);
  if (other) std::fill_n(other_dot, channels, 0);
  ForPartials(partials, channels, [&](size_t i, int64_t c) {
    grad_sum[c] += sum[i];
    grad_dot[c] += dot[i];
    if (other) other_dot[c] += second[i];
  });
}

void NormGradientApply(const NormApplyArgs& args) {
  const Pass pass(args.shape, {args.parts[0].gradient, args.parts[1].gradient, args.sums, Const(args.grad_sums)}, args.mask);
  const VirtualRows rows = RowsOf(args.shape);
  const int64_t channels = args.shape.channels;
  const std::vector<float> mean = Widen(args.mean, channels, rows), a = Widen(args.a, channels, rows), b = Widen(args.b, channels, rows),
                           c = Widen(args.c, channels, rows);
  ForChunks(rows, [&](int64_t, int64_t begin, int64_t end) { Kernels().gradient_apply(args, mean.data(), a.data(), b.data(), c.data(), rows, begin, end); });
}

void ExpandCodes(const uint8_t* codes, int64_t size, MutableArray out) {
  const Pass pass({size, 1}, {{codes, Stored::kCodes}, Const(out)}, nullptr);
  at::parallel_for(0, size, kChunkElements, [&](int64_t begin, int64_t end) { Kernels().expand(codes, out, begin, end); });
}

void AddParts(const GradientPart (&parts)[2], int64_t size, MutableArray sum) {
  const Pass pass({size, 1}, {parts[0].gradient, parts[1].gradient, Const(sum)}, nullptr);
  at::parallel_for(0, (size + kChunkElements - 1) / kChunkElements, 1,
                   [&](int64_t begin, int64_t end) { Kernels().add(parts, sum, begin * kChunkElements, std::min(size, end * kChunkElements)); });
}

}  // namespace bitstair::core
