#include "core/data/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

// Pixels keep 6 bits between the passes and weights 14, so a result is within one of the exact one.
constexpr double kTolerance = 1;

PixelRegion Noise(int left, int top, int width, int height) {
  PixelRegion region{.left = left, .top = top, .width = width, .height = height};
  uint64_t state = 88172645463325252u;
  for (int i = 0; i < width * height * 4; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    region.pixels.push_back(static_cast<uint8_t>(state >> 20));
  }
  return region;
}

// The weights of the header, in double, for output pixel i of the whole.
std::vector<double> Weights(const AxisMap& map, int i) {
  const double scale = map.length / map.full, radius = std::max(1.0, scale), centre = map.start + (map.begin + i + 0.5) * scale;
  std::vector<double> weights(static_cast<size_t>(map.limit));
  double sum = 0;
  for (int p = 0; p < map.limit; ++p) {
    if (p < std::floor(map.start) || p >= std::ceil(map.start + map.length)) continue;
    sum += weights[p] = std::max(0.0, 1 - std::abs(p + 0.5 - centre) / radius);
  }
  for (double& w : weights) w /= sum;
  return weights;
}

struct Case {
  AxisMap x;
  AxisMap y;
};

std::vector<Case> Cases() {
  return {
      {{0, 50, 50, 20, 0, 20}, {0, 37, 37, 20, 0, 20}},       // smaller
      {{0, 9, 9, 33, 0, 33}, {0, 7, 7, 20, 0, 20}},           // larger
      {{0, 31, 31, 31, 0, 31}, {0, 12, 12, 12, 0, 12}},       // as it is
      {{7, 20, 50, 11, 0, 11}, {3, 30, 37, 11, 0, 11}},       // a part
      {{0, 50, 50, 34, 5, 22}, {0, 37, 37, 25, 1, 22}},       // a window of the result
      {{3.5, 17.25, 40, 9, 0, 9}, {1.25, 8.5, 20, 9, 0, 9}},  // a part between pixels
      {{0, 1, 1, 5, 0, 5}, {0, 1, 1, 5, 0, 5}},               // one pixel
      {{0, 200, 200, 3, 0, 3}, {0, 100, 100, 2, 0, 2}},       // much smaller
      {{0, 100, 100, 7, 6, 1}, {0, 100, 100, 7, 0, 1}},       // the last and the first
  };
}

TEST(ResizeTest, EqualsTheFormula) {
  for (const Case& c : Cases()) {
    const AxisTaps x(c.x), y(c.y);
    const PixelRegion source = Noise(x.first(), y.first(), x.end() - x.first(), y.end() - y.first());
    std::vector<uint8_t> planes(static_cast<size_t>(3) * c.x.count * c.y.count);
    ResizeToPlanes(source, x, y, /*flip=*/false, planes.data());
    for (int i = 0; i < c.y.count; ++i) {
      const std::vector<double> rows = Weights(c.y, i);
      for (int j = 0; j < c.x.count; ++j) {
        const std::vector<double> columns = Weights(c.x, j);
        for (int k = 0; k < 3; ++k) {
          double sum = 0;
          for (int p = 0; p < c.y.limit; ++p) {
            for (int q = 0; q < c.x.limit && rows[p] > 0; ++q) {
              if (columns[q] > 0) sum += rows[p] * columns[q] * source.row(p)[(q - source.left) * 4 + k];
            }
          }
          ASSERT_NEAR(planes[(k * c.y.count + i) * c.x.count + j], sum, kTolerance)
              << "case with " << c.x.length << " -> " << c.x.full << " at " << i << "," << j;
        }
      }
    }
  }
}

TEST(ResizeTest, WeightsSumToOneAndStayInside) {
  for (const Case& c : Cases()) {
    for (const AxisMap& map : {c.x, c.y}) {
      const AxisTaps taps(map);
      ASSERT_EQ(taps.count(), map.count);
      for (int i = 0; i < taps.count(); ++i) {
        int sum = 0;
        for (int k = 0; k < 2 * taps.pairs(); ++k) {
          const int weight = taps.weights(i)[k];
          EXPECT_GE(weight, 0);
          EXPECT_TRUE(weight == 0 || (taps.begin(i) + k >= taps.first() && taps.begin(i) + k < taps.end()));
          sum += weight;
        }
        EXPECT_EQ(sum, AxisTaps::kOne);
      }
    }
  }
}

TEST(ResizeTest, OneColourStaysThatColour) {
  for (const int colour : {0, 1, 127, 254, 255}) {
    for (const Case& c : Cases()) {
      const AxisTaps x(c.x), y(c.y);
      PixelRegion source = Noise(x.first(), y.first(), x.end() - x.first(), y.end() - y.first());
      std::fill(source.pixels.begin(), source.pixels.end(), static_cast<uint8_t>(colour));
      std::vector<uint8_t> planes(static_cast<size_t>(3) * c.x.count * c.y.count);
      ResizeToPlanes(source, x, y, false, planes.data());
      for (const uint8_t pixel : planes) ASSERT_EQ(pixel, colour);
    }
  }
}

TEST(ResizeTest, AFlipReversesEachRow) {
  const Case c = Cases()[3];
  const AxisTaps x(c.x), y(c.y);
  // A source larger than what is needed, as decoders give it.
  const PixelRegion source = Noise(x.first() - 5, y.first() - 2, x.end() - x.first() + 9, y.end() - y.first() + 4);
  std::vector<uint8_t> plain(static_cast<size_t>(3) * 11 * 11), flipped(plain.size());
  ResizeToPlanes(source, x, y, false, plain.data());
  ResizeToPlanes(source, x, y, true, flipped.data());
  for (size_t row = 0; row < 33; ++row) {
    for (size_t j = 0; j < 11; ++j) ASSERT_EQ(flipped[row * 11 + j], plain[row * 11 + 10 - j]);
  }
  EXPECT_NE(plain, flipped);
}

}  // namespace
}  // namespace bitstair::core
