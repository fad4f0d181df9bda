#include "core/data/jpeg.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/core/data/jpeg_files.h"

namespace bitstair::core {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

absl::Status Open(JpegDecoder& decoder, const std::string& bytes) {
  return decoder.Open(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

PixelRegion Whole(const std::string& bytes, int denominator = 1) {
  JpegDecoder decoder;
  PixelRegion region;
  EXPECT_TRUE(Open(decoder, bytes).ok());
  const int width = (decoder.width() + denominator - 1) / denominator, height = (decoder.height() + denominator - 1) / denominator;
  EXPECT_TRUE(decoder.Decode(denominator, 0, 0, width, height, &region).ok());
  return region;
}

const uint8_t* Pixel(const PixelRegion& region, int x, int y) {
  return region.row(y) + static_cast<size_t>(x - region.left) * 4;
}

absl::Status DecodeAll(const std::string& bytes) {
  JpegDecoder decoder;
  PixelRegion region;
  if (absl::Status status = Open(decoder, bytes); !status.ok()) return status;
  // The top alone: what lies below must be seen to be missing all the same.
  return decoder.Decode(1, 0, 0, decoder.width(), std::min(8, decoder.height()), &region);
}

TEST(JpegDecoderTest, DecodesWhatWasEncoded) {
  const PixelRegion region = Whole(EncodeJpeg(70, 50, {.subsampled = false, .quality = 100}));
  EXPECT_EQ(region.width, 70);
  EXPECT_EQ(region.height, 50);
  for (int y = 0; y < 50; ++y) {
    for (int x = 0; x < 70; ++x) {
      for (int c = 0; c < 3; ++c) ASSERT_NEAR(Pixel(region, x, y)[c], TestPixel(x, y, c), 4) << x << " " << y << " " << c;
    }
  }
}

TEST(JpegDecoderTest, APartIsThatPartOfTheWhole) {
  for (const JpegOptions& options : {JpegOptions{}, JpegOptions{.progressive = true}, JpegOptions{.subsampled = false}, JpegOptions{.pixels = JCS_GRAYSCALE}}) {
    const std::string bytes = EncodeJpeg(213, 187, options);
    for (const int denominator : {1, 2, 4, 8}) {
      const PixelRegion whole = Whole(bytes, denominator);
      JpegDecoder decoder;
      PixelRegion part;
      for (int i = 0; i < 40; ++i) {
        const int left = i * 37 % (whole.width - 1), top = i * 29 % (whole.height - 1);
        const int right = left + 1 + i * 17 % (whole.width - left), bottom = top + 1 + i * 23 % (whole.height - top);
        ASSERT_TRUE(Open(decoder, bytes).ok());
        ASSERT_TRUE(decoder.Decode(denominator, left, top, right, bottom, &part).ok());
        for (int y = top; y < bottom; ++y) {
          for (int x = left; x < right; ++x) {
            for (int c = 0; c < 3; ++c) {
              ASSERT_EQ(Pixel(part, x, y)[c], Pixel(whole, x, y)[c])
                  << "1/" << denominator << " [" << left << "," << right << ")x[" << top << "," << bottom << ") at " << x << "," << y << " progressive "
                  << options.progressive << " subsampled " << options.subsampled;
            }
          }
        }
      }
    }
  }
}

TEST(JpegDecoderTest, GreyscaleBecomesRgb) {
  const PixelRegion region = Whole(EncodeJpeg(33, 20, {.pixels = JCS_GRAYSCALE, .quality = 100}));
  for (int y = 0; y < 20; ++y) {
    for (int x = 0; x < 33; ++x) {
      const uint8_t* pixel = Pixel(region, x, y);
      ASSERT_NEAR(pixel[0], TestPixel(x, y, 0), 3);
      ASSERT_EQ(pixel[0], pixel[1]);
      ASSERT_EQ(pixel[0], pixel[2]);
    }
  }
}

TEST(JpegDecoderTest, InvertedCmykBecomesRgb) {
  for (const J_COLOR_SPACE stored : {JCS_CMYK, JCS_YCCK}) {
    const PixelRegion region = Whole(EncodeJpeg(40, 30, {.pixels = JCS_CMYK, .stored = stored, .subsampled = false, .quality = 100}));
    for (int y = 0; y < 30; ++y) {
      for (int x = 0; x < 40; ++x) {
        const double black = TestPixel(x, y, 3);
        for (int c = 0; c < 3; ++c) ASSERT_NEAR(Pixel(region, x, y)[c], TestPixel(x, y, c) * black / 255, 6) << x << " " << y << " " << c;
      }
    }
  }
}

TEST(JpegDecoderTest, EveryTruncationIsSeenAlsoBelowTheRowsThatAreWanted) {
  for (const bool progressive : {false, true}) {
    const std::string bytes = EncodeJpeg(64, 64, {.progressive = progressive});
    ASSERT_TRUE(DecodeAll(bytes).ok());
    for (size_t length = 0; length < bytes.size(); ++length) {
      const absl::Status status = DecodeAll(bytes.substr(0, length));
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << length << " of " << bytes.size();
      ASSERT_THAT(std::string(status.message()), AnyOf(HasSubstr("truncated"), HasSubstr("not a JPEG"), HasSubstr("empty"))) << length;
    }
  }
}

TEST(JpegDecoderTest, BytesBehindTheEndAreNoFault) {
  EXPECT_TRUE(DecodeAll(EncodeJpeg(64, 64) + "some editor's notes").ok());
}

TEST(JpegDecoderTest, DamageNeverCrashesAndTheDecoderGoesOn) {
  const std::string good = EncodeJpeg(64, 48), progressive = EncodeJpeg(64, 48, {.progressive = true});
  JpegDecoder decoder;
  PixelRegion region;
  int failures = 0;
  for (const std::string& whole : {good, progressive}) {
    for (size_t at = 0; at < whole.size(); ++at) {
      for (const int flip : {0x01, 0x80, 0xff}) {
        std::string bytes = whole;
        bytes[at] = static_cast<char>(bytes[at] ^ flip);
        absl::Status status = Open(decoder, bytes);
        if (status.ok()) status = decoder.Decode(1, 0, 0, decoder.width(), decoder.height(), &region);
        failures += status.ok() ? 0 : 1;
      }
    }
    ASSERT_TRUE(Open(decoder, good).ok());
    ASSERT_TRUE(decoder.Decode(1, 0, 0, 64, 48, &region).ok());
  }
  EXPECT_GT(failures, 100);
  const PixelRegion fresh = Whole(good);
  for (int y = 0; y < 48; ++y) ASSERT_TRUE(std::equal(region.row(y), region.row(y) + 64 * 4, fresh.row(y)));
}

TEST(JpegDecoderTest, OtherFilesAreRefused) {
  JpegDecoder decoder;
  EXPECT_THAT(std::string(Open(decoder, "").message()), HasSubstr("empty"));
  EXPECT_THAT(std::string(Open(decoder, "\x89PNG\r\n\x1a\n and so on").message()), HasSubstr("not a JPEG"));
  EXPECT_THAT(std::string(Open(decoder, "a text").message()), HasSubstr("not a JPEG"));
}

TEST(JpegDecoderTest, ASizeThatNoPictureHasIsRefusedBeforeItIsAllocated) {
  std::string bytes = EncodeJpeg(64, 48);
  const size_t frame = bytes.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  for (size_t i = 5; i < 9; ++i) bytes[frame + i] = '\xff';
  JpegDecoder decoder;
  const absl::Status status = Open(decoder, bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), AnyOf(HasSubstr("65535x65535"), HasSubstr("65500")));
}

}  // namespace
}  // namespace bitstair::core
