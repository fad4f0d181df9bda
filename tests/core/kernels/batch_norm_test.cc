#include "core/kernels/batch_norm.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

struct Statistics {
  at::Tensor mean, variance;
};

Statistics StatisticsOf(const at::Tensor& sums, int64_t bound) {
  Statistics s{at::empty({sums.size(1)}, at::kDouble), at::empty({sums.size(1)}, at::kDouble)};
  BatchNormStatistics(sums, bound, s.mean, s.variance);
  return s;
}

// Odd sizes, small and large integers, so that all three ways of summing are taken: exact float64, int64, and float64 beyond 2^63.
TEST(BatchNormKernelTest, IntegerStatisticsAreExact) {
  for (const int64_t bound : {int64_t{100}, int64_t{1} << 22, int64_t{1} << 28}) {
    const bool wide = bound >= (int64_t{1} << 24);
    const at::Tensor sums = at::randint(-bound, bound + 1, {3, 5, 7, 3}, wide ? at::kDouble : at::kFloat);
    const Statistics got = StatisticsOf(sums, bound);
    for (int64_t c = 0; c < 5; ++c) {
      __int128 sum = 0, squares = 0;
      const at::Tensor channel = sums.select(1, c).contiguous().to(at::kLong);
      for (int64_t i = 0; i < channel.numel(); ++i) {
        const int64_t v = channel.data_ptr<int64_t>()[i];
        sum += v;
        squares += static_cast<__int128>(v) * v;
      }
      const double count = static_cast<double>(channel.numel());
      const double mean = static_cast<double>(static_cast<int64_t>(sum)) / count;
      ASSERT_EQ(got.mean[c].item<double>(), mean);
      ASSERT_EQ(got.variance[c].item<double>(), static_cast<double>(squares) / count - mean * mean);
    }
  }
}

TEST(BatchNormKernelTest, BeyondInt64TheSumsAreFloat64) {
  const int64_t bound = int64_t{1} << 31;  // bound^2 alone nearly fills int64
  const at::Tensor sums = at::full({2, 1, 3, 3}, static_cast<double>(bound), at::kDouble);
  const Statistics got = StatisticsOf(sums, bound);
  EXPECT_EQ(got.mean.item<double>(), static_cast<double>(bound));
  EXPECT_EQ(got.variance.item<double>(), 0);
}

TEST(BatchNormKernelTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const int threads = at::get_num_threads();
  const at::Tensor sums = at::randn({16, 7, 37, 41});
  const at::Tensor grad = at::randn_like(sums);
  const at::Tensor factors = at::rand({7}, at::kDouble);
  std::vector<at::Tensor> results[2];
  for (int i = 0; i < 2; ++i) {
    at::set_num_threads(1 + 2 * i);
    const Statistics s = StatisticsOf(sums, 0);
    at::Tensor x = at::empty_like(sums), grad_sums = at::empty_like(sums);
    at::Tensor sum = at::empty({7}, at::kDouble), dot = at::empty({7}, at::kDouble);
    BatchNormApply(sums, factors, s.mean, grad, 0.5, x);
    BatchNormBackwardSums(grad, sums, s.mean, sum, dot);
    BatchNormBackwardApply(grad, sums, s.mean, factors, sum, dot, grad_sums);
    results[i] = {s.mean, s.variance, x, sum, dot, grad_sums};
  }
  at::set_num_threads(threads);
  for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
}

TEST(BatchNormKernelTest, ApplyIsOneFusedMultiplyAdd) {
  const at::Tensor sums = at::randint(-5000, 5001, {2, 3, 5, 5}, at::kFloat);
  const at::Tensor alpha = at::rand({3}, at::kDouble);
  const at::Tensor beta = at::randn({3}, at::kDouble);
  const at::Tensor shortcut = at::randint(0, 16, {2, 3, 5, 5}, at::kFloat);
  at::Tensor x = at::empty_like(sums);
  at::Tensor with_shortcut = at::empty_like(sums);
  BatchNormApply(sums, alpha, beta, std::nullopt, 1, x);
  BatchNormApply(sums, alpha, beta, shortcut, 1.0 / 15, with_shortcut);
  for (int64_t i = 0; i < sums.numel(); ++i) {
    const int64_t c = i / 25 % 3;
    const float expected = std::fmaf(sums.data_ptr<float>()[i], alpha[c].item<float>(), beta[c].item<float>());
    ASSERT_EQ(x.data_ptr<float>()[i], expected);
    ASSERT_EQ(with_shortcut.data_ptr<float>()[i], expected + shortcut.data_ptr<float>()[i] / 15.0f);
  }
}

}  // namespace
}  // namespace bitstair::core
