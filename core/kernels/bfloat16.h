// bfloat16 beside float32, for loops over either that compilers vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace bitstair::core {

struct Bfloat16 {
  uint16_t bits;
};
[[gnu::always_inline]] inline float Value(float x) {
  return x;
}
[[gnu::always_inline]] inline float Value(Bfloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
[[gnu::always_inline]] inline void Set(float& to, float x) {
  to = x;
}
// Ties to even; a NaN stays one.
[[gnu::always_inline]] inline void Set(Bfloat16& to, float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  to.bits = x != x ? uint16_t{0x7fc0} : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace bitstair::core
