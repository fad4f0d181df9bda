#include "core/kernels/weight_gradient.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

// The formula, in float64.
at::Tensor Reference(const ConvolutionShape& shape, const at::Tensor& x, const at::Tensor& grad_y) {
  at::Tensor gradient = at::zeros({shape.out_channels, shape.in_channels, shape.kernel, shape.kernel}, at::kDouble);
  const at::Tensor in = x.to(at::kDouble), out = grad_y.to(at::kDouble);
  for (int64_t kh = 0; kh < shape.kernel; ++kh) {
    for (int64_t kw = 0; kw < shape.kernel; ++kw) {
      for (int64_t n = 0; n < x.size(0); ++n) {
        for (int64_t oh = 0; oh < grad_y.size(1); ++oh) {
          for (int64_t ow = 0; ow < grad_y.size(2); ++ow) {
            const int64_t h = oh * shape.stride + kh - shape.padding, w = ow * shape.stride + kw - shape.padding;
            if (h < 0 || h >= x.size(1) || w < 0 || w >= x.size(2)) continue;
            gradient.select(3, kw).select(2, kh).add_(at::outer(out[n][oh][ow], in[n][h][w]));
          }
        }
      }
    }
  }
  return gradient;
}

at::Tensor Gradient(const ConvolutionShape& shape, const at::Tensor& x, const at::Tensor& grad_y, int64_t chunk, float scale) {
  at::Tensor sum = at::full({WeightGradientSize(shape)}, 1e9), plain = at::empty({shape.out_channels, shape.in_channels, shape.kernel, shape.kernel});
  for (int64_t first = 0; first < x.size(0); first += chunk) {
    const int64_t count = std::min(chunk, x.size(0) - first);
    const at::Tensor in = x.narrow(0, first, count), out = grad_y.narrow(0, first, count);
    AddWeightGradient(shape, {in.const_data_ptr(), x.scalar_type() == at::kByte ? Stored::kCodes : Stored::kBfloat16},
                      static_cast<const uint16_t*>(out.const_data_ptr()), count, x.size(1), x.size(2), first == 0, sum.mutable_data_ptr<float>());
  }
  PlainWeightGradient(shape, sum.const_data_ptr<float>(), scale, plain.mutable_data_ptr<float>());
  return plain;
}

struct Case {
  ConvolutionShape shape;
  int64_t images, height, width;
};
// Both tiles, strides, odd sizes, single pixels, more padding than image, rows in several blocks (70x40), several images in a block; even numbers of images,
// which are worked on in twos, and odd ones.
const Case kCases[] = {{{16, 16, 3, 1, 1}, 3, 8, 8},   {{16, 32, 3, 2, 1}, 2, 9, 7},   {{32, 16, 3, 1, 1}, 5, 7, 7},  {{64, 48, 3, 2, 1}, 2, 8, 8},
                       {{32, 64, 1, 2, 0}, 2, 5, 6},   {{48, 16, 1, 1, 0}, 1, 1, 1},   {{16, 16, 5, 1, 2}, 2, 3, 2},  {{32, 32, 3, 1, 1}, 2, 70, 40},
                       {{32, 16, 7, 2, 3}, 1, 11, 12}, {{16, 16, 3, 3, 1}, 2, 10, 11}, {{32, 32, 3, 1, 1}, 33, 4, 3}, {{16, 16, 3, 1, 2}, 1, 2, 1},
                       {{32, 16, 3, 1, 0}, 1, 3, 3},   {{32, 32, 3, 1, 1}, 1, 70, 40}, {{32, 32, 3, 1, 1}, 34, 4, 3}, {{16, 16, 3, 1, 2}, 2, 2, 1},
                       {{32, 16, 7, 2, 3}, 4, 11, 12}, {{16, 16, 3, 1, 1}, 14, 14, 14}};

class WeightGradientTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasWeightGradientKernel({16, 16, 1, 1, 0})) GTEST_SKIP() << "this processor has no AVX512_BF16";
    at::manual_seed(5);
  }
};

// Integers whose sums float32 holds: the result is exact, whatever the order.
TEST_F(WeightGradientTest, SumsOfIntegersAreExact) {
  for (const Case& c : kCases) {
    const std::vector<int64_t> out{c.images, c.shape.Out(c.height), c.shape.Out(c.width), c.shape.out_channels};
    const at::Tensor grad = (at::randint(255, out, at::kFloat) - 127).to(at::kBFloat16);
    for (const int64_t greatest : {1, 15, 255}) {
      const at::Tensor codes = at::randint(greatest + 1, {c.images, c.height, c.width, c.shape.in_channels}, at::kByte);
      const at::Tensor expected = Reference(c.shape, codes, grad);
      for (const int64_t chunk : {c.images, int64_t{2}}) {
        EXPECT_TRUE(Gradient(c.shape, codes, grad, chunk, 1).to(at::kDouble).equal(expected)) << c.shape.in_channels << " " << c.height << "x" << c.width;
      }
      EXPECT_TRUE(Gradient(c.shape, codes.to(at::kBFloat16), grad, c.images, 0.5F).to(at::kDouble).equal(expected * 0.5)) << c.shape.in_channels;
    }
  }
}

// Float32 sums of exact products of bfloat16: off by at most the number of terms times half a unit in the last place, and far less in fact.
TEST_F(WeightGradientTest, FloatsAreCloseToFloat64) {
  constexpr double kBound = 1e-6;  // of the sum of magnitudes
  for (const Case& c : kCases) {
    const at::Tensor grad = at::randn({c.images, c.shape.Out(c.height), c.shape.Out(c.width), c.shape.out_channels}).to(at::kBFloat16);
    const at::Tensor x = at::randn({c.images, c.height, c.width, c.shape.in_channels}).to(at::kBFloat16);
    const at::Tensor magnitude = Reference(c.shape, x.abs(), grad.abs());
    const at::Tensor error = (Gradient(c.shape, x, grad, c.images, 1).to(at::kDouble) - Reference(c.shape, x, grad)).abs();
    EXPECT_TRUE(error.le(magnitude * kBound).all().item<bool>()) << c.shape.in_channels << " " << c.height << "x" << c.width;
  }
}

TEST_F(WeightGradientTest, ThreadsChangeNoBit) {
  const int before = at::get_num_threads();
  for (const Case& c : kCases) {
    const at::Tensor grad = at::randn({c.images, c.shape.Out(c.height), c.shape.Out(c.width), c.shape.out_channels}).to(at::kBFloat16);
    const at::Tensor x = at::randn({c.images, c.height, c.width, c.shape.in_channels}).to(at::kBFloat16);
    at::set_num_threads(1);
    const at::Tensor one = Gradient(c.shape, x, grad, c.images, 1);
    at::set_num_threads(3);
    EXPECT_TRUE(Gradient(c.shape, x, grad, c.images, 1).equal(one));
  }
  at::set_num_threads(before);
}

TEST_F(WeightGradientTest, NotANumberReachesItsChannels) {
  const ConvolutionShape shape{32, 16, 3, 1, 1};
  at::Tensor grad = at::ones({1, 4, 4, 16}, at::kBFloat16);
  grad[0][1][1][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor gradient = Gradient(shape, at::ones({1, 4, 4, 32}, at::kByte), grad, 1, 1);
  EXPECT_TRUE(gradient[3].isnan().all().item<bool>());
  EXPECT_EQ(gradient.isnan().sum().item<int64_t>(), 32 * 9);
}

TEST_F(WeightGradientTest, OtherChannelsHaveNoKernel) {
  EXPECT_FALSE(HasWeightGradientKernel({3, 16, 3, 1, 1}));
  EXPECT_FALSE(HasWeightGradientKernel({16, 24, 3, 1, 1}));
}

}  // namespace
}  // namespace bitstair::core
