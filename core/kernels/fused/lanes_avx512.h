// Sixteen numbers at a time in AVX-512 registers. Same operations and results as lanes_plain.h; include one of the two.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace bitstair::core::BITSTAIR_LANES {

using LaneMask = __mmask16;
inline constexpr int kLanes = 16;

// The first `count` lanes; count is 16 unless a row ends.
[[gnu::always_inline]] inline LaneMask FirstLanes(int count) {
  return static_cast<LaneMask>((1u << count) - 1);
}

struct Ints {
  __m512i v;
};
struct Floats {
  __m512 v;
};

[[gnu::always_inline]] inline Floats Fill(float x) {
  return {_mm512_set1_ps(x)};
}
[[gnu::always_inline]] inline Ints LoadInts(const int32_t* p, LaneMask m) {
  return {_mm512_maskz_loadu_epi32(m, p)};
}
[[gnu::always_inline]] inline Ints LoadInts(const int16_t* p, LaneMask m) {
  return {_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(m, p))};
}
[[gnu::always_inline]] inline Floats ToFloats(Ints x) {
  return {_mm512_cvtepi32_ps(x.v)};
}
[[gnu::always_inline]] inline Floats Load(const float* p, LaneMask m) {
  return {_mm512_maskz_loadu_ps(m, p)};
}
[[gnu::always_inline]] inline Floats Load(const int32_t* p, LaneMask m) {
  return ToFloats(LoadInts(p, m));
}
[[gnu::always_inline]] inline Floats Load(const int16_t* p, LaneMask m) {
  return ToFloats(LoadInts(p, m));
}
// bfloat16
[[gnu::always_inline]] inline Floats Load(const uint16_t* p, LaneMask m) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16))};
}
// codes
[[gnu::always_inline]] inline Floats Load(const uint8_t* p, LaneMask m) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(m, p)))};
}
[[gnu::always_inline]] inline void Store(float* p, Floats x, LaneMask m) {
  _mm512_mask_storeu_ps(p, m, x.v);
}
// To bfloat16, ties to even; a NaN stays one. The instruction takes numbers below 2^-126 for zero.
[[gnu::always_inline]] inline void Store(uint16_t* p, Floats x, LaneMask m) {
#if defined(BITSTAIR_BF16_INSTRUCTION)
  _mm256_mask_storeu_epi16(p, m, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)));
#else
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i kept = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(kept));
#endif
}
// Rounded to integers, ties to even; 0..255.
[[gnu::always_inline]] inline void StoreRounded(uint8_t* p, Floats x, LaneMask m) {
  _mm_mask_storeu_epi8(p, m, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}
// Integers 0..255.
[[gnu::always_inline]] inline void Store(uint8_t* p, Floats x, LaneMask m) {
  StoreRounded(p, x, m);
}
[[gnu::always_inline]] inline void Store(int16_t* p, Ints x, LaneMask m) {
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(x.v));
}
[[gnu::always_inline]] inline Floats Add(Floats a, Floats b) {
  return {_mm512_add_ps(a.v, b.v)};
}
[[gnu::always_inline]] inline Floats Sub(Floats a, Floats b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
[[gnu::always_inline]] inline Floats Mul(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
[[gnu::always_inline]] inline Floats Fma(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
[[gnu::always_inline]] inline Floats Rint(Floats a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// low for a NaN
[[gnu::always_inline]] inline Floats Clamp(Floats a, Floats low, Floats high) {
  return {_mm512_min_ps(_mm512_max_ps(a.v, low.v), high.v)};
}
[[gnu::always_inline]] inline LaneMask Above(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ);
}
[[gnu::always_inline]] inline LaneMask NotANumber(Floats a) {
  return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
}
[[gnu::always_inline]] inline LaneMask Equal(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ);
}
[[gnu::always_inline]] inline Floats Choose(LaneMask m, Floats set, Floats unset) {
  return {_mm512_mask_mov_ps(unset.v, m, set.v)};
}
// x where the mask is set, else 0
[[gnu::always_inline]] inline Floats Where(LaneMask m, Floats x) {
  return {_mm512_maskz_mov_ps(m, x.v)};
}
// float(value * scale), the product in float64: CodeValue of kernels/quant_math.h
[[gnu::always_inline]] inline Floats ScaledInDouble(Floats x, double scale) {
  const __m512d s = _mm512_set1_pd(scale);
  const __m256 low = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x.v)), s));
  const __m256 high = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1)), s));
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}

// float(code * scale), the product in float64, of codes up to 15.
struct FewValues {
  __m512 table;
};
[[gnu::always_inline]] inline FewValues TableOf(double scale) {
  alignas(64) float values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = static_cast<float>(i * scale);
  return {_mm512_load_ps(values)};
}
[[gnu::always_inline]] inline Floats Look(const FewValues& values, const uint8_t* codes, LaneMask m) {
  return {_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(m, codes)), values.table)};
}

// Codes, 64 at a time.
#define BITSTAIR_WIDE_CODES
inline constexpr int64_t kWideLanes = 64;
struct WideCodes {
  __m512i v;
};
[[gnu::always_inline]] inline WideCodes LoadWide(const uint8_t* p) {
  return {_mm512_loadu_si512(p)};
}
[[gnu::always_inline]] inline WideCodes FillWide(uint8_t x) {
  return {_mm512_set1_epi8(static_cast<char>(x))};
}
[[gnu::always_inline]] inline void StoreWide(uint8_t* p, WideCodes x) {
  _mm512_storeu_si512(p, x.v);
}
[[gnu::always_inline]] inline uint64_t Above(WideCodes a, WideCodes b) {
  return _mm512_cmpgt_epu8_mask(a.v, b.v);
}
[[gnu::always_inline]] inline uint64_t Equal(WideCodes a, WideCodes b) {
  return _mm512_cmpeq_epu8_mask(a.v, b.v);
}
[[gnu::always_inline]] inline WideCodes Choose(uint64_t m, WideCodes set, WideCodes unset) {
  return {_mm512_mask_mov_epi8(unset.v, m, set.v)};
}

// Exact sums of integers and of their squares.
struct IntegerSums {
  __m512i sum_low, sum_high;          // int64: lanes 0..7 and 8..15
  __m512i squares_even, squares_odd;  // int64: even and odd lanes
};
[[gnu::always_inline]] inline IntegerSums NoSums() {
  const __m512i zero = _mm512_setzero_si512();
  return {zero, zero, zero, zero};
}
[[gnu::always_inline]] inline void Accumulate(IntegerSums& s, Ints x) {
  s.sum_low = _mm512_add_epi64(s.sum_low, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(x.v)));
  s.sum_high = _mm512_add_epi64(s.sum_high, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(x.v, 1)));
  const __m512i odd = _mm512_srli_epi64(x.v, 32);
  s.squares_even = _mm512_add_epi64(s.squares_even, _mm512_mul_epi32(x.v, x.v));
  s.squares_odd = _mm512_add_epi64(s.squares_odd, _mm512_mul_epi32(odd, odd));
}
[[gnu::always_inline]] inline void StoreSums(const IntegerSums& s, int64_t* sum, int64_t* squares) {
  _mm512_storeu_si512(sum, s.sum_low);
  _mm512_storeu_si512(sum + 8, s.sum_high);
  alignas(64) int64_t even[8], odd[8];
  _mm512_store_si512(even, s.squares_even);
  _mm512_store_si512(odd, s.squares_odd);
  for (int i = 0; i < 8; ++i) {
    squares[2 * i] = even[i];
    squares[2 * i + 1] = odd[i];
  }
}

// The same for integers of 16 bits, two rows at a time, at most 2^14 rows; stores them, and notices those that do not fit: the sums then mean nothing.
struct ShortSums {
  __m512i sum;                        // int32
  __m512i squares_even, squares_odd;  // int64: even and odd lanes
  __m512i beyond;                     // bits above the 15th that a magnitude had
};
[[gnu::always_inline]] inline ShortSums NoShortSums() {
  const __m512i zero = _mm512_setzero_si512();
  return {zero, zero, zero, zero};
}
[[gnu::always_inline]] inline void AccumulateShort(ShortSums& s, Ints x, Ints y) {
  // Magnitude, or one less than it if negative.
  s.beyond = _mm512_ternarylogic_epi32(s.beyond, x.v, _mm512_srai_epi32(x.v, 31), 0xf6);  // a | (b ^ c)
  s.beyond = _mm512_ternarylogic_epi32(s.beyond, y.v, _mm512_srai_epi32(y.v, 31), 0xf6);
  const __m512i pair = _mm512_mask_blend_epi16(0xaaaaaaaa, x.v, _mm512_slli_epi32(y.v, 16));
  s.sum = _mm512_add_epi32(s.sum, _mm512_madd_epi16(pair, _mm512_set1_epi16(1)));
  // Up to 2^31: unsigned.
  const __m512i squares = _mm512_madd_epi16(pair, pair);
  s.squares_even = _mm512_add_epi64(s.squares_even, _mm512_and_si512(squares, _mm512_set1_epi64(0xffffffff)));
  s.squares_odd = _mm512_add_epi64(s.squares_odd, _mm512_srli_epi64(squares, 32));
}
// False if a number did not fit.
[[gnu::always_inline]] inline bool StoreShortSums(const ShortSums& s, int64_t* sum, int64_t* squares) {
  StoreSums({_mm512_cvtepi32_epi64(_mm512_castsi512_si256(s.sum)), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(s.sum, 1)), s.squares_even, s.squares_odd},
            sum, squares);
  return _mm512_cmpgt_epi32_mask(s.beyond, _mm512_set1_epi32(0x7fff)) == 0;
}

// Philox4x32-10 (core/random/philox.h) of sixteen counters {counter0, first + 0..15, 0, 0}: their first words, then their second ones, and so on. Only the
// lower half of each 64-bit lane counts, which is what the multiplication reads.
inline void Philox16(uint64_t key, uint32_t counter0, uint32_t first, uint32_t* words) {
  __m512i c0[2], c1[2], c2[2], c3[2];
  for (int h = 0; h < 2; ++h) {
    c0[h] = _mm512_set1_epi64(counter0);
    c1[h] = _mm512_add_epi64(_mm512_set1_epi64(first + 8 * h), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    c2[h] = c3[h] = _mm512_setzero_si512();
  }
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int h = 0; h < 2; ++h) {
      const __m512i p0 = _mm512_mul_epu32(m0, c0[h]), p1 = _mm512_mul_epu32(m1, c2[h]);
      c0[h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1[h], _mm512_set1_epi64(k0), 0x96);  // exclusive or of the three
      c1[h] = p1;
      c2[h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3[h], _mm512_set1_epi64(k1), 0x96);
      c3[h] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int h = 0; h < 2; ++h) {
    const __m512i all[4] = {c0[h], c1[h], c2[h], c3[h]};
    for (int w = 0; w < 4; ++w) _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 16 * w + 8 * h), _mm512_cvtepi64_epi32(all[w]));
  }
}

}  // namespace bitstair::core::BITSTAIR_LANES
