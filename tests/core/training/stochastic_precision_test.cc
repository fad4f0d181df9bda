#include "core/training/stochastic_precision.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/nn/network.h"
#include "core/training/train_step.h"

namespace bitstair::core {
namespace {

NetworkConfig Config(Numerics numerics) {
  NetworkConfig config;
  config.network = "resnet20_b";
  config.image_channels = 3;
  config.image_height = config.image_width = 12;
  config.channel_divisor = 4;
  config.classes = 10;
  config.weight_bits = config.activation_bits = 3;
  config.numerics = numerics;
  return config;
}

TEST(StochasticPrecisionTest, TheShareGrowsLinearlyFromItsStartAndThenStays) {
  const StochasticPrecisionOptions options;
  EXPECT_EQ(QuantizedShareAt(options, 0, 100), 0.5);
  EXPECT_DOUBLE_EQ(QuantizedShareAt(options, 40, 100), 0.75);
  EXPECT_EQ(QuantizedShareAt(options, 80, 100), 1);
  EXPECT_EQ(QuantizedShareAt(options, 99, 100), 1);
  EXPECT_DOUBLE_EQ(QuantizedShareAt({.start_share = 0, .full_share_at = 1}, 25, 100), 0.25);
}

TEST(StochasticPrecisionTest, TheChoiceHasItsSizeAndEveryUnitIsChosenAboutEquallyOften) {
  constexpr size_t kUnits = 18;
  constexpr int kSteps = 2000;
  std::vector<int> times(kUnits);
  std::set<std::vector<bool>> choices;
  for (int step = 0; step < kSteps; ++step) {
    const std::vector<bool> rounded = ChooseRoundedUnits(1, 7, step, kUnits, 0.5);
    ASSERT_EQ(std::count(rounded.begin(), rounded.end(), true), 9);
    choices.insert(rounded);
    for (size_t i = 0; i < kUnits; ++i) times[i] += rounded[i] ? 1 : 0;
  }
  // Binomial: standard deviation 22; five of them.
  for (const int count : times) EXPECT_NEAR(count, kSteps / 2, 112);
  EXPECT_GT(choices.size(), 1900U);
}

TEST(StochasticPrecisionTest, TheChoiceIsAFunctionOfSeedEpochAndBatch) {
  const auto choice = [](uint64_t seed, uint32_t epoch, int64_t batch) { return ChooseRoundedUnits(seed, epoch, batch, 18, 0.5); };
  EXPECT_EQ(choice(1, 2, 3), choice(1, 2, 3));
  EXPECT_NE(choice(1, 2, 3), choice(2, 2, 3));
  EXPECT_NE(choice(1, 2, 3), choice(1, 3, 3));
  EXPECT_NE(choice(1, 2, 3), choice(1, 2, 4));
  EXPECT_EQ(ChooseRoundedUnits(1, 2, 3, 18, 1), std::vector<bool>(18, true));
  EXPECT_EQ(ChooseRoundedUnits(1, 2, 3, 18, 0), std::vector<bool>(18, false));
}

// What a unit that is not rounded leaves: activations between the levels, in the very units that were chosen.
TEST(StochasticPrecisionTest, AStepInAnyNumericsRoundsTheChosenUnitsAlone) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast, Numerics::kFast8}) {
    const auto network = CreateNetwork(Config(numerics)).value();
    at::manual_seed(3);
    Sgd sgd(network->parameters(), {});
    LocalGradients gradients;
    TrainStep step(network.get(), &sgd, &gradients);
    ASSERT_EQ(network->units().size(), 18U);
    EXPECT_EQ(network->units().front(), "layer1.0.conv1");
    for (int i = 0; i < 3; ++i) {
      std::vector<bool> rounded = ChooseRoundedUnits(1, 0, i, 18, 0.5), seen;
      network->set_activation_observer([&](size_t, const at::Tensor& values) {
        const at::Tensor steps = values.detach().to(at::kDouble) * 7;
        seen.push_back((steps - steps.round()).abs().max().item<double>() < 1e-4);
      });
      network->set_rounded_units(rounded);
      const Batch batch{at::randn({8, 3, 12, 12}), at::randint(10, {8}, at::kLong), i};
      const absl::StatusOr<StepResult> result = step.Run(batch, 0.05);
      network->set_activation_observer(nullptr);
      ASSERT_TRUE(result.ok()) << result.status();
      rounded.push_back(false);  // the one that feeds the last layer
      EXPECT_EQ(seen, rounded);
    }
    // All rounded again: what was not has left nothing behind.
    network->set_rounded_units({});
    network->QuantizeWeights();
    const at::Tensor images = at::randn({4, 3, 12, 12}), after = network->Forward(images, false);
    network->set_rounded_units(std::vector<bool>(18, true));
    network->QuantizeWeights();
    EXPECT_TRUE(at::equal(after, network->Forward(images, false)));
  }
}

TEST(StochasticPrecisionTest, AChoiceOfAnotherLengthIsRefused) {
  const auto network = CreateNetwork(Config(Numerics::kReference)).value();
  EXPECT_THROW(network->set_rounded_units(std::vector<bool>(17)), c10::Error);
}

}  // namespace
}  // namespace bitstair::core
