#include "core/kernels/gradient_codes.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/kernels/convolution.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

constexpr GradientRandom kRandom{.seed = 0x1234567890abcdef, .layer = 7, .epoch = 3, .batch = 11, .first_image = 64};

struct Codes {
  at::Tensor q;
  std::vector<float> scales;
};
Codes Quantize(const at::Tensor& g, const GradientRandom& random = kRandom, int64_t from = 0) {
  Codes out{at::empty(g.sizes(), at::kChar), std::vector<float>(static_cast<size_t>(g.size(0)))};
  const Stored type = g.scalar_type() == at::kBFloat16 ? Stored::kBfloat16 : Stored::kFloat32;
  QuantizeGradients({g.const_data_ptr(), type}, g.size(0), g.numel() / g.size(0), random, from, out.q.data_ptr<int8_t>(), out.scales.data());
  return out;
}

class GradientCodesTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!SetLanes(GetParam())) GTEST_SKIP() << "this processor has no " << GetParam();
  }
  void TearDown() override { SetLanes(""); }
};
INSTANTIATE_TEST_SUITE_P(Lanes, GradientCodesTest, testing::Values("avx512_bf16", "avx512", "plain"), [](const auto& info) { return info.param; });

// As docs/formats/random.md says, number by number.
TEST_P(GradientCodesTest, EqualAPlainLoop) {
  for (const int64_t size : {1, 7, 16, 255, 256, 257, 20000}) {
    for (const c10::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor g = (at::randn({3, size}) * 1e-5).to(type);
      const at::Tensor floats = g.to(at::kFloat);
      const Codes got = Quantize(g, kRandom, 2);
      for (int64_t image = 0; image < 3; ++image) {
        const float max = floats[image].abs().max().item<float>(), scale = max / 127, factor = 1 / scale;
        ASSERT_EQ(got.scales[image], scale);
        const std::array<uint32_t, 4> key = Philox4x32(kRandom.seed, Purpose::kGradient, 3, 11, static_cast<uint32_t>((7 << 20) + 64 + 2 + image));
        for (int64_t i = 0; i < size; ++i) {
          const int64_t strip = i / 256 * 16, byte = i % 256, word = byte / 4;
          const auto block = Philox4x32((uint64_t{key[1]} << 32) | key[0], {5, static_cast<uint32_t>(strip + word % 16), 0, 0});
          const float u = (static_cast<float>((block[word / 16] >> (8 * (byte % 4))) & 255) + 0.5f) / 256;
          const float expected = std::min(127.0f, std::max(-127.0f, std::floor(floats[image][i].item<float>() * factor + u)));
          ASSERT_EQ(got.q[image][i].item<int8_t>(), expected) << size << " at " << i;
        }
      }
    }
  }
}

// The mean over many roundings is the number: within five standard errors of a rounding's at most 1/2.
TEST_P(GradientCodesTest, AreUnbiased) {
  constexpr int64_t kSize = 200000;
  for (const float x : {0.1f, -0.37f, 0.5f, 0.003f}) {
    at::Tensor g = at::full({1, kSize}, x);
    g[0][0] = 127;  // scale 1
    const Codes codes = Quantize(g);
    ASSERT_EQ(codes.scales[0], 1);
    EXPECT_NEAR(codes.q.slice(1, 1).to(at::kDouble).mean().item<double>(), x, 5 * 0.5 / std::sqrt(kSize) + 1.0 / 512) << x;
  }
}

TEST_P(GradientCodesTest, ZerosAndWhatIsNotFinite) {
  at::Tensor g = at::zeros({4, 300});
  g[1] = at::randn({300});
  g[2][299] = std::numeric_limits<float>::quiet_NaN();
  g[3][5] = -std::numeric_limits<float>::infinity();
  const Codes codes = Quantize(g);
  EXPECT_EQ(codes.scales[0], 0);
  EXPECT_TRUE(codes.q[0].eq(0).all().item<bool>());
  EXPECT_TRUE(codes.q[1].ne(0).any().item<bool>());
  EXPECT_TRUE(std::isnan(codes.scales[2]) && std::isnan(codes.scales[3]));
  at::Tensor x = at::ones({4, 10});
  ScaleImages({x.mutable_data_ptr(), Stored::kFloat32}, 4, 10, codes.scales.data());
  EXPECT_EQ(x[1][3].item<float>(), codes.scales[1]);
  EXPECT_TRUE(x[2].isnan().all().item<bool>()) << "what is not a number stays so";
}

TEST_P(GradientCodesTest, DoNotDependOnThreadsOrChunks) {
  const at::Tensor g = at::randn({4, 70000});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Codes all = Quantize(g);
  at::set_num_threads(threads);
  EXPECT_TRUE(Quantize(g).q.equal(all.q));
  EXPECT_TRUE(Quantize(g.slice(0, 2), kRandom, 2).q.equal(all.q.slice(0, 2)));
  GradientRandom next = kRandom;
  next.batch += 1;
  EXPECT_FALSE(Quantize(g, next).q.equal(all.q));
}

// Exact integer sums, rounded once: for greatest codes and for strides, odd sizes and 1x1.
TEST(InputGradientOfCodesTest, EqualsTheConvolutionsGradient) {
  if (!IntegerSumsAreExact(255, 127)) GTEST_SKIP() << "no VNNI";
  struct Case {
    ConvolutionShape shape;
    int64_t size, images, bits;
  };
  for (const Case& c :
       {Case{{16, 32, 3, 1, 1}, 9, 3, 4}, Case{{16, 32, 3, 2, 1}, 9, 2, 4}, Case{{16, 32, 3, 2, 1}, 8, 2, 7}, Case{{5, 7, 1, 2, 0}, 8, 2, 2},
        Case{{512, 512, 3, 1, 1}, 3, 1, 7}, Case{{64, 16, 5, 1, 2}, 6, 2, 1}, Case{{256, 64, 1, 1, 0}, 2, 4, 3}, Case{{4, 4, 3, 1, 1}, 8, 4, 3}}) {
    const int64_t n = (1 << c.bits) - 1, out = c.shape.Out(c.size);
    for (const bool greatest : {false, true}) {
      const at::Tensor w =
          greatest ? at::full({c.shape.out_channels, c.shape.in_channels, c.shape.kernel, c.shape.kernel}, n, at::kFloat)
                   : at::randint(n + 1, {c.shape.out_channels, c.shape.in_channels, c.shape.kernel, c.shape.kernel}, at::kFloat) * 2 - static_cast<double>(n);
      const at::Tensor q = greatest ? at::full({c.images, c.shape.out_channels, out, out}, -127, at::kFloat)
                                    : at::randint(255, {c.images, c.shape.out_channels, out, out}, at::kFloat) - 127;
      const at::Tensor x = at::zeros({c.images, c.shape.in_channels, c.size, c.size}, at::kDouble);
      const at::Tensor expected = std::get<0>(at::convolution_backward(q.to(at::kDouble), x, w.to(at::kDouble), std::nullopt, {c.shape.stride, c.shape.stride},
                                                                       {c.shape.padding, c.shape.padding}, {1, 1}, false, {0, 0}, 1, {true, false, false}));
      const at::Tensor codes = q.permute({0, 2, 3, 1}).contiguous().to(at::kChar);
      Convolution convolution(c.shape);
      convolution.SetWeights(w.to(at::kChar), n);
      for (const bool on_one_thread : {false, true}) {
        convolution.BeginBackward();
        at::Tensor got = at::empty({c.images, c.size, c.size, c.shape.in_channels}, FastFloat());
        if (on_one_thread) {  // of several, as groups of images are worked on
          at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
            // What a buffer holds before must not matter.
            for (int i = 0; i < 16; ++i) at::full({1 << (8 + i % 4)}, 0x5a5a5a5a, at::kInt);
            if (begin == 0 && end > 0) convolution.InputGradientOfCodes(codes, got);
          });
        } else {
          convolution.InputGradientOfCodes(codes, got);
        }
        EXPECT_TRUE(got.permute({0, 3, 1, 2}).to(at::kDouble).equal(expected.to(FastFloat()).to(at::kDouble)))
            << c.shape.in_channels << "->" << c.shape.out_channels << " k" << c.shape.kernel << " s" << c.shape.stride << " on one thread " << on_one_thread;
      }
    }
  }
}

}  // namespace
}  // namespace bitstair::core
