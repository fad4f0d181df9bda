#include "core/data/image_crop.h"

#include <array>
#include <cmath>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

#include "core/random/philox.h"

namespace bitstair::core {
namespace {

TEST(ImageCropTest, TheMiddleIsThatOfTorchvision) {
  struct Expected {
    int width, height, full_width, full_height, left, top;
  };
  // torchvision 0.26: transforms.Resize(256)'s size, and CenterCrop(224)'s corner with Python's rounding to even.
  for (const Expected& e : {Expected{500, 375, 341, 256, 58, 16}, Expected{375, 500, 256, 341, 16, 58}, Expected{224, 224, 256, 256, 16, 16},
                            Expected{671, 500, 343, 256, 60, 16}, Expected{10, 1000, 256, 25600, 16, 12688}, Expected{1, 1, 256, 256, 16, 16}}) {
    const ImageCrop crop = CenterCrop(e.width, e.height, 256, 224);
    EXPECT_EQ(crop.width, e.width);
    EXPECT_EQ(crop.height, e.height);
    EXPECT_EQ(crop.full_width, e.full_width) << e.width;
    EXPECT_EQ(crop.full_height, e.full_height) << e.width;
    EXPECT_EQ(crop.window_left, e.left) << e.width;
    EXPECT_EQ(crop.window_top, e.top) << e.width;
    EXPECT_FALSE(crop.flip);
  }
}

TEST(ImageCropTest, RandomPartsFollowTheDocument) {
  const int width = 500, height = 375;
  double areas = 0;
  int flips = 0;
  std::set<std::tuple<int, int, int, int>> different;
  for (uint32_t image = 0; image < 2000; ++image) {
    const ImageCrop crop = RandomCrop(width, height, 224, {.seed = 5, .epoch = 77}, image);
    ImageCrop expected;
    for (uint32_t attempt = 0; attempt < 10 && expected.width == 0; ++attempt) {
      const std::array<uint32_t, 4> words = Philox4x32(5, Purpose::kResizedCrop, 77, image, attempt);
      const double area = width * height * (0.08 + 0.92 * UniformDouble(words[0], words[1])),
                   ratio = 0.75 * std::pow(16.0 / 9, UniformDouble(words[2], words[3]));
      const int w = static_cast<int>(std::nearbyint(std::sqrt(area * ratio))), h = static_cast<int>(std::nearbyint(std::sqrt(area / ratio)));
      if (w <= width && h <= height) expected.width = w, expected.height = h;
    }
    if (expected.width > 0) {
      ASSERT_EQ(crop.width, expected.width);
      ASSERT_EQ(crop.height, expected.height);
      ASSERT_EQ(crop.top, static_cast<int>(UniformInteger(5, Purpose::kResizedCrop, 77, image, 16, height - crop.height + 1)));
      ASSERT_EQ(crop.left, static_cast<int>(UniformInteger(5, Purpose::kResizedCrop, 77, image, 17, width - crop.width + 1)));
    }
    ASSERT_TRUE(crop.left >= 0 && crop.top >= 0 && crop.left + crop.width <= width && crop.top + crop.height <= height);
    areas += static_cast<double>(crop.width) * crop.height / (width * height);
    flips += crop.flip ? 1 : 0;
    different.insert({crop.left, crop.top, crop.width, crop.height});
  }
  EXPECT_NEAR(areas / 2000, 0.4337, 0.02) << "torchvision's mean over 20,000 draws for this size: large parts often do not fit";
  EXPECT_NEAR(flips, 1000, 120);
  EXPECT_GT(different.size(), 1950u);
}

TEST(ImageCropTest, SeedEpochAndImageEachChangeThePart) {
  const auto part = [](uint64_t seed, uint32_t epoch, uint32_t image) {
    const ImageCrop crop = RandomCrop(500, 375, 224, {.seed = seed, .epoch = epoch}, image);
    return std::tuple(crop.left, crop.top, crop.width, crop.height);
  };
  EXPECT_EQ(part(1, 2, 3), part(1, 2, 3));
  EXPECT_NE(part(1, 2, 3), part(2, 2, 3));
  EXPECT_NE(part(1, 2, 3), part(1, 3, 3));
  EXPECT_NE(part(1, 2, 3), part(1, 2, 4));
}

TEST(ImageCropTest, WhereNoPartFitsTheMiddleIsTaken) {
  int middles = 0;
  for (uint32_t image = 0; image < 50; ++image) {
    const ImageCrop wide = RandomCrop(3000, 20, 224, {}, image), tall = RandomCrop(20, 3000, 224, {}, image);
    ASSERT_TRUE(wide.width >= 1 && wide.left >= 0 && wide.left + wide.width <= 3000 && wide.height <= 20);
    ASSERT_TRUE(tall.height >= 1 && tall.top >= 0 && tall.top + tall.height <= 3000 && tall.width <= 20);
    if (wide.width == 27 && wide.height == 20 && wide.left == 1486) ++middles;
    if (tall.height == 27 && tall.width == 20 && tall.top == 1486) ++middles;
  }
  EXPECT_GT(middles, 90);
  EXPECT_EQ(RandomCrop(1, 1, 224, {}, 0).width, 1);
}

}  // namespace
}  // namespace bitstair::core
