#include "server/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/job_spec.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;

std::vector<v1::StageSpec> Plan(const v1::JobSpec& spec) {
  const auto resolved = ResolveJobSpec(spec);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return resolved.ok() ? PlanStages(*resolved, testing::kDigestA) : std::vector<v1::StageSpec>();
}

std::vector<std::string> Names(const std::vector<v1::StageSpec>& stages) {
  std::vector<std::string> names;
  for (const auto& stage : stages) names.push_back(stage.name());
  return names;
}

std::vector<int> Epochs(const std::vector<v1::StageSpec>& stages) {
  std::vector<int> epochs;
  for (const auto& stage : stages) epochs.push_back(stage.epochs());
  return epochs;
}

TEST(PlannerTest, PerWidthNeverLetsActivationsGoBackUp) {
  const auto stages = Plan(testing::SmallSpec());
  EXPECT_THAT(Names(stages), ElementsAre("W32A32", "W8A32", "W8A8", "W4A8", "W4A4"));
  for (size_t i = 1; i < stages.size(); ++i) {
    EXPECT_EQ(stages[i].parent(), stages[i - 1].name());
    EXPECT_LE(stages[i].activation_bits(), stages[i - 1].activation_bits());
  }
  EXPECT_EQ(stages[0].parent(), "");
}

TEST(PlannerTest, PerStageFirstLowersAllWeights) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_order(v1::STAGE_ORDER_PER_STAGE);
  EXPECT_THAT(Names(Plan(spec)), ElementsAre("W32A32", "W8A32", "W4A32", "W4A8", "W4A4"));
}

TEST(PlannerTest, WithoutTwoStagesEachWidthIsOneStage) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_two_stage(false);
  EXPECT_THAT(Names(Plan(spec)), ElementsAre("W32A32", "W8A8", "W4A4"));
}

TEST(PlannerTest, InitialWeightsTakeThePlaceOfTheFullPrecisionStage) {
  v1::JobSpec spec = testing::SmallSpec();
  const auto trained = Plan(spec);
  spec.clear_pretrain();
  spec.mutable_initial_weights()->set_path("/w.safetensors");
  for (const bool begins_with_32 : {true, false}) {
    if (!begins_with_32) spec.mutable_widths()->erase(spec.mutable_widths()->begin());
    const auto resolved = ResolveJobSpec(spec);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    const auto stages = PlanStages(*resolved, testing::kDigestA, testing::kDigestB);
    EXPECT_THAT(Names(stages), ElementsAre("W8A32", "W8A8", "W4A8", "W4A4"));
    EXPECT_EQ(stages[0].parent(), "");
    EXPECT_EQ(stages[0].initial_weights().path(), "/w.safetensors");
    EXPECT_EQ(stages[0].initial_weights_digest(), testing::kDigestB);
    for (size_t i = 0; i < stages.size(); ++i) {
      EXPECT_EQ(stages[i].calibration(), trained[i + 1].calibration()) << "as after a full-precision stage";
      EXPECT_EQ(stages[i].schedule_offset(), trained[i + 1].schedule_offset());
      EXPECT_EQ(stages[i].carry_momentum(), trained[i + 1].carry_momentum());
      EXPECT_EQ(stages[i].has_initial_weights(), i == 0);
      EXPECT_EQ(stages[i].parent(), i == 0 ? "" : stages[i - 1].name());
    }
  }
  v1::JobSpec full = testing::OneStageSpec();
  *full.mutable_initial_weights() = spec.initial_weights();
  const auto stages = PlanStages(*ResolveJobSpec(full), testing::kDigestA, testing::kDigestB);
  EXPECT_THAT(Names(stages), ElementsAre("W32A32"));
  EXPECT_EQ(stages[0].initial_weights_digest(), testing::kDigestB);
  spec.set_pretrain_activation(v1::ACTIVATION_FUNCTION_CLIP);
  EXPECT_EQ(Plan(spec)[0].calibration(), v1::ACTIVATION_CALIBRATION_NONE) << "they clip already";
}

TEST(PlannerTest, GuidedMakesAPairOfEachQuantisedStage) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_guided()->set_lambda(30);
  const auto stages = Plan(spec);
  EXPECT_FALSE(stages[0].has_guided());
  for (size_t i = 1; i < stages.size(); ++i) {
    EXPECT_EQ(stages[i].guided().lambda(), 30);
    EXPECT_EQ(stages[i].guided().teacher(), v1::TEACHER_START_CARRY);
    EXPECT_EQ(stages[i].guided().teacher_learning_rate_factor(), 0.2);
    EXPECT_EQ(stages[i].parent(), stages[i - 1].name());
  }
}

TEST(PlannerTest, AListWithout32StartsFromScratch) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_widths()->erase(spec.widths().begin());
  spec.clear_pretrain();
  const auto stages = Plan(spec);
  EXPECT_THAT(Names(stages), ElementsAre("W8A32", "W8A8", "W4A8", "W4A4"));
  EXPECT_EQ(stages[0].parent(), "");
  EXPECT_EQ(stages[0].calibration(), v1::ACTIVATION_CALIBRATION_NONE);
  EXPECT_FALSE(stages[0].carry_momentum());
}

TEST(PlannerTest, OnlyFullPrecisionIsOneStage) {
  const auto stages = Plan(testing::OneStageSpec());
  ASSERT_THAT(Names(stages), ElementsAre("W32A32"));
  EXPECT_EQ(stages[0].schedule_epochs(), 2);
}

TEST(PlannerTest, EpochsAddUpAndTheLastWidthGetsAtLeastHalf) {
  for (const auto order : {v1::STAGE_ORDER_PER_WIDTH, v1::STAGE_ORDER_PER_STAGE}) {
    for (int epochs = 4; epochs <= 300; ++epochs) {
      v1::JobSpec spec = testing::SmallSpec();
      spec.set_order(order);
      spec.mutable_quantized()->set_epochs(epochs);
      const auto stages = Plan(spec);
      int sum = 0, last = 0;
      for (size_t i = 1; i < stages.size(); ++i) {
        EXPECT_GE(stages[i].epochs(), 1);
        sum += stages[i].epochs();
        if (stages[i].weight_bits() == 4) last += stages[i].epochs();
      }
      EXPECT_EQ(sum, epochs);
      EXPECT_GE(2 * last, epochs) << epochs;
      EXPECT_GE(stages[4].epochs(), stages[3].epochs());
    }
  }
}

TEST(PlannerTest, SharesOfEightAndOfAsFewAsPossible) {
  EXPECT_THAT(Epochs(Plan(testing::SmallSpec())), ElementsAre(3, 2, 2, 1, 3));
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_quantized()->set_epochs(4);
  EXPECT_THAT(Epochs(Plan(spec)), ElementsAre(3, 1, 1, 1, 1));
  // Long chain, few epochs: one each comes before the last width's half.
  spec.mutable_widths()->Clear();
  for (const int bits : {32, 16, 8, 4, 2}) spec.add_widths(bits);
  spec.mutable_quantized()->set_epochs(9);
  EXPECT_THAT(Epochs(Plan(spec)), ElementsAre(3, 1, 1, 1, 1, 1, 1, 1, 2));
}

TEST(PlannerTest, GivenEpochsOfEachStage) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_quantized()->clear_epochs();
  for (const int epochs : {1, 1, 2, 6}) spec.mutable_quantized()->add_stage_epochs(epochs);
  const auto stages = Plan(spec);
  EXPECT_THAT(Epochs(stages), ElementsAre(3, 1, 1, 2, 6));
  EXPECT_EQ(stages[4].schedule_offset(), 4);
  EXPECT_EQ(stages[4].schedule_epochs(), 10);
}

TEST(PlannerTest, GivenLearningRatesOfEachStage) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_schedule(v1::SCHEDULE_SCOPE_STAGE);
  for (const double rate : {0.01, 0.02, 0.03, 0.04}) spec.mutable_quantized()->add_stage_learning_rates(rate);
  const auto stages = Plan(spec);
  EXPECT_EQ(stages[0].learning_rate(), 0.1);
  for (size_t i = 1; i < stages.size(); ++i) EXPECT_EQ(stages[i].learning_rate(), 0.01 * static_cast<double>(i));
}

TEST(PlannerTest, BatchNormHasARateOfItsOwnInQuantisedStagesAlone) {
  v1::JobSpec spec = testing::SmallSpec();
  EXPECT_FALSE(Plan(spec)[1].has_batch_norm_learning_rate_factor());
  for (const double factor : {0.1, 0.0}) {
    spec.set_batch_norm_learning_rate_factor(factor);
    const auto stages = Plan(spec);
    EXPECT_FALSE(stages[0].has_batch_norm_learning_rate_factor());
    for (size_t i = 1; i < stages.size(); ++i) {
      EXPECT_TRUE(stages[i].has_batch_norm_learning_rate_factor());
      EXPECT_EQ(stages[i].batch_norm_learning_rate_factor(), factor);
    }
  }
}

TEST(PlannerTest, AChainIsOneScheduleAndCarriesMomentum) {
  const auto stages = Plan(testing::SmallSpec());
  int offset = 0;
  for (size_t i = 1; i < stages.size(); ++i) {
    EXPECT_EQ(stages[i].schedule_offset(), offset);
    EXPECT_EQ(stages[i].schedule_epochs(), 8);
    EXPECT_EQ(stages[i].carry_momentum(), i > 1) << "not from the full-precision stage";
    EXPECT_EQ(stages[i].learning_rate(), 0.02);
    offset += stages[i].epochs();
  }
  EXPECT_EQ(offset, 8);
  EXPECT_EQ(stages[0].schedule_offset(), 0);
  EXPECT_EQ(stages[0].schedule_epochs(), 3);
  EXPECT_EQ(stages[0].learning_rate(), 0.1);
}

TEST(PlannerTest, StageScopeRestartsAndScalesSteps) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_schedule(v1::SCHEDULE_SCOPE_STAGE);
  spec.mutable_quantized()->set_epochs(24);
  spec.mutable_quantized()->set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_STEP);
  for (const int epoch : {1, 12, 18}) spec.mutable_quantized()->add_step_epochs(epoch);
  const auto stages = Plan(spec);
  EXPECT_THAT(Epochs(stages), ElementsAre(3, 6, 6, 4, 8));
  EXPECT_THAT(stages[1].step_epochs(), ElementsAre(3, 4));  // 0.25 is dropped
  EXPECT_THAT(stages[4].step_epochs(), ElementsAre(4, 6));
  for (size_t i = 1; i < stages.size(); ++i) {
    EXPECT_EQ(stages[i].schedule_offset(), 0);
    EXPECT_EQ(stages[i].schedule_epochs(), stages[i].epochs());
    EXPECT_FALSE(stages[i].carry_momentum());
  }
}

TEST(PlannerTest, CalibrationComesOnceWhereReluBecomesAClip) {
  const auto calibrated = [](const v1::JobSpec& spec) {
    std::string names;
    for (const auto& stage : Plan(spec)) {
      if (stage.calibration() == v1::ACTIVATION_CALIBRATION_PERCENTILE) absl::StrAppend(&names, stage.name(), " ");
    }
    return names;
  };
  v1::JobSpec spec = testing::SmallSpec();
  EXPECT_EQ(calibrated(spec), "W8A32 ");
  spec.set_two_stage_activation(v1::ACTIVATION_FUNCTION_RELU);
  EXPECT_EQ(calibrated(spec), "W8A8 ");
  spec.set_pretrain_activation(v1::ACTIVATION_FUNCTION_CLIP);
  spec.set_two_stage_activation(v1::ACTIVATION_FUNCTION_CLIP);
  EXPECT_EQ(calibrated(spec), "");
  spec = testing::SmallSpec();
  spec.set_activation_calibration(v1::ACTIVATION_CALIBRATION_NONE);
  EXPECT_EQ(calibrated(spec), "");
}

TEST(PlannerTest, QuantisedActivationsAlwaysClip) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_two_stage_activation(v1::ACTIVATION_FUNCTION_RELU);
  for (const auto& stage : Plan(spec)) {
    EXPECT_EQ(stage.activation(), stage.activation_bits() == 32 ? v1::ACTIVATION_FUNCTION_RELU : v1::ACTIVATION_FUNCTION_CLIP) << stage.name();
    EXPECT_EQ(stage.data_digest(), testing::kDigestA);
  }
}

}  // namespace
}  // namespace bitstair::server
