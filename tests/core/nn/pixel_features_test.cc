#include "core/nn/pixel_features.h"

#include <limits>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/nn/network.h"
#include "core/nn/quantized_conv2d.h"

namespace bitstair::core {
namespace {

struct Shape {
  int bits;
  int64_t channels, out, kernel, stride, padding, side;
};

QuantizedConv2d Convolution(const Shape& s, const at::Tensor& latent, bool fast) {
  const QuantizerFamily family = *FindQuantizer("dorefa");
  return QuantizedConv2d(std::make_unique<Weight>("conv1.weight", latent.clone(), family.weights(s.bits, {}), fast), s.stride, fast ? 0 : s.padding);
}

// The plain loop: what lies outside of the image has value 0, so it adds nothing.
at::Tensor Sums(const Shape& s, const at::Tensor& centered, const at::Tensor& codes) {
  const int64_t side = (s.side + 2 * s.padding - s.kernel) / s.stride + 1, images = centered.size(0);
  at::Tensor sums = at::zeros({images, s.out, side, side}, at::kLong);
  const auto a = centered.accessor<float, 4>();
  const auto w = codes.accessor<float, 4>();
  auto out = sums.accessor<int64_t, 4>();
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t o = 0; o < s.out; ++o) {
      for (int64_t y = 0; y < side; ++y) {
        for (int64_t x = 0; x < side; ++x) {
          for (int64_t c = 0; c < s.channels; ++c) {
            for (int64_t i = 0; i < s.kernel * s.kernel; ++i) {
              const int64_t row = y * s.stride + i / s.kernel - s.padding, column = x * s.stride + i % s.kernel - s.padding;
              if (row < 0 || column < 0 || row >= s.side || column >= s.side) continue;
              out[n][o][y][x] += static_cast<int64_t>(a[n][c][row][column]) * static_cast<int64_t>(w[o][c][i / s.kernel][i % s.kernel]);
            }
          }
        }
      }
    }
  }
  return sums;
}

// First layers of the networks, with the greatest sums of all: codes at both ends.
TEST(PixelFeaturesTest, BothNumericsGiveTheIntegerSumsOfAPlainLoop) {
  at::manual_seed(5);
  for (const Shape& s :
       {Shape{2, 3, 16, 3, 1, 1, 8}, Shape{4, 1, 4, 3, 1, 1, 9}, Shape{8, 3, 8, 7, 2, 3, 13}, Shape{1, 3, 8, 11, 4, 2, 19}, Shape{8, 3, 8, 11, 4, 2, 19}}) {
    SCOPED_TRACE(testing::Message() << s.bits << " bits, kernel " << s.kernel);
    const PixelGrid grid = GridOf({-1.9, 2.3});
    const at::Tensor images = at::randn({3, s.channels, s.side, s.side}) * 3, latent = at::randn({s.out, s.channels, s.kernel, s.kernel});
    const QuantizedConv2d reference = Convolution(s, latent, false), fast = Convolution(s, latent, true);
    const at::NoGradGuard no_grad;
    const Features plain = PixelFeatures(images, grid, s.padding, false), bytes = PixelFeatures(images, grid, s.padding, true);
    const bitstair::core::Sums of_plain = reference.Forward(plain), of_bytes = fast.Forward(bytes);
    const at::Tensor codes = WeightCodes(*FindQuantizer("dorefa")->weights(s.bits, {}), latent, at::kFloat);
    const at::Tensor expected = Sums(s, plain.tensor, codes);
    EXPECT_TRUE(of_plain.tensor.to(at::kLong).equal(expected));
    // In evaluation the sums are made for some images at a time.
    EXPECT_TRUE(of_bytes.fast->make(1, 2).permute({0, 3, 1, 2}).to(at::kLong).equal(expected.slice(0, 1, 3)));
    EXPECT_EQ(of_plain.scale, grid.step / static_cast<double>((1 << s.bits) - 1));
    EXPECT_EQ(of_plain.scale, of_bytes.scale);
    EXPECT_LE(expected.abs().max().item<int64_t>(), of_plain.bound);
  }
}

TEST(PixelFeaturesTest, APixelThatIsNotANumberIsRefused) {
  at::Tensor images = at::zeros({2, 1, 3, 3});
  images[1][0][2][2] = std::numeric_limits<float>::quiet_NaN();
  for (const bool fast : {false, true}) EXPECT_THROW(PixelFeatures(images, {0.1, 3}, 1, fast), NotANumber);
}

}  // namespace
}  // namespace bitstair::core
