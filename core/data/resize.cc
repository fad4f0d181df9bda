#include "core/data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace bitstair::core {
namespace {

// 8 bits times 14 bits of weight, 8 of them dropped: 6 bits of fraction. Then 6 + 14 bits to drop.
constexpr int kRowShift = 8;
constexpr int kColumnShift = 20;

// out[i] = sum of the weighted bytes of each row at i, with 6 bits of fraction. rows: 2 * pairs; bytes: a multiple of 4.
void SumRows(const uint8_t* const* rows, const int16_t* weights, int pairs, int bytes, int16_t* out) {
  int i = 0;
#if defined(__SSE2__)
  const __m128i zero = _mm_setzero_si128(), half = _mm_set1_epi32(1 << (kRowShift - 1));
  for (; i + 16 <= bytes; i += 16) {
    __m128i sums[4] = {half, half, half, half};
    for (int p = 0; p < pairs; ++p) {
      const __m128i weight = _mm_set1_epi32(static_cast<uint16_t>(weights[2 * p]) | static_cast<int32_t>(weights[2 * p + 1]) << 16);
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[2 * p] + i));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[2 * p + 1] + i));
      const __m128i low = _mm_unpacklo_epi8(a, b), high = _mm_unpackhi_epi8(a, b);
      sums[0] = _mm_add_epi32(sums[0], _mm_madd_epi16(_mm_unpacklo_epi8(low, zero), weight));
      sums[1] = _mm_add_epi32(sums[1], _mm_madd_epi16(_mm_unpackhi_epi8(low, zero), weight));
      sums[2] = _mm_add_epi32(sums[2], _mm_madd_epi16(_mm_unpacklo_epi8(high, zero), weight));
      sums[3] = _mm_add_epi32(sums[3], _mm_madd_epi16(_mm_unpackhi_epi8(high, zero), weight));
    }
    for (__m128i& sum : sums) sum = _mm_srai_epi32(sum, kRowShift);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm_packs_epi32(sums[0], sums[1]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i + 8), _mm_packs_epi32(sums[2], sums[3]));
  }
#endif
  for (; i < bytes; ++i) {
    int32_t sum = 1 << (kRowShift - 1);
    for (int p = 0; p < 2 * pairs; ++p) sum += weights[p] * rows[p][i];
    out[i] = static_cast<int16_t>(sum >> kRowShift);
  }
}

// The weighted sum of 2 * pairs pixels (four int16 each) as four bytes.
uint32_t SumPixels(const int16_t* pixels, const int16_t* weights, int pairs) {
#if defined(__SSE2__)
  __m128i sum = _mm_set1_epi32(1 << (kColumnShift - 1));
  for (int p = 0; p < pairs; ++p) {
    int32_t both;
    std::memcpy(&both, weights + 2 * p, sizeof(both));
    const __m128i two = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 8 * p));
    sum = _mm_add_epi32(sum, _mm_madd_epi16(_mm_unpacklo_epi16(two, _mm_srli_si128(two, 8)), _mm_set1_epi32(both)));
  }
  sum = _mm_srai_epi32(sum, kColumnShift);
  sum = _mm_packs_epi32(sum, sum);
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(sum, sum)));
#else
  uint32_t result = 0;
  for (int c = 0; c < 4; ++c) {
    int32_t sum = 1 << (kColumnShift - 1);
    for (int p = 0; p < 2 * pairs; ++p) sum += weights[p] * pixels[4 * p + c];
    result |= static_cast<uint32_t>(std::clamp(sum >> kColumnShift, 0, 255)) << (8 * c);
  }
  return result;
#endif
}

}  // namespace

AxisTaps::AxisTaps(const AxisMap& map) {
  const double scale = map.length / map.full, radius = std::max(1.0, scale);
  const int low = std::max(0, static_cast<int>(std::floor(map.start))), high = std::min(map.limit, static_cast<int>(std::ceil(map.start + map.length)));
  // A window of 2 r is touched by at most 2 r + 1 pixels.
  pairs_ = (static_cast<int>(std::ceil(2 * radius)) + 2) / 2;
  begins_.resize(map.count);
  weights_.assign(static_cast<size_t>(map.count) * pairs_ * 2, 0);
  first_ = high;
  end_ = low;
  std::vector<double> exact(static_cast<size_t>(pairs_) * 2);
  for (int i = 0; i < map.count; ++i) {
    const double centre = map.start + (map.begin + i + 0.5) * scale;
    // The pixels whose middle is inside of the window; at least the one the centre is in.
    int from = std::max(low, static_cast<int>(std::floor(centre - radius + 0.5))), to = std::min(high, static_cast<int>(std::floor(centre + radius + 0.5)));
    from = std::min(from, high - 1);
    to = std::clamp(to, from + 1, std::min(high, from + 2 * pairs_));
    double sum = 0;
    for (int p = from; p < to; ++p) sum += exact[p - from] = std::max(0.0, 1 - std::abs(p + 0.5 - centre) / radius);
    if (!(sum > 0)) sum = exact[0] = 1;
    int16_t* weights = weights_.data() + static_cast<size_t>(i) * pairs_ * 2;
    int left = kOne, largest = 0;
    for (int k = 0; k < to - from; ++k) {
      weights[k] = static_cast<int16_t>(std::lrint(exact[k] / sum * kOne));
      left -= weights[k];
      if (weights[k] > weights[largest]) largest = k;
    }
    weights[largest] = static_cast<int16_t>(weights[largest] + left);
    begins_[i] = from;
    first_ = std::min(first_, from);
    end_ = std::max(end_, to);
  }
}

void ResizeToPlanes(const PixelRegion& source, const AxisTaps& x, const AxisTaps& y, bool flip, uint8_t* planes) {
  const int width = x.end() - x.first(), columns = x.count();
  const size_t plane = static_cast<size_t>(columns) * y.count();
  // Pairs may reach beyond the last pixel; what is there is finite and has weight 0.
  std::vector<int16_t> sums(static_cast<size_t>(width + 2 * x.pairs()) * 4, 0);
  std::vector<const uint8_t*> rows(static_cast<size_t>(y.pairs()) * 2);
  for (int i = 0; i < y.count(); ++i) {
    for (int k = 0; k < 2 * y.pairs(); ++k) rows[k] = source.row(std::min(y.begin(i) + k, y.end() - 1)) + static_cast<size_t>(x.first() - source.left) * 4;
    SumRows(rows.data(), y.weights(i), y.pairs(), width * 4, sums.data());
    uint8_t* out = planes + static_cast<size_t>(i) * columns;
    for (int j = 0; j < columns; ++j) {
      const uint32_t pixel = SumPixels(sums.data() + static_cast<size_t>(x.begin(j) - x.first()) * 4, x.weights(j), x.pairs());
      uint8_t* at = out + (flip ? columns - 1 - j : j);
      at[0] = static_cast<uint8_t>(pixel);
      at[plane] = static_cast<uint8_t>(pixel >> 8);
      at[2 * plane] = static_cast<uint8_t>(pixel >> 16);
    }
  }
}

}  // namespace bitstair::core
