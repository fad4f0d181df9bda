#include "core/random/philox.h"

#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

using Block = std::array<uint32_t, 4>;

// The vectors published with the authors' library (Random123, kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox4x32(0, {0, 0, 0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}), (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, PurposeIsTheFirstCounterWord) {
  EXPECT_EQ(Philox4x32(7, Purpose::kCrop, 1, 2, 3), Philox4x32(7, {3, 1, 2, 3}));
}

TEST(PhiloxTest, FloatsLieInTheHalfOpenUnitInterval) {
  EXPECT_EQ(UniformFloat(0), 0.0f);
  EXPECT_EQ(UniformFloat(~0u), 1.0f - 0x1p-24f);
  EXPECT_EQ(UniformFloat(0x80000000u), 0.5f);
  EXPECT_EQ(UniformDouble(0, 0), 0.0);
  EXPECT_EQ(UniformDouble(~0u, ~0u), 1.0 - 0x1p-53);
  EXPECT_EQ(UniformDouble(0x40000000u, 0), 0.25);
}

TEST(PhiloxTest, IntegersAreUnbiased) {
  // Nine classes over 90,000 draws: chi-square with 8 degrees of freedom stays below 26.1 with probability 0.999; the seed is fixed, so this cannot flicker.
  constexpr uint32_t kBound = 9;
  constexpr int kDraws = 90'000;
  std::vector<int> counts(kBound);
  for (int i = 0; i < kDraws; ++i) {
    const uint32_t value = UniformInteger(1, Purpose::kCrop, 0, static_cast<uint32_t>(i), 0, kBound);
    ASSERT_LT(value, kBound);
    ++counts[value];
  }
  double chi_square = 0;
  for (int count : counts) chi_square += std::pow(count - kDraws / 9.0, 2) / (kDraws / 9.0);
  EXPECT_LT(chi_square, 26.1);
}

TEST(PhiloxTest, IntegersRefuseWordsThatWouldBias) {
  // With a bound of 3 * 2^30 a quarter of the words is refused: values must come from later words, and stay uniform over thirds.
  constexpr uint32_t kBound = 3u << 30;
  int refused = 0;
  std::vector<int> thirds(3);
  for (uint32_t i = 0; i < 3000; ++i) {
    const Block words = Philox4x32(5, Purpose::kShuffle, 0, i, 0);
    const uint32_t value = UniformInteger(5, Purpose::kShuffle, 0, i, 0, kBound);
    if (value != static_cast<uint32_t>((uint64_t{words[0]} * kBound) >> 32)) ++refused;
    ++thirds[value >> 30];
  }
  EXPECT_NEAR(refused, 750, 100);
  for (int third : thirds) EXPECT_NEAR(third, 1000, 100);
}

TEST(PhiloxTest, BoundOfOneIsZero) {
  EXPECT_EQ(UniformInteger(1, Purpose::kShuffle, 0, 0, 0, 1), 0u);
}

}  // namespace
}  // namespace bitstair::core
