#include "core/training/schedule.h"

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

constexpr double kTolerance = 1e-15;

TEST(ScheduleTest, CosineFallsPerStepFromInitialToZero) {
  LearningRateSchedule s;
  s.initial = 0.2;
  s.epochs = 4;
  EXPECT_EQ(LearningRateAt(s, 0, 0, 10), 0.2);
  EXPECT_NEAR(LearningRateAt(s, 2, 0, 10), 0.1, kTolerance);
  EXPECT_NEAR(LearningRateAt(s, 1, 0, 10), 0.1 * (1 + 0.7071067811865476), kTolerance);
  EXPECT_NEAR(LearningRateAt(s, 4, 0, 10), 0, kTolerance);
  EXPECT_EQ(LearningRateAt(s, 1, 5, 10), LearningRateAt(s, 1, 50, 100));
  for (int e = 0; e < 4; ++e) {
    for (int i = 0; i < 9; ++i) EXPECT_GT(LearningRateAt(s, e, i, 10), LearningRateAt(s, e, i + 1, 10));
  }
}

TEST(ScheduleTest, StepsMultiplyAtTheBeginningOfTheirEpochs) {
  LearningRateSchedule s;
  s.kind = LearningRateSchedule::Kind::kStep;
  s.initial = 1;
  s.epochs = 10;
  s.step_epochs = {3, 5};
  s.gamma = 0.5;
  EXPECT_EQ(LearningRateAt(s, 2, 9, 10), 1);
  EXPECT_EQ(LearningRateAt(s, 3, 0, 10), 0.5);
  EXPECT_EQ(LearningRateAt(s, 4, 9, 10), 0.5);
  EXPECT_EQ(LearningRateAt(s, 9, 0, 10), 0.25);
}

}  // namespace
}  // namespace bitstair::core
