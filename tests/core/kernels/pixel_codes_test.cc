#include "core/kernels/pixel_codes.h"

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

TEST(PixelCodesTest, TheRangeIsThatOfAllChannels) {
  const PixelRange range = RangeOfPixels({0.5F, 0.25F, 0.75F}, {0.25F, 0.5F, 0.25F});
  EXPECT_EQ(range.low, -3);
  EXPECT_EQ(range.high, 2);
  EXPECT_EQ(RangeOfPixels({}, {}).high, 0);
}

TEST(PixelCodesTest, TheZeroPointIsAnIntegerAndTheRangeHoldsIt) {
  const PixelGrid grid = GridOf({-3, 2});
  EXPECT_DOUBLE_EQ(grid.step, 5.0 / 255);
  EXPECT_EQ(grid.zero_point, 153);
  EXPECT_EQ(GridOf({-1, 2.1}).zero_point, 82);  // 82.26
  EXPECT_EQ(GridOf({0.5, 2.55}).zero_point, 0);
  EXPECT_DOUBLE_EQ(GridOf({0.5, 2.55}).step, 0.01);
  EXPECT_EQ(GridOf({-2.55, -0.5}).zero_point, 255);
  EXPECT_THROW(GridOf({0, 0}), c10::Error);
  EXPECT_THROW(GridOf({-1, std::numeric_limits<double>::infinity()}), c10::Error);
}

// Step 1/16 and zero point 100: -0.03125 and 0.09375 are ties, and far values end at 0 and 255.
TEST(PixelCodesTest, CodesPaddingAndLayoutByHand) {
  const PixelGrid grid{1.0 / 16, 100};
  const at::Tensor images = at::tensor({0.0F, -0.03125F, 0.09375F, 1.0F, -100.0F, 100.0F, 0.04F, -0.04F}).view({1, 2, 2, 2});
  at::Tensor codes = at::empty({1, 4, 4, 2}, at::kByte);
  ASSERT_TRUE(QuantizePixels(images, grid, 1, codes));
  const at::Tensor expected = at::full({1, 4, 4, 2}, 100, at::kByte);
  // Ties to even: 99.5 -> 100, 101.5 -> 102.
  expected.slice(1, 1, 3).slice(2, 1, 3).copy_(at::tensor({100, 0, 100, 255, 102, 101, 116, 99}, at::kByte).view({1, 2, 2, 2}));
  EXPECT_TRUE(codes.equal(expected)) << codes;
}

// Of one channel: the step is that of a byte, so each byte's value becomes the byte again.
TEST(PixelCodesTest, BytesOfOneChannelComeBack) {
  for (const auto& [mean, std] : {std::pair(0.2860F, 0.3530F), std::pair(0.4F, 0.25F), std::pair(0.1307F, 0.3081F)}) {
    const at::Tensor bytes = at::arange(256, at::kFloat);
    const at::Tensor images = ((bytes / 255 - mean) / std).view({1, 1, 16, 16});
    at::Tensor codes = at::empty({1, 16, 16, 1}, at::kByte);
    ASSERT_TRUE(QuantizePixels(images, GridOf(RangeOfPixels({mean}, {std})), 0, codes));
    EXPECT_TRUE(codes.flatten().to(at::kFloat).equal(bytes)) << mean;
  }
}

TEST(PixelCodesTest, BothFormsHoldTheSameCodes) {
  at::manual_seed(3);
  const at::Tensor images = at::randn({5, 3, 9, 7}) * 2;
  const PixelGrid grid = GridOf({-2.1, 2.6});
  at::Tensor codes = at::empty({5, 9, 7, 3}, at::kByte), centered = at::empty_like(images);
  ASSERT_TRUE(QuantizePixels(images, grid, 0, codes));
  ASSERT_TRUE(CenterPixelCodes(images, grid, centered));
  EXPECT_TRUE(codes.permute({0, 3, 1, 2}).to(at::kFloat).sub(static_cast<double>(grid.zero_point)).equal(centered));
  EXPECT_EQ(codes.min().item<int>(), 0);
  EXPECT_EQ(codes.max().item<int>(), 255);
  at::Tensor wide = at::empty_like(images, at::kDouble);
  ASSERT_TRUE(CenterPixelCodes(images.to(at::kDouble), grid, wide));
  // Inside of the range the value is within half a step.
  const at::Tensor inside = images.ge(-2.1).logical_and_(images.le(2.6));
  EXPECT_LE((wide * grid.step - images).abs().masked_select(inside).max().item<double>(), grid.step * 0.5001);
}

TEST(PixelCodesTest, WhatIsNotANumberIsSeen) {
  at::Tensor images = at::zeros({3, 1, 4, 5});
  images[2][0][3][4] = std::numeric_limits<float>::quiet_NaN();
  at::Tensor codes = at::empty({3, 4, 5, 1}, at::kByte), centered = at::empty_like(images);
  EXPECT_FALSE(QuantizePixels(images, {0.1, 3}, 0, codes));
  EXPECT_FALSE(CenterPixelCodes(images, {0.1, 3}, centered));
}

}  // namespace
}  // namespace bitstair::core
