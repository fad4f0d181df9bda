// Jobs whose stages branch, and what they require of them.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/state_machine.h"
#include "tests/server/state_machine_harness.h"

namespace bitstair::server {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

// full -> eight -> {four, two}: stages 0, 1, 2, 3 of the plan.
v1::JobSpec Branching(const std::string& four = "", const std::string& more = "") {
  v1::JobSpec spec;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(absl::StrCat(R"(
    name: "branching" network: "convnet28" data { name: "fashion_mnist" } ranks: 1
    stages { name: "full" weight_bits: 32 epochs: 1 } stages { name: "eight" parent: "full" weight_bits: 8 epochs: 1 }
    stages { name: "four" parent: "eight" weight_bits: 4 epochs: 1 )",
                                                                         four, R"( } stages { name: "two" parent: "four" weight_bits: 2 epochs: 1 }
    stages { name: "other" parent: "eight" weight_bits: 2 epochs: 1 })",
                                                                         more),
                                                            &spec));
  return spec;
}
enum { kFull, kEight, kFour, kTwo, kOther };  // in the plan's order

void Train(Harness& h, int stage, double top1) {
  h.Start(stage, {"a"});
  v1::EpochResult result;
  result.set_epoch(1);
  result.set_test_top1(top1);
  h.Do(EpochFinished{h.name(stage), h.generation(stage), result});
  h.Finish(stage);
}

TEST(StateMachineGraphTest, BranchesAreReadyTogether) {
  Harness h(Branching());
  h.Plan();
  ASSERT_EQ(h.name(kTwo), "jobs/j/stages/two");
  ASSERT_EQ(h.name(kOther), "jobs/j/stages/other");
  Train(h, kFull, 60);
  Train(h, kEight, 60);
  EXPECT_EQ(h.stage_state(kFour), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.stage_state(kOther), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.stage_state(kTwo), v1::STAGE_STATE_BLOCKED);
  Train(h, kOther, 50);
  Train(h, kFour, 50);
  Train(h, kTwo, 50);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineGraphTest, AFailedStageEndsWhatComesFromItAndNothingElse) {
  Harness h(Branching());
  h.Plan();
  Train(h, kFull, 60);
  Train(h, kEight, 60);
  h.Start(kOther, {"b"});
  h.Start(kFour, {"a"});
  h.Exit(kFour, 0, v1::EXIT_CAUSE_BAD_DATA, "image 3 cannot be read");
  EXPECT_EQ(h.seen("j", kFour), v1::STAGE_STATE_FAILED);
  EXPECT_EQ(h.seen("j", kTwo), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_RUNNING) << "another branch goes on";
  EXPECT_THAT(h.job().record.reason(), HasSubstr("stage four failed"));
  EXPECT_EQ(h.stage_state(kOther), v1::STAGE_STATE_RUNNING);
  h.Finish(kOther);
  EXPECT_EQ(h.seen("j", kOther), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(h.job().record.reason(), HasSubstr("image 3 cannot be read"));
}

TEST(StateMachineGraphTest, AfterARestartTheOtherBranchStillGoesOn) {
  Harness h(Branching());
  h.Plan();
  Train(h, kFull, 60);
  Train(h, kEight, 60);
  h.Start(kFour, {"a"});
  h.Start(kOther, {"b"});
  h.Exit(kFour, 0, v1::EXIT_CAUSE_BAD_DATA, "broken");
  h.Restart(absl::Seconds(30));
  EXPECT_THAT(h.At(kOther).jobs, Contains("j"));
  h.Do(WorkerBack{"b", true, {{h.name(kOther), {h.generation(kOther), {0}}}}, absl::Seconds(10)});
  EXPECT_EQ(h.stage_state(kOther), v1::STAGE_STATE_RUNNING);
  h.Finish(kOther);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
}

TEST(StateMachineGraphTest, AGateThatIsReachedLetsTheJobGoOn) {
  Harness h(Branching("require: 'top1_drop <= 1'"));
  h.Plan();
  Train(h, kFull, 61.7);
  Train(h, kEight, 61.5);
  Train(h, kFour, 60.7);
  EXPECT_EQ(h.job().record.job_stages(kFour).gate(), "top1_drop 1 <= 1: reached");
  EXPECT_EQ(h.seen("j", kFour), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.stage_state(kTwo), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.EventTypes("j"), Contains("GateReached"));
}

TEST(StateMachineGraphTest, AGateThatIsMissedStopsItsBranch) {
  Harness h(Branching("require: 'top1_drop <= 1'"));
  h.Plan();
  Train(h, kFull, 61.7);
  Train(h, kEight, 61.5);
  Train(h, kFour, 58.2);
  EXPECT_EQ(h.seen("j", kFour), v1::STAGE_STATE_FAILED);
  EXPECT_EQ(h.stage_state(kFour), v1::STAGE_STATE_SUCCEEDED) << "the training itself is done, and others may have it";
  EXPECT_EQ(h.seen("j", kTwo), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.stage_state(kTwo), v1::STAGE_STATE_CANCELLED);
  Train(h, kOther, 40);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(h.job().record.reason(), "stage four failed: requires top1_drop <= 1, but top1_drop is 3.5");
}

TEST(StateMachineGraphTest, AGateCanBeMissedAndTheJobGoesOn) {
  Harness h(Branching("require: 'top1 >= 60' on_gate_failure: GATE_ACTION_GO_ON"));
  h.Plan();
  Train(h, kFull, 61.7);
  Train(h, kEight, 61.5);
  Train(h, kFour, 58.2);
  EXPECT_EQ(h.job().record.job_stages(kFour).gate(), "top1 58.2 >= 60: missed");
  EXPECT_THAT(h.EventTypes("j"), Contains("GateMissed"));
  Train(h, kOther, 40);
  Train(h, kTwo, 40);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineGraphTest, AGateIsItsJobsOwn) {
  Harness h(Branching());
  h.Plan();
  for (const auto& [stage, top1] : std::vector<std::pair<int, double>>{{kFull, 60}, {kEight, 60}, {kFour, 50}, {kOther, 50}, {kTwo, 50}}) Train(h, stage, top1);
  h.Add("k", Branching("require: 'top1_drop <= 1'"));
  h.Plan("k");
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_FAILED) << "of the same training, which is taken over";
  EXPECT_EQ(h.job("k").record.job_stages(kFour).sharing(), v1::STAGE_SHARING_REUSED);
  EXPECT_EQ(h.seen("k", kOther), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineGraphTest, WithoutResultsAGateIsNotReached) {
  Harness h(Branching("require: 'top1_drop <= 1'"));
  h.Plan();
  for (const int stage : {kFull, kEight, kFour}) {
    h.Start(stage, {"a"});
    h.Finish(stage);
  }
  EXPECT_EQ(h.job().record.job_stages(kFour).gate(), "top1_drop unknown <= 1: missed");
  EXPECT_EQ(h.seen("j", kFour), v1::STAGE_STATE_FAILED);
}

TEST(StateMachineGraphTest, ARetryTrainsAgainWhatWasCollected) {
  Harness h(Branching());
  h.Plan();
  Train(h, kFull, 60);
  Train(h, kEight, 60);
  Train(h, kOther, 60);
  h.Start(kFour, {"a"});
  h.Exit(kFour, 0, v1::EXIT_CAUSE_BAD_DATA, "broken");
  ASSERT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
  const std::string lost = h.At(kEight).record.checkpoint().sha256();
  h.Do(RetryRequested{"j", [&](const std::string& sha256) { return sha256 != lost; }});
  EXPECT_EQ(h.seen("j", kFull), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.stage_state(kEight), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.stage_state(kFour), v1::STAGE_STATE_BLOCKED);
  EXPECT_EQ(h.seen("j", kOther), v1::STAGE_STATE_SUCCEEDED);
  Train(h, kEight, 60);
  Train(h, kFour, 60);
  Train(h, kTwo, 60);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineGraphTest, ASweepIsOneJob) {
  v1::JobSpec spec = testing::OneStageSpec();
  (*spec.mutable_sweep())["seed"].add_values()->set_number_value(1);
  (*spec.mutable_sweep())["seed"].add_values()->set_number_value(2);
  Harness h(spec);
  h.Plan();
  ASSERT_EQ(h.count(), 2);
  EXPECT_NE(h.At(0).record.key(), h.At(1).record.key());
  Train(h, 0, 50);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_RUNNING);
  Train(h, 1, 50);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineGraphTest, PinsAreRemembered) {
  Harness h(Branching());
  h.Plan();
  h.Do(PinChanged{"j", true});
  EXPECT_TRUE(h.job().record.pinned());
  EXPECT_THAT(h.last.jobs_changed, Contains("j"));
  h.Do(PinChanged{"j", true});
  EXPECT_FALSE(h.last.durable()) << "nothing changed";
  h.Do(PinChanged{"j", false});
  EXPECT_FALSE(h.job().record.pinned());
}

}  // namespace
}  // namespace bitstair::server
