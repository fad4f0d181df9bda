#include "core/kernels/max_pool.h"

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

TEST(MaxPoolTest, TiesGoToTheFirstInRowMajorOrder) {
  const at::Tensor x = at::tensor({3, 3, 1, 2,  //
                                   3, 3, 2, 2,  //
                                   0, 0, 0, 1,  //
                                   0, 0, 1, 1},
                                  at::kFloat)
                           .view({1, 1, 4, 4});
  at::Tensor pooled = at::empty({1, 1, 2, 2});
  at::Tensor taken = at::empty({1, 1, 2, 2}, at::kByte);
  MaxPool(x, 2, pooled, taken);
  EXPECT_TRUE(at::equal(pooled.flatten(), at::tensor({3, 2, 0, 1}, at::kFloat)));
  EXPECT_TRUE(at::equal(taken.flatten(), at::tensor({0, 1, 0, 1}, at::kByte)));

  at::Tensor grad_x = at::full({1, 1, 4, 4}, 77.0f);
  MaxPoolBackward(at::tensor({10, 20, 30, 40}, at::kFloat).view({1, 1, 2, 2}), taken, 2, grad_x);
  EXPECT_TRUE(at::equal(grad_x.flatten(), at::tensor({10, 0, 0, 20, 0, 0, 0, 0, 30, 0, 0, 40, 0, 0, 0, 0}, at::kFloat)));
}

TEST(MaxPoolTest, OddSizesLeaveTheRestOut) {
  for (int64_t size : {2, 3}) {
    const at::Tensor x = at::randint(0, 4, {3, 5, 7, 11}, at::kDouble);
    const int64_t rows = 7 / size, columns = 11 / size;
    at::Tensor pooled = at::empty({3, 5, rows, columns}, at::kDouble);
    at::Tensor taken = at::empty(pooled.sizes(), at::kByte);
    MaxPool(x, size, pooled, taken);
    const auto a = x.accessor<double, 4>();
    at::Tensor expected_grad = at::zeros_like(x);
    auto e = expected_grad.accessor<double, 4>();
    const at::Tensor grad = at::rand_like(pooled);
    for (int64_t n = 0; n < 3; ++n) {
      for (int64_t c = 0; c < 5; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t s = 0; s < columns; ++s) {
            int64_t bi = 0, bj = 0;
            for (int64_t i = 0; i < size; ++i) {
              for (int64_t j = 0; j < size; ++j) {
                if (a[n][c][r * size + i][s * size + j] > a[n][c][r * size + bi][s * size + bj]) bi = i, bj = j;
              }
            }
            ASSERT_EQ(pooled[n][c][r][s].item<double>(), a[n][c][r * size + bi][s * size + bj]);
            e[n][c][r * size + bi][s * size + bj] = grad[n][c][r][s].item<double>();
          }
        }
      }
    }
    at::Tensor grad_x = at::full(x.sizes(), 5.0, at::kDouble);
    MaxPoolBackward(grad, taken, size, grad_x);
    EXPECT_TRUE(at::equal(grad_x, expected_grad));
  }
}

TEST(MaxPoolTest, TiesGoWherePyTorchTakesThem) {
  for (const c10::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const int64_t size : {2, 3}) {
      const at::Tensor x = at::randint(0, 3, {4, 3, 12, 12}, type) / 2;  // 0, 0.5 and 1
      at::Tensor pooled = at::empty({4, 3, 12 / size, 12 / size}, type);
      at::Tensor taken = at::empty(pooled.sizes(), at::kByte);
      MaxPool(x, size, pooled, taken);
      for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
        const auto [theirs, indices] = at::max_pool2d_with_indices(x.contiguous(format), {size, size});
        EXPECT_TRUE(pooled.equal(theirs));
        // Theirs is an index into the plane.
        const at::Tensor row = indices.div(12, "floor").remainder(size), column = indices.remainder(12).remainder(size);
        EXPECT_TRUE(taken.to(at::kLong).equal((row * size + column).contiguous())) << type << " " << size << " " << format;
      }
    }
  }
}

TEST(MaxPoolTest, NanWins) {
  at::Tensor x = at::ones({1, 1, 2, 2});
  x[0][0][1][0] = std::numeric_limits<float>::quiet_NaN();
  at::Tensor pooled = at::empty({1, 1, 1, 1});
  at::Tensor taken = at::empty({1, 1, 1, 1}, at::kByte);
  MaxPool(x, 2, pooled, taken);
  EXPECT_TRUE(pooled.isnan().all().item<bool>());
  EXPECT_EQ(taken.item<uint8_t>(), 2);
}

}  // namespace
}  // namespace bitstair::core
