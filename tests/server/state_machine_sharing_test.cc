// Several jobs that need the same stages.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/state_machine.h"
#include "tests/server/state_machine_harness.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(StateMachineTest, ASecondJobJoinsWhatTheFirstOneTrains) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  EXPECT_EQ(h.state.stages.size(), 5u) << "nothing is planned twice";
  EXPECT_EQ(h.job("k").record.job_stages(0).stage(), "jobs/j/stages/W32A32");
  EXPECT_EQ(h.job("k").record.job_stages(0).sharing(), v1::STAGE_SHARING_JOINED);
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_RUNNING) << "its first stage runs";
  for (int i = 0; i < 5; ++i) {
    if (i > 0) h.Start(i, {"a", "a"});
    h.Finish(i);
    EXPECT_EQ(h.seen("j", i), v1::STAGE_STATE_SUCCEEDED);
    EXPECT_EQ(h.seen("k", i), v1::STAGE_STATE_SUCCEEDED);
  }
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(h.EventTypes("k"), ::testing::IsSupersetOf({"StageShared", "JobStarted", "StageSucceeded", "JobSucceeded"}));
}

TEST(StateMachineTest, WhatIsDoneIsTakenOver) {
  Harness h(testing::SmallSpec());
  h.Plan();
  for (int i = 0; i < 5; ++i) {
    h.Start(i, {"a", "a"});
    h.Finish(i);
  }
  v1::JobSpec longer = testing::SmallSpec();
  longer.set_name("other-name");
  longer.add_widths(2);  // the epochs of the quantised stages are shared out anew, so only the full-precision stage is the same
  h.Add("k", longer);
  h.Plan("k");
  EXPECT_EQ(h.job("k").record.job_stages(0).sharing(), v1::STAGE_SHARING_REUSED);
  EXPECT_EQ(h.seen("k", 0), v1::STAGE_STATE_SUCCEEDED);
  const std::string next = h.job("k").record.job_stages(1).stage();
  EXPECT_EQ(next, "jobs/k/stages/W8A32");
  EXPECT_EQ(h.state.stages.at(next).record.state(), v1::STAGE_STATE_PENDING) << "its parent is done";
  h.Do(Placed{next, {}, "token", "cpu"});
  h.Add("same", testing::SmallSpec());
  h.Plan("same");
  EXPECT_EQ(h.job("same").record.state(), v1::JOB_STATE_SUCCEEDED) << "there is nothing to train";
}

TEST(StateMachineTest, AParentOfAnotherJobGivesItsCheckpoint) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Checkpoint(0, 3, true, "the-parent");
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  h.Exit(0, 1, v1::EXIT_CAUSE_FINISHED);
  v1::JobSpec longer = testing::SmallSpec();
  longer.add_widths(2);
  h.Add("k", longer);
  h.Plan("k");
  records::RankRecord rank;
  rank.set_worker_id("b");
  h.Do(Placed{"jobs/k/stages/W8A32", {rank}, "token", "cpu"});
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->parent_checkpoint().sha256(), "the-parent");
}

TEST(StateMachineTest, CancellingOneJobDoesNotStopWhatAnotherNeeds) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  h.Do(CancelRequested{"j"});
  EXPECT_TRUE(h.Sent().empty());
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_CANCELLED) << "there is nothing for it to wait for";
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  for (int i = 0; i < 5; ++i) {
    if (i > 0) h.Start(i, {"a", "a"});
    h.Finish(i);
  }
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_CANCELLED) << "an ended job stays as it was";
}

TEST(StateMachineTest, TheLastJobThatLeavesStopsTheTrainers) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  h.Do(CancelRequested{"j"});
  h.Do(CancelRequested{"k"});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop", "b<-stop"));
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_CANCELLING);
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_CANCELLED);
}

TEST(StateMachineTest, AJobThatComesWhileTheTrainersStopGoesOnFromTheCheckpoint) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false);
  h.Do(CancelRequested{"j"});
  ASSERT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  h.Add("k", testing::OneStageSpec(1, 4));
  h.Plan("k");
  EXPECT_EQ(h.job("k").record.job_stages(0).stage(), h.name(0));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  h.Place(0, {"b"});
  EXPECT_EQ(h.generation(0), 2);
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 2);
}

TEST(StateMachineTest, AGivenUpStageGoesOnForALaterJob) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 3, false);
  h.Do(CancelRequested{"j"});
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  ASSERT_EQ(h.stage_state(0), v1::STAGE_STATE_CANCELLED);
  h.Add("k", testing::OneStageSpec(1, 4));
  h.Plan("k");
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.At(0).record.attempts(), 0);
  h.Start(0, {"a"});
  EXPECT_EQ(h.generation(0), 2) << "generations never repeat";
  h.Finish(0);
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_CANCELLED);
}

TEST(StateMachineTest, TheRetryBudgetIsTheStagesAndItsFailureEveryonesOwn) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  for (int attempt = 1; attempt <= 3; ++attempt) {
    h.Start(0, {"a", "a"});
    h.Exit(0, 0, v1::EXIT_CAUSE_FAILED, "loss is not finite");
    h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  }
  for (const char* id : {"j", "k"}) {
    EXPECT_EQ(h.job(id).record.state(), v1::JOB_STATE_FAILED);
    EXPECT_THAT(h.job(id).record.reason(), HasSubstr("stage W32A32 failed: rank 0 on a failed: loss is not finite"));
    EXPECT_EQ(h.seen(id, 0), v1::STAGE_STATE_FAILED);
    EXPECT_EQ(h.seen(id, 4), v1::STAGE_STATE_CANCELLED);
  }
  h.Add("again", testing::SmallSpec());
  h.Plan("again");
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING) << "a new job may try anew";
}

TEST(StateMachineTest, AJobThatDoesNotShareTrainsForItself) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  v1::JobSpec alone = testing::OneStageSpec();
  alone.set_share(false);
  h.Add("k", alone);
  h.Plan("k");
  EXPECT_EQ(h.job("k").record.job_stages(0).stage(), "jobs/k/stages/W32A32");
  EXPECT_EQ(h.job("k").record.job_stages(0).sharing(), v1::STAGE_SHARING_NONE);
  EXPECT_NE(h.state.stages.at("jobs/k/stages/W32A32").record.key(), h.At(0).record.key());
  h.Add("third", testing::OneStageSpec());
  h.Plan("third");
  EXPECT_EQ(h.job("third").record.job_stages(0).stage(), h.name(0)) << "nobody joins the one that does not share";
}

TEST(StateMachineTest, SharedStagesFindTheirJobsAfterARestart) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  h.Do(CancelRequested{"j"});
  h.Restart(absl::Seconds(38));
  EXPECT_THAT(h.At(0).jobs, ElementsAre("k"));
  h.Do(WorkerBack{"a", true, {{h.name(0), {1, {0, 1}}}}, absl::Seconds(8)});
  h.Finish(0);
  EXPECT_EQ(h.seen("k", 0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_PENDING);
}

TEST(StateMachineTest, AReloadMakesUpForWhatACrashCutOff) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  // Only the stage's record reached the store.
  h.At(0).record.set_state(v1::STAGE_STATE_SUCCEEDED);
  h.At(0).record.mutable_checkpoint()->set_final(true);
  h.Restart(absl::Seconds(38));
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.seen("k", 0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_PENDING);
  EXPECT_TRUE(h.last.durable());
  h.At(1).record.set_state(v1::STAGE_STATE_CANCELLED);
  h.Restart(absl::Seconds(38));
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_PENDING);
}

TEST(StateMachineTest, AStageWhoseCheckpointIsGoneIsTrainedAgainWhereItIsNeeded) {
  Harness h(testing::SmallSpec());
  h.Plan();
  for (int i = 0; i < 5; ++i) {
    h.Start(i, {"a", "a"});
    h.Finish(i);
  }
  const std::string first = h.At(0).record.checkpoint().sha256(), last = h.At(4).record.checkpoint().sha256();
  h.Add("k", testing::SmallSpec());
  h.Do(DataResolved{"k", testing::kDigestA, "", [&](const std::string& sha256) { return sha256 != first; }});
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_SUCCEEDED) << "nothing starts from it any more";
  h.Add("l", testing::SmallSpec());
  h.Do(DataResolved{"l", testing::kDigestA, "", [&](const std::string& sha256) { return sha256 != last; }});
  EXPECT_EQ(h.stage_state(4), v1::STAGE_STATE_PENDING);
  EXPECT_FALSE(h.At(4).record.has_checkpoint());
  EXPECT_EQ(h.stage_state(3), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.seen("j", 4), v1::STAGE_STATE_SUCCEEDED) << "an ended job stays as it was";
  h.Start(4, {"a", "a"});
  EXPECT_EQ(h.generation(4), 2);
  ASSERT_TRUE(h.At(4).epochs.empty());
  h.Finish(4);
  EXPECT_EQ(h.job("l").record.state(), v1::JOB_STATE_SUCCEEDED);
  v1::JobSpec longer = testing::SmallSpec();
  longer.add_widths(2);
  h.Add("m", longer);
  h.Do(DataResolved{"m", testing::kDigestA, "", [&](const std::string& sha256) { return sha256 != first; }});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING) << "another stage starts from it";
  EXPECT_EQ(h.state.stages.at("jobs/m/stages/W8A32").record.state(), v1::STAGE_STATE_BLOCKED);
}

TEST(StateMachineTest, AnotherJobThatWasAboutToStartFromALostCheckpointWaitsForItAgain) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Finish(0);
  ASSERT_EQ(h.stage_state(1), v1::STAGE_STATE_PENDING);
  const std::string lost = h.At(0).record.checkpoint().sha256();
  h.Add("k", testing::SmallSpec());
  h.Do(DataResolved{"k", testing::kDigestA, "", [&](const std::string& sha256) { return sha256 != lost; }});
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_BLOCKED);
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_UNSPECIFIED);
  EXPECT_THAT(h.At(0).jobs, ElementsAre("j", "k"));
  for (int i = 0; i < 5; ++i) {
    h.Start(i, {"a", "a"});
    h.Finish(i);
  }
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h.job("k").record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineTest, AnotherNameOfTheDataStaysWithTheJobThatIsLeft) {
  v1::JobSpec by_path = testing::OneStageSpec();
  by_path.mutable_data()->clear_name();
  by_path.mutable_data()->set_path("/data/here");
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Add("k", by_path);
  h.Plan("k");
  EXPECT_EQ(h.job("k").record.job_stages(0).stage(), h.name(0)) << "the digest is the same";
  EXPECT_EQ(h.At(0).record.spec().data().path(), "");
  const std::string key = h.At(0).record.key();
  h.Do(CancelRequested{"j"});
  EXPECT_EQ(h.At(0).record.spec().data().path(), "/data/here");
  EXPECT_EQ(h.At(0).record.key(), key);
  EXPECT_EQ(StageName(h.At(0)), h.name(0));
}

TEST(StateMachineTest, RecordsOfVersion01AreUnderstood) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Finish(0);
  auto& record = h.state.jobs.at("j").record;
  for (const auto& link : record.job_stages()) record.add_stages(link.name());
  record.clear_job_stages();
  for (auto& [name, stage] : h.state.stages) stage.record.clear_parent_stage();
  h.Restart(absl::Seconds(38));
  EXPECT_EQ(h.count(), 5);
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.At(2).record.parent_stage(), h.name(1));
  record.mutable_job_stages(3)->set_stage("jobs/j/stages/gone");
  const auto outcome = Reload(&h.state, h.now, absl::Seconds(1));
  EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("lacks stage jobs/j/stages/gone of job j"));
}

}  // namespace
}  // namespace bitstair::server
