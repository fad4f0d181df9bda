#include "core/kernels/weight_gradient.h"

#include <algorithm>
#include <memory>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#if defined(__x86_64__)
#include <immintrin.h>

// Words: a pair of bfloat16 of two positions, the first in the low half. With "block" for the output rows worked on together:
//   gradients  [O / kOut][words of the block][kOut]                       words, kOut output channels side by side
//   inputs     [copy][plane][row][words of a row][lanes]                  words of some input channels
//   sum        [I / lanes][kh][kw][O / kOut][kOut][lanes]                 floats
// A plane is what makes one image of words, in one of two ways:
//   two images   a word is one position of images 2n and 2n + 1. Nothing else moves, so positions outside of the image are left out. For an even number of
//                images.
//   columns      of one image, 2q and 2q + 1. Input words begin at column 2 s q + kw - p: kw and kw + 2 s have the same ones, shifted by one; so there are
//                min(k, 2 s) copies. Columns outside of the image are zeros.
namespace bitstair::core {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kWordsOfBlock = 512;  // about; more would leave the second-level cache, fewer load and store the sums more often

// A tile of sums in registers: kOut output channels times kInputs registers of input channels.
template <int64_t kOut_, int64_t kInputs_>
struct Tile {
  static constexpr int64_t kOut = kOut_, kInputs = kInputs_, kWidth = kInputs_ * kLanes;
};
using Wide = Tile<8, 2>;
using Narrow = Tile<16, 1>;

struct Geometry {
  ConvolutionShape shape;
  int64_t height, width, out_height, out_width;
  bool two_images;
  int64_t planes;
  int64_t words;     // of an output row
  int64_t copies;    // of the inputs
  int64_t in_words;  // of a row of a copy

  Geometry(const ConvolutionShape& s, int64_t n, int64_t h, int64_t w)
      : shape(s),
        height(h),
        width(w),
        out_height(s.Out(h)),
        out_width(s.Out(w)),
        two_images(n % 2 == 0),
        planes(two_images ? n / 2 : n),
        words(two_images ? out_width : (out_width + 1) / 2),
        copies(two_images ? 1 : std::min(s.kernel, 2 * s.stride)),
        in_words(two_images ? width : words + (s.kernel - 1) / (2 * s.stride)) {}

  // Output columns whose input column exists, of the kernel's column kw, when words are two images'.
  int64_t FirstColumn(int64_t kw) const { return std::max<int64_t>(0, (shape.padding - kw + shape.stride - 1) / shape.stride); }
  int64_t EndColumn(int64_t kw) const {
    const int64_t last = width - 1 + shape.padding - kw;
    return last < 0 ? 0 : std::min(out_width, last / shape.stride + 1);
  }
};

// Output rows [begin, end) of planes [first, last): several whole planes, or rows of one.
struct Block {
  int64_t first, last, begin, end;
  int64_t planes() const { return last - first; }
  int64_t rows() const { return planes() * (end - begin); }
};

std::vector<Block> BlocksOf(const Geometry& g) {
  std::vector<Block> blocks;
  const int64_t of_plane = g.out_height * g.words;
  if (of_plane <= kWordsOfBlock) {
    const int64_t step = kWordsOfBlock / std::max<int64_t>(1, of_plane);
    for (int64_t n = 0; n < g.planes; n += step) blocks.push_back({n, std::min(g.planes, n + step), 0, g.out_height});
    return blocks;
  }
  const int64_t step = std::max<int64_t>(1, kWordsOfBlock / g.words);
  for (int64_t n = 0; n < g.planes; ++n) {
    for (int64_t r = 0; r < g.out_height; r += step) blocks.push_back({n, n + 1, r, std::min(g.out_height, r + step)});
  }
  return blocks;
}

#define BITSTAIR_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

BITSTAIR_TARGET inline __m512i PairOf(const uint16_t* a, const uint16_t* b) {
  const __m512i low = a != nullptr ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a))) : _mm512_setzero_si512();
  const __m512i high = b != nullptr ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b))) : _mm512_setzero_si512();
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
BITSTAIR_TARGET inline __m512i FloatBitsOf(const uint8_t* codes) {
  if (codes == nullptr) return _mm512_setzero_si512();
  return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)))));
}
BITSTAIR_TARGET inline __m512i PairOf(const uint8_t* a, const uint8_t* b) {
  return _mm512_or_si512(_mm512_srli_epi32(FloatBitsOf(a), 16), FloatBitsOf(b));
}

// Gradients of the block's rows [begin, end) (counted through its planes) as words.
template <typename T>
BITSTAIR_TARGET void PackGradients(const Geometry& g, const Block& block, const uint16_t* grad_y, int64_t begin, int64_t end, uint32_t* words) {
  const int64_t channels = g.shape.out_channels, rows_of_plane = block.end - block.begin, total = block.rows() * g.words;
  const int64_t images = g.two_images ? 2 : 1, columns = g.two_images ? 1 : 2;
  const int64_t partner = g.two_images ? g.out_height * g.out_width * channels : channels;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = (block.first + r / rows_of_plane) * images * g.out_height + block.begin + r % rows_of_plane;
    const uint16_t* from = grad_y + row * g.out_width * channels;
    for (int64_t q = 0; q < g.words; ++q) {
      const uint16_t* a = from + q * columns * channels;
      const bool single = columns == 2 && 2 * q + 1 == g.out_width;
      for (int64_t o = 0; o < channels; o += kLanes) {
        const __m512i pair = PairOf(a + o, single ? nullptr : a + partner + o);
        uint32_t* to = words + (o / T::kOut * total + r * g.words + q) * T::kOut;
        if constexpr (T::kOut == kLanes) {
          _mm512_storeu_si512(to, pair);
        } else {
          static_assert(2 * T::kOut == kLanes);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(pair));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + total * T::kOut), _mm512_extracti64x4_epi64(pair, 1));
        }
      }
    }
  }
}

// The input rows that a block reads, of each of its planes.
struct InputRows {
  int64_t first, count;
};
InputRows RowsOf(const Geometry& g, const Block& block) {
  const int64_t first = std::max<int64_t>(0, block.begin * g.shape.stride - g.shape.padding);
  const int64_t last = std::min(g.height, (block.end - 1) * g.shape.stride + g.shape.kernel - g.shape.padding);
  return {first, std::max<int64_t>(0, last - first)};
}

// Input channels [channel, channel + width of T) of the block's planes as words.
template <typename T, typename X>
BITSTAIR_TARGET void PackInputs(const Geometry& g, const Block& block, const X* x, int64_t channel, uint32_t* words) {
  const InputRows rows = RowsOf(g, block);
  const int64_t channels = g.shape.in_channels, stride = g.shape.stride, image = g.height * g.width * channels;
  for (int64_t copy = 0; copy < g.copies; ++copy) {
    for (int64_t n = block.first; n < block.last; ++n) {
      for (int64_t r = 0; r < rows.count; ++r) {
        const X* row = x + (g.two_images ? 2 * n : n) * image + (rows.first + r) * g.width * channels + channel;
        uint32_t* to = words + ((copy * block.planes() + n - block.first) * rows.count + r) * g.in_words * T::kWidth;
        for (int64_t q = 0; q < g.in_words; ++q) {
          const X *a = row + q * channels, *b = a + image;
          if (!g.two_images) {
            const int64_t c = 2 * stride * q + copy - g.shape.padding, d = c + stride;
            a = c >= 0 && c < g.width ? row + c * channels : nullptr;
            b = d >= 0 && d < g.width ? row + d * channels : nullptr;
          }
          for (int64_t l = 0; l < T::kInputs; ++l) {
            _mm512_storeu_si512(to + q * T::kWidth + l * kLanes, PairOf(a != nullptr ? a + l * kLanes : nullptr, b != nullptr ? b + l * kLanes : nullptr));
          }
        }
      }
    }
  }
}

// The block's share of one kernel position and kOut output channels. fresh: sum holds nothing yet.
template <typename T>
BITSTAIR_TARGET void AddTile(const Geometry& g, const Block& block, const uint32_t* gradients, const uint32_t* inputs, int64_t kh, int64_t kw, bool fresh,
                             float* sum) {
  const InputRows rows = RowsOf(g, block);
  const int64_t stride = g.shape.stride, period = 2 * stride;
  // Output rows whose input row exists.
  const int64_t above = g.shape.padding - kh;
  const int64_t begin = std::max(block.begin, above > 0 ? (above + stride - 1) / stride : 0);
  const int64_t end = std::min(block.end, (g.height - 1 + above >= 0 ? (g.height - 1 + above) / stride : -1) + 1);
  if (begin >= end && !fresh) return;
  __m512 total[T::kOut][T::kInputs];
  for (int64_t o = 0; o < T::kOut; ++o) {
    for (int64_t l = 0; l < T::kInputs; ++l) total[o][l] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(sum + o * T::kWidth + l * kLanes);
  }
  // Words [first, last) of an output row read every step-th word of an input row, from `offset` on, of this copy.
  const int64_t first = g.two_images ? g.FirstColumn(kw) : 0, last = g.two_images ? g.EndColumn(kw) : g.words;
  const int64_t offset = g.two_images ? first * stride + kw - g.shape.padding : kw / period;
  const int64_t step = g.two_images ? stride * T::kWidth : T::kWidth, copy = g.two_images ? 0 : kw % period;
  for (int64_t n = 0; n < block.planes(); ++n) {
    const uint32_t* plane = inputs + ((copy * block.planes() + n) * rows.count) * g.in_words * T::kWidth;
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t* b = plane + ((r * stride + kh - g.shape.padding - rows.first) * g.in_words + offset) * T::kWidth;
      const uint32_t* a = gradients + ((n * (block.end - block.begin) + r - block.begin) * g.words + first) * T::kOut;
      for (int64_t q = first; q < last; ++q, a += T::kOut, b += step) {
        __m512bh in[T::kInputs];
#pragma GCC unroll 2
        for (int64_t l = 0; l < T::kInputs; ++l) in[l] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + l * kLanes));
#pragma GCC unroll 16
        for (int64_t o = 0; o < T::kOut; ++o) {
          const auto out = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(a[o])));
#pragma GCC unroll 2
          for (int64_t l = 0; l < T::kInputs; ++l) total[o][l] = _mm512_dpbf16_ps(total[o][l], out, in[l]);
        }
      }
    }
  }
  for (int64_t o = 0; o < T::kOut; ++o) {
    for (int64_t l = 0; l < T::kInputs; ++l) _mm512_storeu_ps(sum + o * T::kWidth + l * kLanes, total[o][l]);
  }
}

template <typename T, typename X>
void Add(const Geometry& g, const X* x, const uint16_t* grad_y, bool fresh, float* sum) {
  const int64_t outs = g.shape.out_channels / T::kOut, ins = g.shape.in_channels / T::kWidth, k = g.shape.kernel;
  const std::vector<Block> blocks = BlocksOf(g);
  // The first block is as large as any.
  const auto size = static_cast<size_t>(blocks[0].rows() * g.words * g.shape.out_channels);
  const auto gradients = std::make_unique_for_overwrite<uint32_t[]>(size);
  for (const Block& block : blocks) {
    const int64_t total = block.rows() * g.words;
    at::parallel_for(0, block.rows(), 1, [&](int64_t begin, int64_t end) { PackGradients<T>(g, block, grad_y, begin, end, gradients.get()); });
    const auto in_words = static_cast<size_t>(g.copies * block.planes() * RowsOf(g, block).count * g.in_words * T::kWidth);
    at::parallel_for(0, ins, 1, [&](int64_t begin, int64_t end) {
      const auto inputs = std::make_unique_for_overwrite<uint32_t[]>(in_words);
      for (int64_t i = begin; i < end; ++i) {
        PackInputs<T>(g, block, x, i * T::kWidth, inputs.get());
        for (int64_t kh = 0; kh < k; ++kh) {
          for (int64_t kw = 0; kw < k; ++kw) {
            for (int64_t o = 0; o < outs; ++o) {
              AddTile<T>(g, block, gradients.get() + o * total * T::kOut, inputs.get(), kh, kw, fresh,
                         sum + (((i * k + kh) * k + kw) * outs + o) * T::kOut * T::kWidth);
            }
          }
        }
      }
    });
    fresh = false;
  }
}

template <typename T>
void Plain(const ConvolutionShape& shape, const float* sum, float scale, float* plain) {
  const int64_t outs = shape.out_channels / T::kOut, taps = shape.kernel * shape.kernel;
  at::parallel_for(0, shape.out_channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t i = 0; i < shape.in_channels; i += T::kWidth) {
        float* to = plain + (o * shape.in_channels + i) * taps;
        const float* from = sum + ((i / T::kWidth * taps * outs + o / T::kOut) * T::kOut + o % T::kOut) * T::kWidth;
        for (int64_t tap = 0; tap < taps; ++tap) {
          const float* row = from + tap * outs * T::kOut * T::kWidth;
          for (int64_t l = 0; l < T::kWidth; ++l) to[l * taps + tap] = row[l] * scale;
        }
      }
    }
  });
}

// f(tile)
template <typename F>
void WithTile(const ConvolutionShape& shape, F&& f) {
  if (shape.in_channels % Wide::kWidth == 0) {
    f(Wide());
  } else {
    f(Narrow());
  }
}

}  // namespace

bool HasWeightGradientKernel(const ConvolutionShape& shape) {
  static const bool has = __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  return has && shape.in_channels % kLanes == 0 && shape.out_channels % kLanes == 0;
}

int64_t WeightGradientSize(const ConvolutionShape& shape) {
  return shape.out_channels * shape.in_channels * shape.kernel * shape.kernel;
}

void AddWeightGradient(const ConvolutionShape& shape, ConstArray x, const uint16_t* grad_y, int64_t images, int64_t height, int64_t width, bool fresh,
                       float* sum) {
  TORCH_CHECK(HasWeightGradientKernel(shape) && (x.type == Stored::kCodes || x.type == Stored::kBfloat16), "no kernel for this weight gradient");
  const Geometry g(shape, images, height, width);
  TORCH_CHECK(images >= 1 && g.out_height >= 1 && g.out_width >= 1, "a weight gradient of ", images, " images of ", height, "x", width);
  WithTile(shape, [&]<typename T>(T) {
    if (x.type == Stored::kCodes) {
      Add<T>(g, static_cast<const uint8_t*>(x.data), grad_y, fresh, sum);
    } else {
      Add<T>(g, static_cast<const uint16_t*>(x.data), grad_y, fresh, sum);
    }
  });
}

void PlainWeightGradient(const ConvolutionShape& shape, const float* sum, float scale, float* plain) {
  WithTile(shape, [&]<typename T>(T) { Plain<T>(shape, sum, scale, plain); });
}

}  // namespace bitstair::core

#else

namespace bitstair::core {

bool HasWeightGradientKernel(const ConvolutionShape&) {
  return false;
}
int64_t WeightGradientSize(const ConvolutionShape&) {
  return 0;
}
void AddWeightGradient(const ConvolutionShape&, ConstArray, const uint16_t*, int64_t, int64_t, int64_t, bool, float*) {
  TORCH_CHECK(false, "no kernel for weight gradients on this processor");
}
void PlainWeightGradient(const ConvolutionShape&, const float*, float, float*) {
  TORCH_CHECK(false, "no kernel for weight gradients on this processor");
}

}  // namespace bitstair::core

#endif
