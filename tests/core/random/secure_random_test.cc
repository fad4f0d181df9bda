#include "core/random/secure_random.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

TEST(SecureRandomTest, GivesAsManyBytesAsAsked) {
  for (const size_t bytes : {0, 1, 16, 257, 100'000}) EXPECT_EQ(SecureRandomBytes(bytes).size(), bytes);  // the kernel may cut what is longer than 256
  EXPECT_EQ(SecureRandomHex(5).size(), 10);
  EXPECT_EQ(SecureRandomHex(5).find_first_not_of("0123456789abcdef"), std::string::npos);
}

// Each byte of a long text takes about all values: a part that was never filled would be zeros.
TEST(SecureRandomTest, EveryPartIsFilled) {
  const std::string random = SecureRandomBytes(100'000);
  for (size_t begin = 0; begin < random.size(); begin += 10'000)
    EXPECT_GT(std::set<char>(random.begin() + begin, random.begin() + begin + 10'000).size(), 250) << begin;
}

TEST(SecureRandomTest, DoesNotRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(seen.insert(SecureRandomHex(8)).second);
}

}  // namespace
}  // namespace bitstair::core
