// Sixteen numbers at a time as arrays, for processors without AVX-512 and as the statement of what lanes_avx512.h computes.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/kernels/fused/fused_norm.h"
#include "core/random/philox.h"

namespace bitstair::core::BITSTAIR_LANES {

using LaneMask = uint16_t;
inline constexpr int kLanes = 16;

// The first `count` lanes; count is 16 unless a row ends.
inline LaneMask FirstLanes(int count) {
  return static_cast<LaneMask>((1u << count) - 1);
}

struct Ints {
  int32_t v[kLanes];
};
struct Floats {
  float v[kLanes];
};

template <typename F>
inline Floats MakeFloats(F&& f) {
  Floats x;
  for (int i = 0; i < kLanes; ++i) x.v[i] = f(i);
  return x;
}
template <typename F>
inline LaneMask MakeMask(F&& f) {
  unsigned m = 0;
  for (int i = 0; i < kLanes; ++i) m |= (f(i) ? 1u : 0u) << i;
  return static_cast<LaneMask>(m);
}
inline bool IsSet(LaneMask m, int i) {
  return (m >> i & 1) != 0;
}

inline Floats Fill(float x) {
  return MakeFloats([&](int) { return x; });
}
template <typename T>
inline Ints LoadInts(const T* p, LaneMask m) {
  Ints x;
  for (int i = 0; i < kLanes; ++i) x.v[i] = IsSet(m, i) ? static_cast<int32_t>(p[i]) : 0;
  return x;
}
inline Floats ToFloats(Ints x) {
  return MakeFloats([&](int i) { return static_cast<float>(x.v[i]); });
}
inline float FromBfloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
template <typename T>
inline Floats Load(const T* p, LaneMask m) {
  return MakeFloats([&](int i) { return IsSet(m, i) ? static_cast<float>(p[i]) : 0.0f; });
}
template <>
inline Floats Load(const uint16_t* p, LaneMask m) {
  return MakeFloats([&](int i) { return IsSet(m, i) ? FromBfloat16(p[i]) : 0.0f; });
}
// An array whose element type is looked up for each block.
struct AnyArray {
  const char* data;
  Stored type;
  AnyArray operator+(int64_t i) const { return {data + i * static_cast<int64_t>(BytesOf(type)), type}; }
};
inline Floats Load(AnyArray a, LaneMask m) {
  switch (a.type) {
    case Stored::kCodes:
      return Load(reinterpret_cast<const uint8_t*>(a.data), m);
    case Stored::kInt16:
      return Load(reinterpret_cast<const int16_t*>(a.data), m);
    case Stored::kInt32:
      return Load(reinterpret_cast<const int32_t*>(a.data), m);
    case Stored::kBfloat16:
      return Load(reinterpret_cast<const uint16_t*>(a.data), m);
    default:
      return Load(reinterpret_cast<const float*>(a.data), m);
  }
}
inline void Store(float* p, Floats x, LaneMask m) {
  for (int i = 0; i < kLanes; ++i) {
    if (IsSet(m, i)) p[i] = x.v[i];
  }
}
// To bfloat16, ties to even; a NaN stays one.
inline void Store(uint16_t* p, Floats x, LaneMask m) {
  for (int i = 0; i < kLanes; ++i) {
    const auto bits = std::bit_cast<uint32_t>(x.v[i]);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    if (IsSet(m, i)) p[i] = x.v[i] == x.v[i] ? static_cast<uint16_t>(rounded) : uint16_t{0x7fc0};
  }
}
// Integers 0..255.
inline void Store(uint8_t* p, Floats x, LaneMask m) {
  for (int i = 0; i < kLanes; ++i) {
    if (IsSet(m, i)) p[i] = static_cast<uint8_t>(static_cast<int32_t>(x.v[i]));
  }
}
inline void Store(int16_t* p, Ints x, LaneMask m) {
  for (int i = 0; i < kLanes; ++i) {
    if (IsSet(m, i)) p[i] = static_cast<int16_t>(x.v[i]);
  }
}
inline Floats Add(Floats a, Floats b) {
  return MakeFloats([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats Sub(Floats a, Floats b) {
  return MakeFloats([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats Mul(Floats a, Floats b) {
  return MakeFloats([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats Fma(Floats a, Floats b, Floats c) {
  return MakeFloats([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline Floats Rint(Floats a) {
  return MakeFloats([&](int i) { return std::rint(a.v[i]); });
}
// low for a NaN
inline Floats Clamp(Floats a, Floats low, Floats high) {
  return MakeFloats([&](int i) {
    const float raised = a.v[i] > low.v[i] ? a.v[i] : low.v[i];
    return raised < high.v[i] ? raised : high.v[i];
  });
}
inline void StoreRounded(uint8_t* p, Floats x, LaneMask m) {
  Store(p, Rint(x), m);
}
inline LaneMask Above(Floats a, Floats b) {
  return MakeMask([&](int i) { return a.v[i] > b.v[i]; });
}
inline LaneMask NotANumber(Floats a) {
  return MakeMask([&](int i) { return a.v[i] != a.v[i]; });
}
inline LaneMask Equal(const Floats& a, const Floats& b) {
  return MakeMask([&](int i) { return a.v[i] == b.v[i]; });
}
inline Floats Choose(LaneMask m, const Floats& set, Floats unset) {
  for (int i = 0; i < kLanes; ++i) unset.v[i] = (m >> i & 1) != 0 ? set.v[i] : unset.v[i];
  return unset;
}
// x where the mask is set, else 0
inline Floats Where(LaneMask m, Floats x) {
  return MakeFloats([&](int i) { return IsSet(m, i) ? x.v[i] : 0.0f; });
}
// float(value * scale), the product in float64: CodeValue of kernels/quant_math.h
inline Floats ScaledInDouble(Floats x, double scale) {
  return MakeFloats([&](int i) { return static_cast<float>(static_cast<double>(x.v[i]) * scale); });
}

// float(code * scale), the product in float64, of codes up to 15.
struct FewValues {
  double scale;
};
inline FewValues TableOf(double scale) {
  return {scale};
}
inline Floats Look(const FewValues& values, const uint8_t* codes, LaneMask m) {
  return ScaledInDouble(Load(codes, m), values.scale);
}

// Exact sums of integers and of their squares.
struct IntegerSums {
  int64_t sum[kLanes];
  int64_t squares[kLanes];
};
inline IntegerSums NoSums() {
  return {};
}
inline void Accumulate(IntegerSums& s, Ints x) {
  for (int i = 0; i < kLanes; ++i) {
    s.sum[i] += x.v[i];
    s.squares[i] += static_cast<int64_t>(x.v[i]) * x.v[i];
  }
}
inline void StoreSums(const IntegerSums& s, int64_t* sum, int64_t* squares) {
  for (int i = 0; i < kLanes; ++i) {
    sum[i] = s.sum[i];
    squares[i] = s.squares[i];
  }
}

// The same for integers of 16 bits, two rows at a time, at most 2^14 rows; notices those that do not fit: the sums then mean nothing.
struct ShortSums {
  IntegerSums sums;
  bool fits;
};
inline ShortSums NoShortSums() {
  return {{}, true};
}
inline void AccumulateShort(ShortSums& s, Ints x, Ints y) {
  for (const Ints& row : {x, y}) {
    for (int i = 0; i < kLanes; ++i) s.fits = s.fits && row.v[i] == static_cast<int16_t>(row.v[i]);
    Accumulate(s.sums, row);
  }
}
inline bool StoreShortSums(const ShortSums& s, int64_t* sum, int64_t* squares) {
  StoreSums(s.sums, sum, squares);
  return s.fits;
}

// Philox4x32-10 of sixteen counters {counter0, first + 0..15, 0, 0}: their first words, then their second ones, and so on.
inline void Philox16(uint64_t key, uint32_t counter0, uint32_t first, uint32_t* words) {
  for (uint32_t i = 0; i < 16; ++i) {
    const std::array<uint32_t, 4> block = Philox4x32(key, {counter0, first + i, 0, 0});
    for (uint32_t w = 0; w < 4; ++w) words[16 * w + i] = block[w];
  }
}

}  // namespace bitstair::core::BITSTAIR_LANES
