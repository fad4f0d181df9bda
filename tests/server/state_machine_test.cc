// Attempts of one job; the rest is in state_machine_sharing_test.cc and state_machine_operations_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "server/state_machine.h"
#include "tests/server/state_machine_harness.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(StateMachineTest, ADigestPlansTheJob) {
  Harness h(testing::SmallSpec());
  h.Plan();
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_PENDING);
  ASSERT_EQ(h.count(), 5);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_BLOCKED);
  EXPECT_EQ(h.reason(1), "waits for W32A32");
  EXPECT_EQ(h.At(0).record.key().size(), 64u);
  EXPECT_EQ(h.last.stages_changed.size(), 5u);
  EXPECT_TRUE(h.last.jobs_changed.count("j") == 1);
  h.Do(DataResolved{"j", testing::kDigestB});
  EXPECT_FALSE(h.last.durable()) << "only the first digest counts";
}

TEST(StateMachineTest, StagesFollowEachOtherToTheEnd) {
  Harness h(testing::SmallSpec());
  h.Plan();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(h.stage_state(i), v1::STAGE_STATE_PENDING);
    h.Place(i, {"a", "a"});
    EXPECT_EQ(h.stage_state(i), v1::STAGE_STATE_STARTING);
    EXPECT_THAT(h.Sent(), ElementsAre("a<-assign"));
    const auto* assign = h.Assignment();
    ASSERT_NE(assign, nullptr);
    EXPECT_EQ(assign->ranks_size(), 2);
    EXPECT_EQ(assign->world_size(), 2);
    EXPECT_EQ(assign->attempt().generation(), 1);
    EXPECT_EQ(assign->has_parent_checkpoint(), i > 0);
    EXPECT_EQ(assign->parent_checkpoint().final(), i > 0);
    EXPECT_FALSE(assign->has_resume_from());
    h.Do(RankRan{h.name(i), 1, 0, 10});
    EXPECT_EQ(h.stage_state(i), v1::STAGE_STATE_STARTING);
    h.Do(RankRan{h.name(i), 1, 1, 11});
    EXPECT_EQ(h.stage_state(i), v1::STAGE_STATE_RUNNING);
    EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_RUNNING);
    h.Finish(i);
    EXPECT_EQ(h.stage_state(i), v1::STAGE_STATE_SUCCEEDED);
  }
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(h.job().record.has_end_time());
}

TEST(StateMachineTest, AStageIsNotDoneBeforeItsFinalCheckpoint) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  EXPECT_THAT(h.reason(0), HasSubstr("upload"));
  h.Checkpoint(0, 2, true);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(StateMachineTest, AFinalCheckpointThatNeverComesFailsTheAttempt) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  h.now += kUploadPatience + absl::Seconds(1);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.reason(0), HasSubstr("not uploaded"));
}

TEST(StateMachineTest, ACrashEndsTheGangAndTheNextTryGoesOnFromTheCheckpoint) {
  Harness h(testing::OneStageSpec(2, 4));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(EpochFinished{h.name(0), 1, [] {
                       v1::EpochResult r;
                       r.set_epoch(1);
                       return r;
                     }()});
  h.Checkpoint(0, 1, false);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-committed"));
  h.Do(EpochFinished{h.name(0), 1, [] {
                       v1::EpochResult r;
                       r.set_epoch(2);
                       return r;
                     }()});
  h.Exit(0, 1, v1::EXIT_CAUSE_CRASHED, "signal 9");
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.reason(0), HasSubstr("try 1 of 3 failed (rank 1 on b crashed: signal 9); goes on from epoch 1"));
  EXPECT_EQ(h.At(0).retry_after, h.now + absl::Seconds(1));
  EXPECT_THAT(h.last.actions, ::testing::Contains(::testing::VariantWith<CountFailure>(::testing::Field(&CountFailure::cause, v1::EXIT_CAUSE_CRASHED))));
  h.Place(0, {"a", "b"});
  EXPECT_EQ(h.generation(0), 2);
  EXPECT_EQ(h.At(0).record.resumed_epoch(), 1);
  EXPECT_EQ(h.At(0).epochs.size(), 1u) << "epoch 2 will be trained again";
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 1);
  EXPECT_TRUE(h.At(0).record.bit_exact());
}

TEST(StateMachineTest, ThePeersOfACrashAreNotItsReason) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Exit(0, 0, v1::EXIT_CAUSE_PEER_LOST, "connection reset");
  h.Exit(0, 1, v1::EXIT_CAUSE_CRASHED, "out of memory");
  EXPECT_THAT(h.reason(0), HasSubstr("rank 1 on b crashed: out of memory"));
}

TEST(StateMachineTest, TheLastTryFailsTheJob) {
  Harness h(testing::SmallSpec());
  h.Plan();
  for (int attempt = 1; attempt <= 3; ++attempt) {
    EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
    h.Start(0, {"a", "a"});
    h.Exit(0, 0, v1::EXIT_CAUSE_FAILED, "loss is not finite");
    h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  }
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_FAILED);
  EXPECT_EQ(h.stage_state(4), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(h.job().record.reason(), HasSubstr("stage W32A32 failed: rank 0 on a failed: loss is not finite"));
  EXPECT_EQ(h.At(0).record.attempts(), 3);
}

TEST(StateMachineTest, BadDataIsNotTriedAgain) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_BAD_DATA, "train-labels: byte 8: label 77");
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(h.job().record.reason(), HasSubstr("train-labels: byte 8"));
}

TEST(StateMachineTest, MessagesOfAnotherGenerationChangeNothing) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  h.Start(0, {"a"});
  ASSERT_EQ(h.generation(0), 2);
  v1::Checkpoint late;
  late.set_sha256("late");
  late.set_final(true);
  EXPECT_FALSE(h.Do(CheckpointStored{h.name(0), 1, late}).durable());
  EXPECT_FALSE(h.Do(RankEnded{h.name(0), 1, 0, v1::EXIT_CAUSE_FINISHED, ""}).durable());
  EXPECT_FALSE(h.Do(RankRan{h.name(0), 1, 0, 7}).durable());
  EXPECT_FALSE(h.Do(EpochFinished{h.name(0), 1,
                                  [] {
                                    v1::EpochResult r;
                                    r.set_epoch(1);
                                    return r;
                                  }()})
                   .durable());
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  EXPECT_FALSE(h.At(0).record.has_checkpoint());
}

TEST(StateMachineTest, CancelStopsTrainersAndEndsWithThem) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(CancelRequested{"j"});
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_EQ(h.stage_state(1), v1::STAGE_STATE_CANCELLED);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop", "b<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_CANCELLING);
  h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(h.Do(CancelRequested{"j"}).durable());
}

TEST(StateMachineTest, CancelBeforeAnythingRunsIsAtOnce) {
  Harness resolving(testing::SmallSpec());
  resolving.Do(CancelRequested{"j"});
  EXPECT_EQ(resolving.job().record.state(), v1::JOB_STATE_CANCELLED);
  Harness pending(testing::SmallSpec());
  pending.Plan();
  pending.Do(CancelRequested{"j"});
  EXPECT_EQ(pending.job().record.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(pending.stage_state(0), v1::STAGE_STATE_CANCELLED);
  pending.Place(0, {"a", "a"});
  EXPECT_EQ(pending.generation(0), 0) << "nothing starts in an ended job";
}

TEST(StateMachineTest, CancelWhileTheLastCheckpointIsOnItsWay) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  h.Do(CancelRequested{"j"});
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_CANCELLED);
}

TEST(StateMachineTest, TheRendezvousGoesToTheOtherWorkers) {
  Harness h(testing::OneStageSpec(4));
  h.Plan();
  h.Place(0, {"a", "a", "b", "c"});
  h.Do(RendezvousOpened{h.name(0), 1, "b", "1.2.3.4:5"});
  EXPECT_TRUE(h.Sent().empty()) << "only rank 0's worker opens it";
  h.Do(RendezvousOpened{h.name(0), 1, "a", "1.2.3.4:5"});
  EXPECT_THAT(h.Sent(), ElementsAre("b<-rendezvous", "c<-rendezvous"));
  h.Do(WorkerBack{"c", true, {{h.name(0), {1, {3}}}}, absl::Seconds(8)});
  EXPECT_THAT(h.Sent(), ElementsAre("c<-rendezvous")) << "it may have missed it";
}

TEST(StateMachineTest, ALeavingWorkersAttemptDoesNotCount) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false);
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.reason(0), "stopped; goes on from epoch 2");
  EXPECT_EQ(h.At(0).record.attempts(), 0);
  h.Start(0, {"b"});
  h.Do(RankEnded{h.name(0), 2, 0, v1::EXIT_CAUSE_CRASHED, "killed at shutdown", true});
  EXPECT_EQ(h.At(0).record.attempts(), 0) << "the coordinator is leaving";
}

TEST(StateMachineTest, ALostWorkerFailsTheAttempt) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(WorkerUnreachable{"b"});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING) << "its slots and attempt stay until the grace ends";
  h.Do(WorkerLost{"b", "no word for 38 s"});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.reason(0), HasSubstr("no word for 38 s"));
  EXPECT_EQ(h.At(0).record.attempts(), 1);
}

TEST(StateMachineTest, ABrokenGangDoesNotWaitForAnUnreachableWorkerButKeepsItsSlot) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(WorkerUnreachable{"b"});
  h.Exit(0, 0, v1::EXIT_CAUSE_PEER_LOST, "rank 1 is silent");
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  bool reserved = false;
  for (const auto& action : h.last.actions) {
    if (const auto* r = std::get_if<ReserveSlot>(&action)) reserved = r->worker_id == "b" && r->slot == 1 && r->attempt.generation() == 1;
  }
  EXPECT_TRUE(reserved);
}

TEST(StateMachineTest, RanksThatDoNotStopInTimeAreGivenUp) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  h.now += kKillPatience - absl::Seconds(1);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
  h.now += absl::Seconds(2);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
}

TEST(StateMachineTest, AReconnectedWorkerKeepsWhatItStillRuns) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Do(WorkerUnreachable{"a"});
  h.Do(WorkerBack{"a", true, {{h.name(0), {1, {0, 1}}}}, absl::Seconds(8)});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  h.now += absl::Seconds(100);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  // Rank 1 is not mentioned: its end may be reported within the patience.
  h.Do(WorkerBack{"a", true, {{h.name(0), {1, {0}}}}, absl::Seconds(8)});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  h.now += absl::Seconds(9);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_STOPPING);
}

TEST(StateMachineTest, ANewIncarnationHasLostItsTrainers) {
  Harness h(testing::OneStageSpec(1));
  h.Plan();
  h.Start(0, {"a"});
  h.Do(WorkerBack{"a", false, {}, absl::Seconds(8)});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.At(0).record.attempts(), 1);
}

TEST(StateMachineTest, AfterAReloadAttemptsAreAdoptedOrExcused) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Restart(absl::Seconds(38));
  Harness lost = h;
  ASSERT_TRUE(h.At(0).attempt.has_value());
  h.Do(WorkerBack{"a", true, {{h.name(0), {1, {0}}}}, absl::Seconds(8)});
  h.now += absl::Seconds(100);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_RUNNING);
  h.Finish(0);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED);

  lost.now += absl::Seconds(37);
  lost.Do(Ticked{});
  EXPECT_EQ(lost.stage_state(0), v1::STAGE_STATE_RUNNING) << "all leases hold for one grace after a start";
  lost.now += absl::Seconds(2);
  lost.Do(Ticked{});
  EXPECT_EQ(lost.stage_state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(lost.At(0).record.attempts(), 0) << "the coordinator was away; no fault of the stage";
}

TEST(StateMachineTest, AStageBeingStoppedIsStoppedAgainAfterAReload) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Do(CancelRequested{"j"});
  h.Restart(absl::Seconds(38));
  h.Do(WorkerBack{"a", true, {{h.name(0), {1, {0}}}}, absl::Seconds(8)});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_CANCELLED);
}

TEST(StateMachineTest, OnlyANewerCheckpointReplacesOne) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false, "two");
  h.Checkpoint(0, 1, false, "one");
  EXPECT_EQ(h.At(0).record.checkpoint().sha256(), "two");
  EXPECT_THAT(h.last.actions, ::testing::Contains(::testing::VariantWith<DropCheckpoint>(::testing::Field(&DropCheckpoint::sha256, "one"))));
  h.Checkpoint(0, 3, false, "three");
  EXPECT_EQ(h.At(0).record.checkpoint().sha256(), "three");
  EXPECT_EQ(h.At(0).record.checkpoint().generation(), 1);
  EXPECT_THAT(h.last.actions, ::testing::Contains(::testing::VariantWith<DropCheckpoint>(::testing::Field(&DropCheckpoint::sha256, "two"))));
  h.Checkpoint(0, 3, false, "three");
  EXPECT_THAT(h.Sent(), ElementsAre("a<-committed")) << "a repeat is answered again";
}

TEST(StateMachineTest, ACheckpointThatArrivesAfterItsAttemptWasGivenUpIsWorthHaving) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  ASSERT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  h.Checkpoint(0, 5, false);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-committed"));
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  h.Place(0, {"b"});
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 5);
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  h.Checkpoint(0, 9, true);
  EXPECT_EQ(h.job().record.state(), v1::JOB_STATE_SUCCEEDED) << "all the work was done";
}

TEST(StateMachineTest, RepeatsOfAnEpochChangeNothing) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  v1::EpochResult result;
  result.set_epoch(1);
  EXPECT_TRUE(h.Do(EpochFinished{h.name(0), 1, result}).durable());
  EXPECT_FALSE(h.Do(EpochFinished{h.name(0), 1, result}).durable());
  result.set_epoch(3);
  EXPECT_FALSE(h.Do(EpochFinished{h.name(0), 1, result}).durable()) << "a gap";
  result.set_epoch(10);
  EXPECT_FALSE(h.Do(EpochFinished{h.name(0), 1, result}).durable()) << "there is no such epoch";
}

TEST(StateMachineTest, AnotherNumericProfileIsNotBitExact) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false);
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  records::RankRecord rank;
  rank.set_worker_id("b");
  h.Do(Placed{h.name(0), {rank}, "token", "cpu avx2"});
  EXPECT_FALSE(h.At(0).record.bit_exact());
}

TEST(StateMachineTest, AnElasticStageGoesOnWithAnotherNumberOfRanks) {
  Harness h(testing::OneStageSpec(2, 9));
  h.Plan();
  h.At(0).record.mutable_spec()->set_reduction(v1::REDUCTION_FIXED_SHARDS);
  h.At(0).record.mutable_spec()->set_shards(2);
  h.At(0).record.mutable_spec()->set_min_ranks(1);
  h.Place(0, {"a"});
  EXPECT_EQ(h.Assignment()->world_size(), 1);
  EXPECT_THAT(h.job().events.back().message(), ::testing::EndsWith("on a, with 1 rank"));
  h.Do(RankRan{h.name(0), 1, 0, 100});
  h.Do(StopRequested{h.name(0), "grows from 1 to 2 ranks"});
  EXPECT_EQ(h.job().events.back().type(), "AttemptStopping");
  EXPECT_EQ(h.job().events.back().message(), "grows from 1 to 2 ranks");
  h.Checkpoint(0, 3, false);
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_PENDING);
  h.Place(0, {"a", "b"});
  EXPECT_EQ(h.Assignment()->world_size(), 2);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 3);
  EXPECT_THAT(h.job().events.back().message(), ::testing::HasSubstr(", with 2 ranks, from epoch 3"));
  EXPECT_EQ(h.At(0).record.attempts(), 1) << "no failure";
  EXPECT_TRUE(h.At(0).record.bit_exact());
}

TEST(StateMachineTest, RetriesWaitLonger) {
  EXPECT_EQ(RetryDelay(1), absl::Seconds(1));
  EXPECT_EQ(RetryDelay(2), absl::Seconds(2));
  EXPECT_EQ(RetryDelay(3), absl::Seconds(4));
  EXPECT_EQ(RetryDelay(50), absl::Seconds(30));
}

// Any order of any events: no crash, and the invariants of the header hold.
TEST(StateMachineTest, InvariantsHoldUnderRandomEvents) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<int>(random() % n); };
    Harness h(testing::SmallSpec());
    h.Add("k", testing::SmallSpec());  // the same stages
    std::vector<int> generations(5, 0);
    for (int step = 0; step < 200; ++step) {
      const int stage = pick(6) - (pick(20) == 0 ? 1 : 0), rank = pick(3);
      const bool exists = stage >= 0 && stage < h.count();
      const int generation = (exists ? h.generation(stage) : 0) - (pick(8) == 0 ? 1 : 0);
      const std::string worker = pick(2) == 0 ? "a" : "b";
      h.now += absl::Seconds(pick(3));
      const std::string id = pick(2) == 0 ? "j" : "k";
      switch (pick(16)) {
        case 0:
          h.Do(DataResolved{id, testing::kDigestA});
          break;
        case 12:
          h.Do(StopRequested{h.name(stage), "room"});
          break;
        case 13:
          pick(2) == 0 ? h.Do(PauseRequested{id}) : h.Do(ResumeRequested{id});
          break;
        case 14:
          h.Do(ResumeRequested{id});
          break;
        case 15:
          if (pick(5) == 0) h.Do(RetryRequested{id});
          if (pick(10) == 0) h.Restart(absl::Seconds(5));
          break;
        case 1:
        case 2:
          if (exists && !h.At(stage).attempt.has_value()) h.Place(stage, {"a", "b"});
          break;
        case 3:
          h.Do(RankRan{h.name(stage), generation, rank, 1});
          break;
        case 4:
          h.Do(RankEnded{h.name(stage), generation, rank, static_cast<v1::ExitCause>(pick(10)), "x", pick(9) == 0});
          break;
        case 5:
        case 6:
          h.Do(RankEnded{h.name(stage), generation, rank, v1::EXIT_CAUSE_FINISHED, ""});
          break;
        case 7:
        case 8: {
          v1::Checkpoint c;
          c.set_sha256(absl::StrCat(step));
          c.set_epoch(pick(4));
          c.set_final(pick(2) == 0);
          h.Do(CheckpointStored{h.name(stage), generation, c});
          break;
        }
        case 9:
          h.Do(WorkerBack{worker, pick(2) == 0,
                          exists ? std::map<std::string, std::pair<int, std::set<int>>>{{h.name(stage), {generation, {rank}}}}
                                 : std::map<std::string, std::pair<int, std::set<int>>>{},
                          absl::Seconds(2)});
          break;
        case 10:
          pick(2) == 0 ? h.Do(WorkerUnreachable{worker}) : h.Do(WorkerLost{worker, "gone", pick(2) == 0});
          break;
        default:
          pick(40) == 0 ? h.Do(CancelRequested{id}) : h.Do(Ticked{});
      }
      for (int i = 0; i < h.count(); ++i) {
        const auto state = h.stage_state(i);
        const bool active = state == v1::STAGE_STATE_STARTING || state == v1::STAGE_STATE_RUNNING || state == v1::STAGE_STATE_STOPPING;
        ASSERT_EQ(active, h.At(i).attempt.has_value()) << "seed " << seed << " step " << step << " stage " << i;
        ASSERT_GE(h.generation(i), generations[i]);
        generations[i] = h.generation(i);
        ASSERT_TRUE(state != v1::STAGE_STATE_SUCCEEDED || h.At(i).record.checkpoint().final());
        ASSERT_LE(h.At(i).record.attempts(), 3);
        // Nobody's trainers run but to be stopped, and no ended job is waited for.
        ASSERT_TRUE(!active || !h.At(i).jobs.empty() || state == v1::STAGE_STATE_STOPPING) << "seed " << seed << " step " << step;
        for (const auto& job : h.At(i).jobs) ASSERT_FALSE(IsEnded(h.job(job).record.state())) << "seed " << seed << " step " << step;
      }
    }
  }
}

// Found by random histories: the coordinator restarts after a rank has ended and before the gang has; the rank's first report comes once more.
TEST(StateMachineTest, ALateReportDoesNotBringALostRankBack) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Checkpoint(0, 3, true);
  h.Exit(0, 1, v1::EXIT_CAUSE_FINISHED);
  h.Restart(absl::Seconds(30));
  h.Do(WorkerBack{"a", true, {}, absl::Seconds(8)});
  h.Do(RankRan{h.name(0), h.generation(0), 1, 101});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  h.now += absl::Seconds(9);
  h.Do(Ticked{});
  EXPECT_EQ(h.stage_state(0), v1::STAGE_STATE_SUCCEEDED);
}

}  // namespace
}  // namespace bitstair::server
