#include "core/kernels/hint_distance.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/nn/fast_arrays.h"

namespace bitstair::core {
namespace {

// Squares are summed in float32 over 256 elements of a lane.
constexpr double kSumBound = 1e-5;

float Level(float x, float n) {
  const float clipped = x < 0 ? 0 : x > 1 ? 1 : x;
  return n > 0 ? std::rint(n * clipped) : clipped;
}

// The statement of hint_distance.h, element by element.
void Compare(const at::Tensor& low, const at::Tensor& full, float n, bool masked) {
  SCOPED_TRACE(testing::Message() << low.scalar_type() << " and " << full.scalar_type() << ", n " << n << ", " << low.numel() << " elements, masked "
                                  << masked);
  at::Tensor difference = at::full(full.sizes(), 77, full.options()), full_masked = masked ? at::full_like(difference, 77) : at::Tensor();
  const double sum =
      HintDistance({.size = full.numel(), .low = Read(low), .full = Read(full), .n = n, .difference = Write(difference), .full_masked = Write(full_masked)});
  const at::Tensor a = low.to(at::kFloat), b = full.to(at::kFloat), d = difference.to(at::kFloat), m = masked ? full_masked.to(at::kFloat) : at::Tensor();
  double expected_sum = 0;
  const auto rounded = [&](float x) { return full.scalar_type() == at::kFloat ? x : at::full({}, x).to(at::kBFloat16).item<float>(); };
  for (int64_t i = 0; i < full.numel(); ++i) {
    const float x = a.const_data_ptr<float>()[i], z = b.const_data_ptr<float>()[i];
    const bool codes = low.scalar_type() == at::kByte;
    const float expected = (codes ? x : Level(x, n)) - Level(z, n);
    ASSERT_EQ(d.const_data_ptr<float>()[i], codes || (x >= 0 && x <= 1) ? rounded(expected) : 0.0f) << i << ": " << x << " and " << z;
    if (masked) {
      ASSERT_EQ(m.const_data_ptr<float>()[i], z >= 0 && z <= 1 ? rounded(expected) : 0.0f) << i << ": " << x << " and " << z;
    }
    expected_sum += static_cast<double>(expected) * expected;
  }
  EXPECT_NEAR(sum, expected_sum, kSumBound * expected_sum);
}

// Ordinary values, all ties of n, both ends, what lies just outside.
at::Tensor Values(int64_t size, float n, c10::ScalarType type) {
  const at::Tensor special = at::cat({(at::arange(std::min<int64_t>(64, static_cast<int64_t>(n) + 1)) + 0.5).div(std::max(1.0f, n)).to(at::kFloat),
                                      at::tensor({0.0f, -0.0f, 1.0f, 1.0000002f, -1e-30f, 5.0f, -5.0f})});
  return at::cat({special, at::randn({size}).mul(0.6)}).slice(0, 0, size).to(type).contiguous();
}

TEST(HintDistanceTest, EqualsThePlainLoop) {
  at::manual_seed(3);
  for (const int64_t size : {1, 15, 16, 17, 255, 4095, 4097, 70001}) {
    for (const c10::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const bool masked : {false, true}) {
        for (const int bits : {1, 2, 4, 8}) {
          const int64_t n = (1 << bits) - 1;
          Compare(at::randint(n + 1, {size}, at::kByte), Values(size, static_cast<float>(n), type), static_cast<float>(n), masked);
          Compare(Values(size, static_cast<float>(n), type).flip(0).contiguous(), Values(size, static_cast<float>(n), type), static_cast<float>(n), masked);
        }
        Compare(Values(size, 65535, type).flip(0).contiguous(), Values(size, 65535, type), 65535, masked);
        Compare(Values(size, 0, type).flip(0).contiguous(), Values(size, 0, type), 0, masked);
      }
    }
  }
}

TEST(HintDistanceTest, NothingIsAtNoDistance) {
  at::Tensor nothing = at::empty({0});
  EXPECT_EQ(HintDistance({.size = 0, .low = Read(nothing), .full = Read(nothing), .n = 3, .difference = Write(nothing), .full_masked = {}}), 0);
}

TEST(HintDistanceTest, ANotANumberIsNotLost) {
  at::Tensor full = at::zeros({40}), difference = at::empty({40});
  const at::Tensor codes = at::ones({40}, at::kByte);
  full[37].fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(HintDistance({.size = 40, .low = Read(codes), .full = Read(full), .n = 3, .difference = Write(difference), .full_masked = {}})));
}

TEST(HintDistanceTest, DoesNotDependOnTheNumberOfThreads) {
  const int before = at::get_num_threads();
  at::manual_seed(4);
  const at::Tensor codes = at::randint(16, {300001}, at::kByte), full = at::rand({300001});
  std::vector<double> sums;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    at::Tensor difference = at::empty_like(full);
    sums.push_back(HintDistance({.size = full.numel(), .low = Read(codes), .full = Read(full), .n = 15, .difference = Write(difference), .full_masked = {}}));
  }
  at::set_num_threads(before);
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
}

TEST(HintDistanceTest, RefusesArraysThatDoNotFit) {
  at::Tensor codes = at::zeros({4}, at::kByte), floats = at::zeros({4}), other = at::zeros({4}, at::kBFloat16);
  EXPECT_THROW(HintDistance({.size = 4, .low = Read(codes), .full = Read(floats), .n = 0, .difference = Write(floats), .full_masked = {}}), c10::Error);
  EXPECT_THROW(HintDistance({.size = 4, .low = Read(floats), .full = Read(codes), .n = 3, .difference = Write(floats), .full_masked = {}}), c10::Error);
  EXPECT_THROW(HintDistance({.size = 4, .low = Read(codes), .full = Read(floats), .n = 3, .difference = Write(other), .full_masked = {}}), c10::Error);
}

}  // namespace
}  // namespace bitstair::core
