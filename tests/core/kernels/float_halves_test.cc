#include "core/kernels/float_halves.h"

#include <bit>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

// Every exponent with the fractions around a tie, both signs, infinities, NaNs, and numbers at random; more than one thread's share.
std::vector<float> Numbers() {
  std::vector<float> numbers{0.0F, -0.0F, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::denorm_min()};
  for (uint32_t upper = 0; upper < 0x10000; upper += 7) {
    for (const uint32_t lower : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) numbers.push_back(std::bit_cast<float>(upper << 16 | lower));
  }
  std::mt19937 random(5);
  while (numbers.size() < 100'003) numbers.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  return numbers;
}

TEST(FloatHalvesTest, JoinedAreTheNumbersAgainBitForBit) {
  const std::vector<float> numbers = Numbers();
  for (const size_t size : {size_t{0}, size_t{1}, size_t{17}, numbers.size()}) {
    std::vector<Bfloat16> upper(size);
    std::vector<uint16_t> lower(size);
    std::vector<float> joined(size);
    SplitFloats(numbers.data(), static_cast<int64_t>(size), upper.data(), lower.data());
    JoinFloats(upper.data(), lower.data(), static_cast<int64_t>(size), joined.data());
    EXPECT_TRUE(size == 0 || std::memcmp(joined.data(), numbers.data(), size * sizeof(float)) == 0) << size << " numbers";
  }
}

TEST(FloatHalvesTest, TheUpperHalfIsRoundedTowardZero) {
  const float number = std::bit_cast<float>(0xc0ffffffU);
  Bfloat16 upper{};
  uint16_t lower = 0;
  SplitFloats(&number, 1, &upper, &lower);
  EXPECT_EQ(upper.bits, 0xc0ff);
  EXPECT_EQ(lower, 0xffff);
}

}  // namespace
}  // namespace bitstair::core
