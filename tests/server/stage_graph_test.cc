#include "server/stage_graph.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/job_spec.h"
#include "server/planner.h"
#include "server/stage_key.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::JobSpec Spec(const std::string& stages) {
  v1::JobSpec spec = testing::SmallSpec();
  for (auto* field : {"widths", "two_stage", "pretrain", "quantized"}) spec.GetReflection()->ClearField(&spec, spec.GetDescriptor()->FindFieldByName(field));
  v1::JobSpec parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(stages, &parsed));
  spec.MergeFrom(parsed);
  return spec;
}

// 32 -> 8 -> {4, 2}, not in order.
v1::JobSpec Branching() {
  return Spec(R"(
    stages { name: "four" parent: "eight" weight_bits: 4 epochs: 2 }
    stages { name: "full" weight_bits: 32 epochs: 3 }
    stages { name: "eight" parent: "full" weight_bits: 8 activation_bits: 32 epochs: 1 learning_rate: 0.05 }
    stages { name: "two" parent: "eight" weight_bits: 2 epochs: 2 learning_rate_schedule: LEARNING_RATE_SCHEDULE_STEP step_epochs: 1 }
  )");
}

std::vector<FieldViolation> Faults(const v1::JobSpec& spec) {
  const auto resolved = ResolveJobSpec(spec);
  return resolved.ok() ? std::vector<FieldViolation>() : GetFieldViolations(resolved.status());
}

TEST(StageGraphTest, DefaultsAreWrittenOutAndStay) {
  const auto once = ResolveJobSpec(Branching());
  ASSERT_TRUE(once.ok()) << once.status();
  EXPECT_EQ(once->stages(0).activation_bits(), 4);
  EXPECT_EQ(once->stages(0).learning_rate(), 0.02);
  EXPECT_EQ(once->stages(1).learning_rate(), 0.1);
  EXPECT_EQ(once->stages(3).step_gamma(), 0.1);
  EXPECT_EQ(once->stages(0).on_gate_failure(), v1::GATE_ACTION_STOP);
  EXPECT_EQ(once->schedule(), v1::SCHEDULE_SCOPE_STAGE);
  const auto twice = ResolveJobSpec(*once);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(twice->SerializeAsString(), once->SerializeAsString());
}

TEST(StageGraphTest, EachStageComesAfterItsParent) {
  const auto resolved = ResolveJobSpec(Branching());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const auto stages = PlanStages(*resolved, testing::kDigestA);
  std::vector<std::string> edges;
  for (const auto& stage : stages) edges.push_back(absl::StrCat(stage.parent(), ">", stage.name()));
  EXPECT_THAT(edges, ElementsAre(">full", "full>eight", "eight>two", "eight>four"));
  EXPECT_EQ(stages[1].activation(), v1::ACTIVATION_FUNCTION_CLIP);
  EXPECT_EQ(stages[1].calibration(), v1::ACTIVATION_CALIBRATION_PERCENTILE) << "it follows a stage with ReLU";
  EXPECT_EQ(stages[2].calibration(), v1::ACTIVATION_CALIBRATION_NONE);
  EXPECT_EQ(stages[1].learning_rate(), 0.05);
  EXPECT_EQ(stages[1].schedule_epochs(), 1);
  EXPECT_FALSE(stages[2].carry_momentum());
  EXPECT_THAT(stages[2].step_epochs(), ElementsAre(1));
}

TEST(StageGraphTest, TheSameTrainingHasTheSameKeyAsInAStaircase) {
  v1::JobSpec staircase = testing::SmallSpec();
  staircase.set_two_stage(false);
  staircase.set_schedule(v1::SCHEDULE_SCOPE_STAGE);
  const auto chain = PlanStages(*ResolveJobSpec(staircase), testing::kDigestA);
  const v1::JobSpec graph =
      Spec(absl::StrCat("stages { weight_bits: 32 epochs: 3 } stages { parent: 'W32A32' weight_bits: 8 epochs: ", chain[1].epochs(), " }"));
  const auto stages = PlanStages(*ResolveJobSpec(graph), testing::kDigestA);
  EXPECT_EQ(stages[1].name(), "W8A8");
  const std::string parent = StageKey(chain[0], "");
  EXPECT_EQ(StageKey(stages[0], ""), parent);
  EXPECT_EQ(StageKey(stages[1], parent), StageKey(chain[1], parent));
}

TEST(StageGraphTest, GuidedPairsStartFromTheFullPrecisionStage) {
  v1::JobSpec spec = Branching();
  spec.mutable_guided();
  const auto resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  for (const auto& stage : PlanStages(*resolved, testing::kDigestA)) EXPECT_EQ(stage.has_guided(), stage.name() != "full");
  spec = Spec("stages { weight_bits: 4 epochs: 1 } guided {}");
  const auto faults = Faults(spec);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].field, "stages[0].parent");
  EXPECT_THAT(faults[0].description, HasSubstr("needs a full-precision stage"));
}

TEST(StageGraphTest, WhatIsRequiredIsTheJobsUnlessAStageSaysOtherwise) {
  v1::JobSpec spec = Branching();
  spec.set_require("top1_drop <= 2");
  spec.mutable_stages(3)->set_require("top1 >= 50");
  spec.mutable_stages(3)->set_on_gate_failure(v1::GATE_ACTION_GO_ON);
  spec.mutable_stages(2)->set_require("none");
  const auto resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  std::vector<std::string> gates;
  for (const auto& planned : PlanJob(*resolved, testing::kDigestA)) gates.push_back(absl::StrCat(planned.spec.name(), ":", planned.require));
  EXPECT_THAT(gates, ElementsAre("full:", "eight:", "two:top1 >= 50", "four:top1_drop <= 2"));
  EXPECT_EQ(ResolveJobSpec(*resolved)->SerializeAsString(), resolved->SerializeAsString()) << "'none' stays";
}

TEST(StageGraphTest, EveryFaultNamesItsPlace) {
  struct Case {
    const char* stages;
    const char* field;
    const char* message;
  };
  const Case cases[] = {
      {"stages { name: 'a' parent: 'b' weight_bits: 4 epochs: 1 } stages { name: 'b' parent: 'c' weight_bits: 4 epochs: 1 }"
       "stages { name: 'c' parent: 'a' weight_bits: 4 epochs: 1 } stages { name: 'd' parent: 'a' weight_bits: 4 epochs: 1 }",
       "stages[0].parent", "makes a cycle: a -> c -> b -> a"},
      {"stages { name: 'a' parent: 'a' weight_bits: 4 epochs: 1 }", "stages[0].parent", "makes a cycle: a -> a"},
      {"stages { weight_bits: 32 epochs: 1 } stages { parent: 'W8A8' weight_bits: 4 epochs: 1 }", "stages[1].parent", "\"W8A8\" is no stage of this recipe"},
      {"stages { weight_bits: 4 epochs: 1 } stages { parent: 'W4A4' weight_bits: 8 epochs: 1 }", "stages[1].parent", "is W4A4 with 4/4 bits; W8A8 with 8/8"},
      {"stages { weight_bits: 4 epochs: 1 } stages { weight_bits: 4 epochs: 2 }", "stages[1].name", "\"W4A4\" is the name of stages[0], too"},
      {"stages { weight_bits: 9 epochs: 1 activation_bits: 8 }", "stages[0].weight_bits", "is 9; must be 1 to 8, 16 or 32"},
      {"stages { epochs: 1 }", "stages[0].weight_bits", "is required"},
      {"stages { weight_bits: 4 }", "stages[0].epochs", "is required"},
      {"stages { weight_bits: 4 epochs: 0 }", "stages[0].epochs", "is 0"},
      {"stages { weight_bits: 4 epochs: 2 step_epochs: 1 }", "stages[0].step_epochs", "needs learning_rate_schedule: step"},
      {"stages { name: 'a/b' weight_bits: 4 epochs: 1 }", "stages[0].name", "must be 1 to 40 characters"},
      {"stages { weight_bits: 4 epochs: 1 require: 'top3 >= 1' }", "stages[0].require", "\"top3\" is no metric"},
      {"stages { weight_bits: 4 epochs: 1 require: 'top1_drop <= 1' }", "stages[0].require", "needs a full-precision stage that W4A4 comes from"},
      {"stages { weight_bits: 4 epochs: 1 } widths: 4", "widths", "exclude each other"},
      {"stages { weight_bits: 4 epochs: 1 } quantized { epochs: 1 }", "quantized", "exclude each other"},
      {"stages { weight_bits: 4 epochs: 1 } schedule: SCHEDULE_SCOPE_CHAIN", "schedule", "is chain"},
  };
  for (const Case& c : cases) {
    const auto faults = Faults(Spec(c.stages));
    ASSERT_EQ(faults.size(), 1u) << c.stages << ": " << ResolveJobSpec(Spec(c.stages)).status();
    EXPECT_EQ(faults[0].field, c.field) << c.stages;
    EXPECT_THAT(faults[0].description, HasSubstr(c.message));
  }
}

TEST(StageGraphTest, TooManyStagesAreRefused) {
  v1::JobSpec spec = Spec("");
  for (int i = 0; i <= kMaxStages; ++i) {
    auto* stage = spec.add_stages();
    stage->set_name(absl::StrCat("s", i));
    stage->set_weight_bits(4);
    stage->set_epochs(1);
  }
  const auto faults = Faults(spec);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].description, "has 513 entries; at most 512");
}

}  // namespace
}  // namespace bitstair::server
