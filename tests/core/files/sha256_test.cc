#include "core/digest/sha256.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace bitstair::core {
namespace {

using ::testing::HasSubstr;

// FIPS 180-4 and NIST's examples.
constexpr char kOfNothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kOfAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kOfMillionA[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256Test, KnownAnswers) {
  EXPECT_EQ(Sha256Hex(""), kOfNothing);
  EXPECT_EQ(Sha256Hex("abc"), kOfAbc);
  EXPECT_EQ(Sha256Hex(std::string(1'000'000, 'a')), kOfMillionA);
}

TEST(Sha256Test, PiecesGiveTheDigestOfTheWhole) {
  Sha256 hash;
  for (int i = 0; i < 1000; ++i) hash.Update(std::string(static_cast<size_t>(i % 3 * 999 + 1), 'a'));
  // 334 x 1 + 333 x 1000 + 333 x 1999 bytes
  EXPECT_EQ(hash.HexDigest(), Sha256Hex(std::string(334 + 333 * 1000 + 333 * 1999, 'a')));
  Sha256 nothing;
  EXPECT_EQ(nothing.HexDigest(), kOfNothing);
}

TEST(Sha256Test, BytesThatAreZeroCount) {
  EXPECT_NE(Sha256Hex(std::string("a\0b", 3)), Sha256Hex(std::string("a")));
}

TEST(Sha256Test, OfAFileWithItsSize) {
  const std::string path = testing::TempDir() + "sha256_test_file";
  std::ofstream(path, std::ios::binary) << std::string(3'000'001, 'x');  // over the size of a read
  const auto digest = Sha256OfFile(path);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(digest->sha256, Sha256Hex(std::string(3'000'001, 'x')));
  EXPECT_EQ(digest->size_bytes, 3'000'001);
  std::ofstream(path, std::ios::trunc).close();
  EXPECT_EQ(Sha256OfFile(path)->sha256, kOfNothing);
  EXPECT_EQ(Sha256OfFile(path)->size_bytes, 0);
  std::filesystem::remove(path);
}

TEST(Sha256Test, FaultsOfFilesNameThePath) {
  const auto missing = Sha256OfFile("/nonexistent/file");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nonexistent/file"));
  const auto folder = Sha256OfFile("/tmp");
  EXPECT_FALSE(folder.ok());
  EXPECT_THAT(std::string(folder.status().message()), HasSubstr("/tmp"));
}

TEST(Sha256Test, OnlyLowerCaseDigestsAreDigests) {
  EXPECT_TRUE(IsSha256Hex(kOfAbc));
  EXPECT_FALSE(IsSha256Hex(""));
  EXPECT_FALSE(IsSha256Hex(std::string(63, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(65, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(64, 'A')));
  EXPECT_FALSE(IsSha256Hex(std::string(63, 'a') + "g"));
  EXPECT_FALSE(IsSha256Hex("../" + std::string(61, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(64, '\0')));
}

}  // namespace
}  // namespace bitstair::core
