#include "core/training/divergence.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

TEST(DivergenceTest, ItAndItsGradientAreThoseOfTheFormula) {
  at::manual_seed(1);
  for (const double temperature : {1.0, 3.0}) {
    const at::Tensor constant = at::randn({6, 5}, at::kDouble);
    const at::Tensor logits = at::randn({6, 5}, at::kDouble).set_requires_grad(true), again = logits.detach().clone().set_requires_grad(true);
    const at::Tensor ours = DivergenceFrom(constant, logits, temperature);
    const at::Tensor p = at::softmax(constant / temperature, 1), q = at::softmax(again / temperature, 1);
    const at::Tensor expected = (p * (p / q).log()).sum() / 6;
    EXPECT_NEAR(ours.item<double>(), expected.item<double>(), 1e-14);
    (2 * ours).backward();
    (2 * expected).backward();
    EXPECT_TRUE(at::allclose(logits.grad(), again.grad(), 1e-12, 1e-14));
  }
  const at::Tensor same = at::randn({3, 4});
  EXPECT_NEAR(DivergenceFrom(same, same, 1).item<double>(), 0, 1e-7);
}

}  // namespace
}  // namespace bitstair::core
