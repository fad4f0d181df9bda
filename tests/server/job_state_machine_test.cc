#include "server/job_state_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "server/job_spec.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A job on which events are tried, and what came of the last one.
class Harness {
 public:
  explicit Harness(v1::JobSpec spec) {
    job.record.set_job_id("j");
    *job.record.mutable_spec() = *ResolveJobSpec(std::move(spec));
    job.record.set_state(v1::JOB_STATE_RESOLVING);
  }

  const Outcome& Do(const JobEvent& event) { return last = Apply(&job, event, now); }

  void Plan() { Do(DataResolved{testing::kDigestA}); }

  // `workers[i]` gets rank i.
  void Place(int stage, std::vector<std::string> workers) {
    Placed placed{stage, {}, "token", "cpu"};
    for (size_t i = 0; i < workers.size(); ++i) {
      records::RankRecord rank;
      rank.set_rank(static_cast<int>(i));
      rank.set_worker_id(workers[i]);
      rank.set_slot(static_cast<int>(i));
      placed.ranks.push_back(rank);
    }
    Do(placed);
  }
  void Start(int stage, std::vector<std::string> workers) {
    Place(stage, workers);
    for (size_t i = 0; i < workers.size(); ++i) Do(RankRan{stage, generation(stage), static_cast<int>(i), static_cast<int64_t>(100 + i)});
  }
  void Exit(int stage, int rank, v1::ExitCause cause, const std::string& message = "") { Do(RankEnded{stage, generation(stage), rank, cause, message}); }
  void Checkpoint(int stage, int epoch, bool final, const std::string& sha = "") {
    v1::Checkpoint checkpoint;
    checkpoint.set_sha256(sha.empty() ? absl::StrCat("sha", stage, "-", epoch, final ? "f" : "") : sha);
    checkpoint.set_epoch(epoch);
    checkpoint.set_final(final);
    Do(CheckpointStored{stage, generation(stage), checkpoint});
  }
  void Finish(int stage) {
    Checkpoint(stage, job.stages[stage].record.spec().epochs(), true);
    for (int rank = 0; rank < job.stages[stage].record.ranks_size(); ++rank) Exit(stage, rank, v1::EXIT_CAUSE_FINISHED);
  }

  int generation(int stage) const { return job.stages[stage].record.generation(); }
  v1::StageState state(int stage) const { return job.stages[stage].record.state(); }
  std::string reason(int stage) const { return job.stages[stage].record.reason(); }

  // "a<-assign", "b<-stop", ... of the last event.
  std::vector<std::string> Sent() const {
    std::vector<std::string> sent;
    for (const auto& action : last.actions) {
      if (const auto* send = std::get_if<SendToWorker>(&action)) {
        const auto& m = send->message;
        sent.push_back(absl::StrCat(send->worker_id, m.has_assign()       ? "<-assign"
                                                     : m.has_stop()       ? "<-stop"
                                                     : m.has_rendezvous() ? "<-rendezvous"
                                                                          : "<-committed"));
      }
    }
    return sent;
  }
  const v1::AssignAttempt* Assignment() const {
    for (const auto& action : last.actions) {
      const auto* send = std::get_if<SendToWorker>(&action);
      if (send != nullptr && send->message.has_assign()) return &send->message.assign();
    }
    return nullptr;
  }

  Job job;
  Outcome last;
  absl::Time now = absl::FromUnixSeconds(1000);
};

TEST(JobStateMachineTest, ADigestPlansTheJob) {
  Harness h(testing::SmallSpec());
  h.Plan();
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_PENDING);
  ASSERT_EQ(h.job.stages.size(), 5u);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.state(1), v1::STAGE_STATE_BLOCKED);
  EXPECT_EQ(h.reason(1), "waits for W32A32");
  EXPECT_EQ(h.job.stages[0].record.key().size(), 64u);
  EXPECT_EQ(h.last.stages_changed.size(), 5u);
  EXPECT_TRUE(h.last.job_changed);
  h.Do(DataResolved{testing::kDigestB});
  EXPECT_FALSE(h.last.durable()) << "only the first digest counts";
}

TEST(JobStateMachineTest, StagesFollowEachOtherToTheEnd) {
  Harness h(testing::SmallSpec());
  h.Plan();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(h.state(i), v1::STAGE_STATE_PENDING);
    h.Place(i, {"a", "a"});
    EXPECT_EQ(h.state(i), v1::STAGE_STATE_STARTING);
    EXPECT_THAT(h.Sent(), ElementsAre("a<-assign"));
    const auto* assign = h.Assignment();
    ASSERT_NE(assign, nullptr);
    EXPECT_EQ(assign->ranks_size(), 2);
    EXPECT_EQ(assign->world_size(), 2);
    EXPECT_EQ(assign->attempt().generation(), 1);
    EXPECT_EQ(assign->has_parent_checkpoint(), i > 0);
    EXPECT_EQ(assign->parent_checkpoint().final(), i > 0);
    EXPECT_FALSE(assign->has_resume_from());
    h.Do(RankRan{i, 1, 0, 10});
    EXPECT_EQ(h.state(i), v1::STAGE_STATE_STARTING);
    h.Do(RankRan{i, 1, 1, 11});
    EXPECT_EQ(h.state(i), v1::STAGE_STATE_RUNNING);
    EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_RUNNING);
    h.Finish(i);
    EXPECT_EQ(h.state(i), v1::STAGE_STATE_SUCCEEDED);
  }
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(h.job.record.has_end_time());
}

TEST(JobStateMachineTest, AStageIsNotDoneBeforeItsFinalCheckpoint) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING);
  EXPECT_THAT(h.reason(0), HasSubstr("upload"));
  h.Checkpoint(0, 2, true);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(JobStateMachineTest, AFinalCheckpointThatNeverComesFailsTheAttempt) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  h.now += kUploadPatience + absl::Seconds(1);
  h.Do(Ticked{});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.reason(0), HasSubstr("not uploaded"));
}

TEST(JobStateMachineTest, ACrashEndsTheGangAndTheNextTryGoesOnFromTheCheckpoint) {
  Harness h(testing::OneStageSpec(2, 4));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(EpochFinished{0, 1, [] {
                       v1::EpochResult r;
                       r.set_epoch(1);
                       return r;
                     }()});
  h.Checkpoint(0, 1, false);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-committed"));
  h.Do(EpochFinished{0, 1, [] {
                       v1::EpochResult r;
                       r.set_epoch(2);
                       return r;
                     }()});
  h.Exit(0, 1, v1::EXIT_CAUSE_CRASHED, "signal 9");
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.reason(0), HasSubstr("try 1 of 3 failed (rank 1 on b crashed: signal 9); goes on from epoch 1"));
  EXPECT_EQ(h.job.stages[0].retry_after, h.now + absl::Seconds(1));
  EXPECT_THAT(h.last.actions, ::testing::Contains(::testing::VariantWith<CountFailure>(::testing::Field(&CountFailure::cause, v1::EXIT_CAUSE_CRASHED))));
  h.Place(0, {"a", "b"});
  EXPECT_EQ(h.generation(0), 2);
  EXPECT_EQ(h.job.stages[0].record.resumed_epoch(), 1);
  EXPECT_EQ(h.job.stages[0].epochs.size(), 1u) << "epoch 2 will be trained again";
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 1);
  EXPECT_TRUE(h.job.stages[0].record.bit_exact());
}

TEST(JobStateMachineTest, ThePeersOfACrashAreNotItsReason) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Exit(0, 0, v1::EXIT_CAUSE_PEER_LOST, "connection reset");
  h.Exit(0, 1, v1::EXIT_CAUSE_CRASHED, "out of memory");
  EXPECT_THAT(h.reason(0), HasSubstr("rank 1 on b crashed: out of memory"));
}

TEST(JobStateMachineTest, TheLastTryFailsTheJob) {
  Harness h(testing::SmallSpec());
  h.Plan();
  for (int attempt = 1; attempt <= 3; ++attempt) {
    EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
    h.Start(0, {"a", "a"});
    h.Exit(0, 0, v1::EXIT_CAUSE_FAILED, "loss is not finite");
    h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  }
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_FAILED);
  EXPECT_EQ(h.state(4), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(h.job.record.reason(), HasSubstr("stage W32A32 failed: rank 0 on a failed: loss is not finite"));
  EXPECT_EQ(h.job.stages[0].record.attempts(), 3);
}

TEST(JobStateMachineTest, BadDataIsNotTriedAgain) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_BAD_DATA, "train-labels: byte 8: label 77");
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(h.job.record.reason(), HasSubstr("train-labels: byte 8"));
}

TEST(JobStateMachineTest, MessagesOfAnotherGenerationChangeNothing) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  h.Start(0, {"a"});
  ASSERT_EQ(h.generation(0), 2);
  v1::Checkpoint late;
  late.set_sha256("late");
  late.set_final(true);
  EXPECT_FALSE(h.Do(CheckpointStored{0, 1, late}).durable());
  EXPECT_FALSE(h.Do(RankEnded{0, 1, 0, v1::EXIT_CAUSE_FINISHED, ""}).durable());
  EXPECT_FALSE(h.Do(RankRan{0, 1, 0, 7}).durable());
  EXPECT_FALSE(h.Do(EpochFinished{0, 1,
                                  [] {
                                    v1::EpochResult r;
                                    r.set_epoch(1);
                                    return r;
                                  }()})
                   .durable());
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING);
  EXPECT_FALSE(h.job.stages[0].record.has_checkpoint());
}

TEST(JobStateMachineTest, CancelStopsTrainersAndEndsWithThem) {
  Harness h(testing::SmallSpec());
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(CancelRequested{});
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_EQ(h.state(1), v1::STAGE_STATE_CANCELLED);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop", "b<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_CANCELLING);
  h.Exit(0, 1, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(h.Do(CancelRequested{}).durable());
}

TEST(JobStateMachineTest, CancelBeforeAnythingRunsIsAtOnce) {
  Harness resolving(testing::SmallSpec());
  resolving.Do(CancelRequested{});
  EXPECT_EQ(resolving.job.record.state(), v1::JOB_STATE_CANCELLED);
  Harness pending(testing::SmallSpec());
  pending.Plan();
  pending.Do(CancelRequested{});
  EXPECT_EQ(pending.job.record.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(pending.state(0), v1::STAGE_STATE_CANCELLED);
  pending.Place(0, {"a", "a"});
  EXPECT_EQ(pending.generation(0), 0) << "nothing starts in an ended job";
}

TEST(JobStateMachineTest, CancelWhileTheLastCheckpointIsOnItsWay) {
  Harness h(testing::OneStageSpec());
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_FINISHED);
  h.Do(CancelRequested{});
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_CANCELLED);
}

TEST(JobStateMachineTest, TheRendezvousGoesToTheOtherWorkers) {
  Harness h(testing::OneStageSpec(4));
  h.Plan();
  h.Place(0, {"a", "a", "b", "c"});
  h.Do(RendezvousOpened{0, 1, "b", "1.2.3.4:5"});
  EXPECT_TRUE(h.Sent().empty()) << "only rank 0's worker opens it";
  h.Do(RendezvousOpened{0, 1, "a", "1.2.3.4:5"});
  EXPECT_THAT(h.Sent(), ElementsAre("b<-rendezvous", "c<-rendezvous"));
  h.Do(WorkerBack{"c", true, {{0, {1, {3}}}}, absl::Seconds(8)});
  EXPECT_THAT(h.Sent(), ElementsAre("c<-rendezvous")) << "it may have missed it";
}

TEST(JobStateMachineTest, ALeavingWorkersAttemptDoesNotCount) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false);
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.reason(0), "stopped; goes on from epoch 2");
  EXPECT_EQ(h.job.stages[0].record.attempts(), 0);
  h.Start(0, {"b"});
  h.Do(RankEnded{0, 2, 0, v1::EXIT_CAUSE_CRASHED, "killed at shutdown", true});
  EXPECT_EQ(h.job.stages[0].record.attempts(), 0) << "the coordinator is leaving";
}

TEST(JobStateMachineTest, ALostWorkerFailsTheAttempt) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(WorkerUnreachable{"b"});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING) << "its slots and attempt stay until the grace ends";
  h.Do(WorkerLost{"b", "no word for 38 s"});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_STOPPING);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_THAT(h.reason(0), HasSubstr("no word for 38 s"));
  EXPECT_EQ(h.job.stages[0].record.attempts(), 1);
}

TEST(JobStateMachineTest, ABrokenGangDoesNotWaitForAnUnreachableWorkerButKeepsItsSlot) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Do(WorkerUnreachable{"b"});
  h.Exit(0, 0, v1::EXIT_CAUSE_PEER_LOST, "rank 1 is silent");
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  bool reserved = false;
  for (const auto& action : h.last.actions) {
    if (const auto* r = std::get_if<ReserveSlot>(&action)) reserved = r->worker_id == "b" && r->slot == 1 && r->attempt.generation() == 1;
  }
  EXPECT_TRUE(reserved);
}

TEST(JobStateMachineTest, RanksThatDoNotStopInTimeAreGivenUp) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "b"});
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  h.now += kKillPatience - absl::Seconds(1);
  h.Do(Ticked{});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_STOPPING);
  h.now += absl::Seconds(2);
  h.Do(Ticked{});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
}

TEST(JobStateMachineTest, AReconnectedWorkerKeepsWhatItStillRuns) {
  Harness h(testing::OneStageSpec(2));
  h.Plan();
  h.Start(0, {"a", "a"});
  h.Do(WorkerUnreachable{"a"});
  h.Do(WorkerBack{"a", true, {{0, {1, {0, 1}}}}, absl::Seconds(8)});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING);
  h.now += absl::Seconds(100);
  h.Do(Ticked{});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING);
  // Rank 1 is not mentioned: its end may be reported within the patience.
  h.Do(WorkerBack{"a", true, {{0, {1, {0}}}}, absl::Seconds(8)});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING);
  h.now += absl::Seconds(9);
  h.Do(Ticked{});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_STOPPING);
}

TEST(JobStateMachineTest, ANewIncarnationHasLostItsTrainers) {
  Harness h(testing::OneStageSpec(1));
  h.Plan();
  h.Start(0, {"a"});
  h.Do(WorkerBack{"a", false, {}, absl::Seconds(8)});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(h.job.stages[0].record.attempts(), 1);
}

TEST(JobStateMachineTest, AfterAReloadAttemptsAreAdoptedOrExcused) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.job.stages[0].attempt.reset();  // what a restart forgets
  Reload(&h.job, h.now, absl::Seconds(38));
  Harness lost = h;
  ASSERT_TRUE(h.job.stages[0].attempt.has_value());
  h.Do(WorkerBack{"a", true, {{0, {1, {0}}}}, absl::Seconds(8)});
  h.now += absl::Seconds(100);
  h.Do(Ticked{});
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_RUNNING);
  h.Finish(0);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_SUCCEEDED);

  lost.now += absl::Seconds(37);
  lost.Do(Ticked{});
  EXPECT_EQ(lost.state(0), v1::STAGE_STATE_RUNNING) << "all leases hold for one grace after a start";
  lost.now += absl::Seconds(2);
  lost.Do(Ticked{});
  EXPECT_EQ(lost.state(0), v1::STAGE_STATE_PENDING);
  EXPECT_EQ(lost.job.stages[0].record.attempts(), 0) << "the coordinator was away; no fault of the stage";
}

TEST(JobStateMachineTest, AStageBeingStoppedIsStoppedAgainAfterAReload) {
  Harness h(testing::OneStageSpec(1, 4));
  h.Plan();
  h.Start(0, {"a"});
  h.Do(CancelRequested{});
  h.job.stages[0].attempt.reset();
  Reload(&h.job, h.now, absl::Seconds(38));
  h.Do(WorkerBack{"a", true, {{0, {1, {0}}}}, absl::Seconds(8)});
  EXPECT_THAT(h.Sent(), ElementsAre("a<-stop"));
  h.Exit(0, 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_CANCELLED);
}

TEST(JobStateMachineTest, OnlyANewerCheckpointReplacesOne) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false, "two");
  h.Checkpoint(0, 1, false, "one");
  EXPECT_EQ(h.job.stages[0].record.checkpoint().sha256(), "two");
  EXPECT_THAT(h.last.actions, ::testing::Contains(::testing::VariantWith<DropCheckpoint>(::testing::Field(&DropCheckpoint::sha256, "one"))));
  h.Checkpoint(0, 3, false, "three");
  EXPECT_EQ(h.job.stages[0].record.checkpoint().sha256(), "three");
  EXPECT_EQ(h.job.stages[0].record.checkpoint().generation(), 1);
  EXPECT_THAT(h.last.actions, ::testing::Contains(::testing::VariantWith<DropCheckpoint>(::testing::Field(&DropCheckpoint::sha256, "two"))));
  h.Checkpoint(0, 3, false, "three");
  EXPECT_THAT(h.Sent(), ElementsAre("a<-committed")) << "a repeat is answered again";
}

TEST(JobStateMachineTest, ACheckpointThatArrivesAfterItsAttemptWasGivenUpIsWorthHaving) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  ASSERT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  h.Checkpoint(0, 5, false);
  EXPECT_THAT(h.Sent(), ElementsAre("a<-committed"));
  EXPECT_EQ(h.state(0), v1::STAGE_STATE_PENDING);
  h.Place(0, {"b"});
  ASSERT_NE(h.Assignment(), nullptr);
  EXPECT_EQ(h.Assignment()->resume_from().epoch(), 5);
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  h.Checkpoint(0, 9, true);
  EXPECT_EQ(h.job.record.state(), v1::JOB_STATE_SUCCEEDED) << "all the work was done";
}

TEST(JobStateMachineTest, RepeatsOfAnEpochChangeNothing) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  v1::EpochResult result;
  result.set_epoch(1);
  EXPECT_TRUE(h.Do(EpochFinished{0, 1, result}).durable());
  EXPECT_FALSE(h.Do(EpochFinished{0, 1, result}).durable());
  result.set_epoch(3);
  EXPECT_FALSE(h.Do(EpochFinished{0, 1, result}).durable()) << "a gap";
  result.set_epoch(10);
  EXPECT_FALSE(h.Do(EpochFinished{0, 1, result}).durable()) << "there is no such epoch";
}

TEST(JobStateMachineTest, AnotherNumericProfileIsNotBitExact) {
  Harness h(testing::OneStageSpec(1, 9));
  h.Plan();
  h.Start(0, {"a"});
  h.Checkpoint(0, 2, false);
  h.Exit(0, 0, v1::EXIT_CAUSE_CRASHED);
  records::RankRecord rank;
  rank.set_worker_id("b");
  h.Do(Placed{0, {rank}, "token", "cpu avx2"});
  EXPECT_FALSE(h.job.stages[0].record.bit_exact());
}

TEST(JobStateMachineTest, RetriesWaitLonger) {
  EXPECT_EQ(RetryDelay(1), absl::Seconds(1));
  EXPECT_EQ(RetryDelay(2), absl::Seconds(2));
  EXPECT_EQ(RetryDelay(3), absl::Seconds(4));
  EXPECT_EQ(RetryDelay(50), absl::Seconds(30));
}

// Any order of any events: no crash, and the invariants of the header hold.
TEST(JobStateMachineTest, InvariantsHoldUnderRandomEvents) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<int>(random() % n); };
    Harness h(testing::SmallSpec());
    std::vector<int> generations(5, 0);
    for (int step = 0; step < 200; ++step) {
      const int stage = pick(6) - (pick(20) == 0 ? 1 : 0), rank = pick(3);
      const bool exists = stage >= 0 && stage < static_cast<int>(h.job.stages.size());
      const int generation = (exists ? h.generation(stage) : 0) - (pick(8) == 0 ? 1 : 0);
      const std::string worker = pick(2) == 0 ? "a" : "b";
      h.now += absl::Seconds(pick(3));
      switch (pick(12)) {
        case 0:
          h.Do(DataResolved{testing::kDigestA});
          break;
        case 1:
        case 2:
          if (exists && !h.job.stages[stage].attempt.has_value()) h.Place(stage, {"a", "b"});
          break;
        case 3:
          h.Do(RankRan{stage, generation, rank, 1});
          break;
        case 4:
          h.Do(RankEnded{stage, generation, rank, static_cast<v1::ExitCause>(pick(10)), "x", pick(9) == 0});
          break;
        case 5:
        case 6:
          h.Do(RankEnded{stage, generation, rank, v1::EXIT_CAUSE_FINISHED, ""});
          break;
        case 7:
        case 8: {
          v1::Checkpoint c;
          c.set_sha256(absl::StrCat(step));
          c.set_epoch(pick(4));
          c.set_final(pick(2) == 0);
          h.Do(CheckpointStored{stage, generation, c});
          break;
        }
        case 9:
          h.Do(WorkerBack{worker, pick(2) == 0,
                          exists ? std::map<int, std::pair<int, std::set<int>>>{{stage, {generation, {rank}}}} : std::map<int, std::pair<int, std::set<int>>>{},
                          absl::Seconds(2)});
          break;
        case 10:
          pick(2) == 0 ? h.Do(WorkerUnreachable{worker}) : h.Do(WorkerLost{worker, "gone", pick(2) == 0});
          break;
        default:
          pick(40) == 0 ? h.Do(CancelRequested{}) : h.Do(Ticked{});
      }
      for (size_t i = 0; i < h.job.stages.size(); ++i) {
        const auto state = h.state(static_cast<int>(i));
        const bool active = state == v1::STAGE_STATE_STARTING || state == v1::STAGE_STATE_RUNNING || state == v1::STAGE_STATE_STOPPING;
        ASSERT_EQ(active, h.job.stages[i].attempt.has_value()) << "seed " << seed << " step " << step << " stage " << i;
        ASSERT_GE(h.generation(static_cast<int>(i)), generations[i]);
        generations[i] = h.generation(static_cast<int>(i));
        ASSERT_TRUE(state != v1::STAGE_STATE_SUCCEEDED || h.job.stages[i].record.checkpoint().final());
        ASSERT_LE(h.job.stages[i].record.attempts(), 3);
        ASSERT_TRUE(!IsEnded(h.job.record.state()) || IsEnded(state)) << "seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace bitstair::server
