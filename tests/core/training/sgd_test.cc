#include "core/training/sgd.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/quant/dorefa.h"
#include "core/quant/weight_pass.h"

namespace bitstair::core {
namespace {

// Reordering of the same operations in float64.
constexpr double kTolerance = 1e-14;

void Check(SgdOptions options) {
  at::Tensor w = at::randn({6}, at::kDouble).requires_grad_();
  at::Tensor gamma = at::randn({3}, at::kDouble).requires_grad_();
  std::vector<Parameter> parameters = {{"w", w, w, nullptr, false}, {"gamma", gamma, gamma, nullptr, true}};
  Sgd sgd(parameters, options);
  std::vector<std::vector<double>> expected(2), velocity(2);
  for (int p = 0; p < 2; ++p) {
    const double* data = parameters[p].latent.data_ptr<double>();
    expected[p].assign(data, data + parameters[p].latent.numel());
    velocity[p].assign(expected[p].size(), 0);
  }
  for (int step = 0; step < 4; ++step) {
    const double rate = 0.1 / (step + 1);
    for (int p = 0; p < 2; ++p) {
      const at::Tensor grad = at::randn_like(parameters[p].latent.detach());
      parameters[p].leaf.mutable_grad() = grad.clone();
      const double decay = p == 1 && !options.decay_batch_norm ? 0 : options.weight_decay;
      for (size_t i = 0; i < expected[p].size(); ++i) {
        const double g = grad.data_ptr<double>()[i] + decay * expected[p][i];
        velocity[p][i] = step == 0 ? g : options.momentum * velocity[p][i] + g;
        expected[p][i] -=
            (p == 1 ? options.batch_norm_learning_rate_factor : 1) * rate * (options.nesterov ? g + options.momentum * velocity[p][i] : velocity[p][i]);
      }
    }
    sgd.Step(rate);
    for (int p = 0; p < 2; ++p) {
      EXPECT_FALSE(parameters[p].leaf.grad().defined());
      for (size_t i = 0; i < expected[p].size(); ++i) {
        ASSERT_NEAR(parameters[p].latent.data_ptr<double>()[i], expected[p][i], kTolerance);
        ASSERT_NEAR(sgd.momentum()[p].data_ptr<double>()[i], velocity[p][i], kTolerance);
      }
    }
  }
}

TEST(SgdTest, EqualsThePlainFormula) {
  Check({});
  Check({.momentum = 0.9, .nesterov = false, .weight_decay = 0.01});
  Check({.momentum = 0.5, .nesterov = true, .weight_decay = 0.1, .decay_batch_norm = false});
  Check({.momentum = 0, .nesterov = false, .weight_decay = 0});
  Check({.weight_decay = 0.01, .batch_norm_learning_rate_factor = 0.1});
  Check({.batch_norm_learning_rate_factor = 0});
}

TEST(SgdTest, AQuantizedWeightIsUpdatedThroughItsQuantizer) {
  const auto quantizer = MakeDorefaWeightQuantizer(2, {});
  const at::Tensor latent = at::randn({5}, at::kDouble);
  at::Tensor leaf = at::zeros({5}, at::kDouble).requires_grad_();
  std::vector<Parameter> parameters = {{"w", latent, leaf, quantizer.get(), false}};
  Sgd sgd(parameters, {.momentum = 0, .nesterov = false, .weight_decay = 0});
  const at::Tensor grad = at::randn({5}, at::kDouble);
  const at::Tensor expected = latent - 0.3 * WeightGradient(*quantizer, latent, grad);
  leaf.mutable_grad() = grad;
  sgd.Step(0.3);
  EXPECT_TRUE(at::allclose(latent, expected, kTolerance, kTolerance));
}

TEST(SgdTest, AMissingGradientIsNamed) {
  at::Tensor w = at::randn({2}).requires_grad_();
  std::vector<Parameter> parameters = {{"conv9.weight", w, w, nullptr, false}};
  Sgd sgd(parameters, {});
  try {
    sgd.Step(0.1);
    FAIL() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("conv9.weight"), std::string::npos);
  }
}

}  // namespace
}  // namespace bitstair::core
