#include "core/kernels/packed_codes.h"

#include <ATen/ATen.h>

#include <limits>

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

TEST(PackedCodesTest, EveryWidthComesBack) {
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    for (const int64_t count : {0, 1, 7, 8, 9, 1000}) {
      const at::Tensor codes = at::arange(count, at::kFloat).mul(37).remainder(static_cast<double>(1 << bits)).view({count, 1});
      const at::Tensor packed = PackCodes(codes, bits);
      EXPECT_EQ(packed.numel(), (count * bits + 7) / 8) << count << " codes of " << bits << " bits";
      EXPECT_TRUE(UnpackCodes(packed, codes.sizes(), bits).equal(codes)) << count << " codes of " << bits << " bits";
    }
  }
}

TEST(PackedCodesTest, TheFirstCodeHasTheLowestBits) {
  const at::Tensor packed = PackCodes(at::tensor({5.0F, 1.0F, 6.0F}, at::kFloat), 3);  // 101, 001, 110 from the lowest: 1 1000 1101 of 9 bits
  ASSERT_EQ(packed.numel(), 2);
  EXPECT_EQ(packed[0].item<int>(), 0x8d);
  EXPECT_EQ(packed[1].item<int>(), 0x01);
}

TEST(PackedCodesTest, WhatIsNoCodeStaysWithin) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor packed = PackCodes(at::tensor({nan, -1.0F, 99.0F}, at::kFloat), 4);
  EXPECT_TRUE(UnpackCodes(packed, {3}, 4).equal(at::tensor({0.0F, 0.0F, 15.0F}, at::kFloat)));
}

TEST(PackedCodesTest, AnotherNumberOfBytesIsRefused) {
  EXPECT_THROW(UnpackCodes(at::zeros({3}, at::kByte), {8}, 4), c10::Error);
  EXPECT_THROW(PackCodes(at::zeros({8}, at::kFloat), 17), c10::Error);
  EXPECT_THROW(PackCodes(at::zeros({8}, at::kDouble), 4), c10::Error);
}

}  // namespace
}  // namespace bitstair::core
