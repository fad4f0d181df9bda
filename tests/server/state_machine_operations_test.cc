#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/state_machine.h"
#include "tests/server/state_machine_harness.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;

// Pausing, retrying, stopping at a checkpoint.

TEST(StateMachineTest, APausedJobStopsAtACheckpointAndGoesOnFromThere) {
  Harness h(testing::OneStageSpec(2, 9));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(PauseRequested{"j"});
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_PAUSED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-checkpoint and stop", "b<-checkpoint and stop"));
  h.Checkpoint(0, 4, false);
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.At(0).record.attempts(), 0) << "no fault of the stage";
  h.Place(0, {"a", "b"});
  EXPECT_EQ(h.generation(0), 1) << "nothing starts in a paused job";
  EXPECT_FALSE(h.Do(PauseRequested{"j"}).durable());
  h.Do(ResumeRequested{"j"});
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_RUNNING);
  h.Place(0, {"a", "b"});
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 4);
  EXPECT_FALSE(h.Do(ResumeRequested{"j"}).durable());
}

TEST(StateMachineTest, PausingOneJobDoesNotStopWhatAnotherNeeds) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Add("k", testing::SmallSpec());
  h.Plan("k");
  h.Do(PauseRequested{"j"});
  EXPECT_TRUE(h.Sent().empty());
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  h.Finish(0);
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.job("j").record.state(), v1::JOB_STATE_PAUSED);
  h.Do(PauseRequested{"k"});
  EXPECT_FALSE(IsWanted(h.state, h.At(1)));
  h.Do(ResumeRequested{"j"});
  EXPECT_TRUE(IsWanted(h.state, h.At(1)));
}

TEST(StateMachineTest, WhoDoesNotReachACheckpointInTimeIsStoppedAnyway) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Do(StopRequested{h.name(0), "worker a is being drained"});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-checkpoint and stop"));
  EXPECT_TRUE(h.Do(StopRequested{h.name(0), "again"}).actions.empty());
  h.now += kCheckpointPatience + absl::Seconds(1);
  h.Do(Ticked{});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.now += kKillPatience + absl::Seconds(1);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
}

TEST(StateMachineTest, ACrashWhileStoppingAtACheckpointStopsTheOthersAtOnce) {
  Harness h(testing::OneStageSpec(2, 9));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(StopRequested{h.name(0), "room for another stage"});
  h.Exit(0, 1, v1::EXIT_CAUSE_CRASHED, "signal 9");
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.At(0).record.attempts(), 1);
}

TEST(StateMachineTest, CancellingAJobThatIsBeingPausedDoesNotWaitForTheCheckpoint) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Do(PauseRequested{"j"});
  h.Do(CancelRequested{"j"});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_CANCELLED);
}

TEST(StateMachineTest, AFailedJobThatIsRetriedGoesOnWhereItWas) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_max_attempts(1);
  Harness h(spec);
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Finish(0);
  h.Start(1, {"a", "a"});
  h.Checkpoint(1, 1, false, "kept");
  h.Exit(1, 0, v1::EXIT_CAUSE_FAILED, "loss is not finite");
  h.Exit(1, 1, v1::EXIT_CAUSE_STOPPED);
  ASSERT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(h.state.active_jobs.count("j"), 0u);
  h.Do(RetryRequested{"j"});
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_RUNNING);
  EXPECT_FALSE(h.job().record.has_end_time());
  EXPECT_EQ(h.state.active_jobs.count("j"), 1u);
  EXPECT_EQ(h.seen("j", 0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.stage_state(2), v1::STAGE_STATE_BLOCKED);
  h.Place(1, {"a", "a"});
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().sha256(), "kept");
  EXPECT_FALSE(h.Do(RetryRequested{"j"}).durable());
}

TEST(StateMachineTest, APausedJobIsStoppedAgainAfterAReload) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  // Only the job's record reached the store.
  h.state.jobs.at("j").record.set_state(v1::JOB_STATE_PAUSED);
  h.Restart(absl::Seconds(38));
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  h.Do(WorkerBack{"a", true, {{h.name(0), {1, {0}}}}, absl::Seconds(8)});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-checkpoint and stop"));
}

}  // namespace
}  // namespace bitstair::server
