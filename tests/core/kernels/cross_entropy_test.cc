#include "core/kernels/cross_entropy.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

TEST(CrossEntropyTest, EqualsATen) {
  for (const auto& [images, classes] : {std::pair<int64_t, int64_t>{1, 1}, {3, 2}, {128, 100}, {17, 1000}}) {
    at::Tensor x = (at::randn({images, classes}, at::kDouble) * 5).set_requires_grad(true);
    const at::Tensor labels = at::randint(classes, {images}, at::kLong);
    const at::Tensor loss = at::cross_entropy_loss(x, labels);
    loss.backward();
    const CrossEntropy got = SoftmaxCrossEntropy(x.detach(), labels);
    EXPECT_NEAR(got.loss, loss.item<double>(), 1e-12);
    EXPECT_TRUE(at::allclose(got.gradient, x.grad(), 1e-12, 1e-14));
    EXPECT_EQ(got.correct, x.argmax(1).eq(labels).sum().item<int64_t>());
    EXPECT_TRUE(at::allclose(SoftmaxCrossEntropy(x.detach().to(at::kFloat), labels).gradient.to(at::kDouble), x.grad(), 1e-5, 1e-7));
  }
}

TEST(CrossEntropyTest, GreatLogitsDoNotOverflowAndTiesGoToTheFirst) {
  const at::Tensor x = at::tensor({1000.0f, 1000.0f, -1000.0f}).view({1, 3});
  const CrossEntropy first = SoftmaxCrossEntropy(x, at::zeros({1}, at::kLong)), second = SoftmaxCrossEntropy(x, at::ones({1}, at::kLong));
  EXPECT_NEAR(first.loss, std::log(2.0), 1e-12);
  EXPECT_EQ(first.correct, 1);
  EXPECT_EQ(second.correct, 0);
  EXPECT_EQ(first.gradient[0][2].item<float>(), 0);
}

TEST(CrossEntropyTest, WhatIsNotANumberReachesTheLoss) {
  for (const int64_t at : {0, 2}) {
    at::Tensor x = at::randn({2, 3});
    x[1][at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(SoftmaxCrossEntropy(x, at::zeros({2}, at::kLong)).loss)) << at;
  }
}

TEST(CrossEntropyTest, ALabelOutOfRangeIsAnError) {
  EXPECT_THROW(SoftmaxCrossEntropy(at::zeros({1, 3}), at::full({1}, 3, at::kLong)), c10::Error);
  EXPECT_THROW(SoftmaxCrossEntropy(at::zeros({1, 3}), at::full({1}, -1, at::kLong)), c10::Error);
}

}  // namespace
}  // namespace bitstair::core
