// Order, quotas, backfill, preemption, elasticity, explanations.
#include "server/scheduling/scheduler.h"

#include "tests/server/scheduling/cluster.h"

namespace bitstair::server::scheduling {
namespace {

using SchedulerTest = Cluster;
constexpr double kHour = 3600;

TEST_F(SchedulerTest, BySubmitTime) {
  Add(MakeWorker("a", 1));
  Add(MakeStage("late", 1, 20));
  Add(MakeStage("early", 1, 10));
  EXPECT_EQ(Decide(30), Texts{"early: a/0"});
  EXPECT_EQ(Why("late", 30), "waits for 1 slot; 0 of 1 are free");
  End("early", 40);
  EXPECT_EQ(Decide(40), Texts{"late: a/0"});
}

TEST_F(SchedulerTest, ADecisionIsAProposal) {
  Add(MakeWorker("a", 1));
  Add(MakeStage("j", 1));
  const Scheduler copy = scheduler_;
  const Decision first = scheduler_.Decide(At(0));
  EXPECT_EQ(scheduler_.Decide(At(0)), first);
  EXPECT_EQ(Scheduler(copy).Decide(At(0)), first);
  EXPECT_EQ(first.placements.size(), 1u);
}

TEST_F(SchedulerTest, HigherClassesFirst) {
  Add(MakeWorker("a", 1));
  Add(MakeStage("low", 1, 0, "", Priority::kLow));
  Add(MakeStage("normal", 1, 1));
  Add(MakeStage("high", 1, 2, "", Priority::kHigh));
  EXPECT_EQ(Decide(3), Texts{"high: a/0"});
  End("high", 4);
  EXPECT_EQ(Decide(4), Texts{"normal: a/0"});
}

TEST_F(SchedulerTest, AgeingRaisesAStageByOneClassAtATime) {
  Add(MakeWorker("a", 1));
  Add(MakeStage("low", 1, 0, "", Priority::kLow));
  Add(MakeStage("normal", 1, 23 * kHour));
  Add(MakeStage("high", 1, 23 * kHour, "", Priority::kHigh));
  const Scheduler at_first = scheduler_;
  EXPECT_EQ(Decide(25 * kHour), Texts{"high: a/0"});
  End("high", 25 * kHour);
  EXPECT_EQ(Decide(25 * kHour), Texts{"low: a/0"}) << "it is normal by now and came first";
  scheduler_ = at_first;
  EXPECT_EQ(Decide(48 * kHour), Texts{"low: a/0"}) << "it is high by now";
}

TEST_F(SchedulerTest, AQueueThatUsedLessGoesFirst) {
  Add(MakeWorker("a", 1));
  Add(MakeStage("x1", 1, 0, "x"));
  Add(MakeStage("x2", 1, 1, "x"));
  Add(MakeStage("y", 1, 2, "y"));
  EXPECT_EQ(Decide(3), Texts{"x1: a/0"});
  End("x1", kHour);
  EXPECT_EQ(Decide(kHour), Texts{"y: a/0"});
}

TEST_F(SchedulerTest, SlotTimeIsSharedByWeight) {
  ASSERT_TRUE(scheduler_.SetQueue("x", {.weight = 3}).ok());
  Add(MakeWorker("a", 1));
  std::map<std::string, int> runs;
  for (int i = 0; i < 80; ++i) {
    Add(MakeStage(absl::StrCat("x", i), 1, i, "x"));
    Add(MakeStage(absl::StrCat("y", i), 1, i, "y"));
  }
  for (int i = 0; i < 80; ++i) {
    const auto decided = Decide(100 + 60 * i);
    ASSERT_EQ(decided.size(), 1u);
    const std::string key = decided[0].substr(0, decided[0].find(':'));
    ++runs[key.substr(0, 1)];
    End(key, 100 + 60 * i + 60);
  }
  EXPECT_NEAR(runs["x"], 60, 1);
}

TEST_F(SchedulerTest, ASharedStageHasTheHighestPriorityAndIsPaidInEqualParts) {
  Add(MakeWorker("a", 2));
  Add(MakeStage("normal", 2, 0));
  StageRequest shared = MakeStage("shared", 2, 5, "x", Priority::kLow);
  shared.waiters.push_back({"other", "y", Priority::kHigh, At(6)});
  Add(shared);
  EXPECT_EQ(Decide(10), Texts{"shared: a/0 a/1"});
  EXPECT_DOUBLE_EQ(scheduler_.SlotsOf("x"), 1);
  EXPECT_DOUBLE_EQ(scheduler_.SlotsOf("y"), 1);
  shared.waiters.pop_back();
  Add(shared);
  EXPECT_DOUBLE_EQ(scheduler_.SlotsOf("x"), 2) << "the other job was cancelled";
  EXPECT_DOUBLE_EQ(scheduler_.SlotsOf("y"), 0);
}

TEST_F(SchedulerTest, QuotaOfSlots) {
  ASSERT_TRUE(scheduler_.SetQueue("vision", {.max_slots = 2}).ok());
  Add(MakeWorker("a", 4));
  Add(MakeStage("j", 2, 0, "vision"));
  Add(MakeStage("k", 1, 1, "vision"));
  Add(MakeStage("huge", 3, 2, "vision"));
  Add(MakeStage("other", 2, 3, "text"));
  EXPECT_EQ(Decide(5), (Texts{"j: a/0 a/1", "other: a/2 a/3"})) << "a queue at its quota holds up nobody";
  EXPECT_EQ(Why("k"), "queue vision is at its quota of 2 slots");
  EXPECT_EQ(Why("huge"), "needs 3 slots; the quota of queue vision is 2 slots");
  End("j", 6);
  Decide(6);
  Add(MakeStage("l", 2, 7, "vision"));
  Decide(7);
  EXPECT_EQ(Why("l"), "waits for 2 slots; queue vision has 1 of its quota of 2 left");
}

TEST_F(SchedulerTest, QuotaOfJobsLetsAJobThatRunsGoOn) {
  ASSERT_TRUE(scheduler_.SetQueue("vision", {.max_jobs = 1}).ok());
  Add(MakeWorker("a", 4));
  StageRequest first = MakeStage("j1", 1, 0, "vision"), second = MakeStage("j2", 1, 0, "vision");
  first.waiters[0].job_id = second.waiters[0].job_id = "j";
  Add(first);
  Add(MakeStage("k", 1, 1, "vision"));
  Add(second);
  EXPECT_EQ(Decide(5), (Texts{"j1: a/0", "j2: a/1"}));
  EXPECT_EQ(Why("k"), "queue vision is at its quota of 1 job");
}

TEST_F(SchedulerTest, ASharedStageIsPaidByTheQueuesThatHaveRoom) {
  ASSERT_TRUE(scheduler_.SetQueue("x", {.max_slots = 0}).ok());
  Add(MakeWorker("a", 2));
  StageRequest shared = MakeStage("shared", 2, 5, "x");
  shared.waiters.push_back({"other", "y", Priority::kNormal, At(6)});
  Add(shared);
  EXPECT_EQ(Decide(10), Texts{"shared: a/0 a/1"});
  EXPECT_DOUBLE_EQ(scheduler_.SlotsOf("x"), 0);
  EXPECT_DOUBLE_EQ(scheduler_.SlotsOf("y"), 2);
}

TEST_F(SchedulerTest, BackfillEndsBeforeTheReservationOrUsesOtherSlots) {
  Add(MakeWorker("a", 4));
  Add(MakeStage("runs", 2, 0), 1000);
  Decide(0);
  Add(MakeStage("head", 3, 1), 100);
  Add(MakeStage("long", 1, 2), 2000);
  Add(MakeStage("unknown", 1, 3));
  Add(MakeStage("short", 1, 4), 500);
  // Three of four slots are reserved, so one slot is open to the long stage; the unknown one finds only a reserved one.
  EXPECT_EQ(Decide(10), (Texts{"long: a/3", "short: a/2"}));
  EXPECT_EQ(Why("head", 10), "waits for 3 slots; 0 of 4 are free, expected to start about 00:16");
  EXPECT_EQ(scheduler_.Explain("head", At(10))->expected_start, At(1000));
  EXPECT_EQ(Why("unknown", 10), "waits behind jobs/head/stages/W4A4, which is expected to start about 00:16");
  End("short", 510);
  EXPECT_EQ(Decide(510), Texts{});
  End("runs", 1000);
  EXPECT_EQ(Decide(1000), Texts{"head: a/0 a/1 a/2"});
}

TEST_F(SchedulerTest, WithoutDurationsReservedSlotsAreLeftAlone) {
  Add(MakeWorker("a", 2));
  Add(MakeStage("runs", 1, 0));
  Decide(0);
  Add(MakeStage("big", 2, 1));
  Add(MakeStage("small", 1, 2));
  Add(MakeStage("short", 1, 3), 1);
  EXPECT_EQ(Decide(10), Texts{});
  EXPECT_EQ(Why("big"), "waits for 2 slots; 1 of 2 is free");
  EXPECT_EQ(Why("small"), "waits for 1 slot; 1 of 2 is free, after jobs/big/stages/W4A4");
}

TEST_F(SchedulerTest, AStageThatOverrunsIsNotTakenForEnded) {
  Add(MakeWorker("a", 2));
  Add(MakeStage("runs", 1, 0), 100);
  Decide(0);
  Add(MakeStage("big", 2, 1), 100);
  Add(MakeStage("short", 1, 2), 5);
  EXPECT_EQ(Decide(200), Texts{});
  EXPECT_EQ(Why("big", 200), "waits for 2 slots; 1 of 2 is free");
}

TEST_F(SchedulerTest, AStageThatCanNeverRunHoldsUpNobody) {
  Add(MakeWorker("a", 2));
  Add(MakeStage("huge", 9, 0));
  Add(MakeStage("small", 1, 1));
  EXPECT_EQ(Decide(10), Texts{"small: a/0"});
  EXPECT_EQ(Why("huge"), "waits for 9 slots; the fleet has 2 in all");
}

TEST_F(SchedulerTest, PoolsWithoutCommonWorkersHaveHeadsOfTheirOwn) {
  WorkerInfo b = MakeWorker("b", 2);
  b.data = {"other"};
  Add(MakeWorker("a", 2));
  Add(b);
  const auto on_b = [](StageRequest stage) {
    stage.data_key = "other";
    return stage;
  };
  Add(MakeStage("runs-a", 1, 0));
  Add(on_b(MakeStage("runs-b", 1, 0)));
  Decide(0);
  Add(MakeStage("head-a", 2, 1));
  Add(on_b(MakeStage("head-b", 2, 2)));
  Add(on_b(MakeStage("small-b", 1, 3)));
  EXPECT_EQ(Decide(10), Texts{});
  EXPECT_EQ(Why("small-b"), "waits for 1 slot; 1 of 2 is free, after jobs/head-b/stages/W4A4");
}

TEST_F(SchedulerTest, ADelayedStageIsNotTriedBeforeItsTime) {
  Add(MakeWorker("a", 1));
  StageRequest stage = MakeStage("j", 1);
  stage.wait_until = At(14 * kHour + 5 * 60 + 10);
  Add(stage);
  EXPECT_EQ(scheduler_.Decide(At(0)).wake_at, stage.wait_until);
  EXPECT_EQ(Why("j"), "retries at 14:05:10");
  Add(MakeStage("k", 1, 5));
  EXPECT_EQ(Decide(10), Texts{"k: a/0"});
  End("k", 20);
  EXPECT_EQ(Decide(14 * kHour + 5 * 60 + 10), Texts{"j: a/0"});
}

TEST_F(SchedulerTest, PreemptsTheFewestOfTheLowestClass) {
  Add(MakeWorker("a", 6));
  const auto preemptible = [](StageRequest stage) {
    stage.preemptible = true;
    return stage;
  };
  Add(preemptible(MakeStage("normal", 3, 0)));
  Add(preemptible(MakeStage("low1", 1, 1, "", Priority::kLow)));
  Add(preemptible(MakeStage("low2", 2, 1, "", Priority::kLow)));
  Decide(1);
  Add(MakeStage("urgent", 2, 2, "", Priority::kHigh));
  EXPECT_EQ(Decide(3), Texts{"stop low2 for urgent"});
  EXPECT_EQ(Why("urgent"), "waits for 2 slots; 0 of 6 are free; jobs/low2/stages/W4A4 stops at a checkpoint to make room");
  EXPECT_EQ(Decide(4), Texts{}) << "asked once";
  Requeue("low2", 5);
  EXPECT_EQ(Decide(5), Texts{"urgent: a/4 a/5"});
  Decide(6);
  EXPECT_EQ(Why("low2"), "waits for 2 slots; 0 of 6 are free");
}

TEST_F(SchedulerTest, APreemptedStageDoesNotGoBeforeWhomItMadeRoomFor) {
  Add(MakeWorker("a", 2));
  StageRequest low = MakeStage("low", 1, 0, "", Priority::kLow);
  low.preemptible = true;
  Add(low);
  Add(MakeStage("stays", 1, 0));
  Decide(0);
  // By now it has aged to the highest class itself and came first.
  const double later = 100 * kHour;
  Add(MakeStage("urgent", 1, later, "", Priority::kHigh));
  EXPECT_EQ(Decide(later), Texts{"stop low for urgent"});
  Requeue("low", later + 1);
  EXPECT_EQ(Decide(later + 1), Texts{"urgent: a/1"});
  End("urgent", later + 2);
  EXPECT_EQ(Decide(later + 2), Texts{"low: a/1"});
}

TEST_F(SchedulerTest, AStageThatAgedBeforeItStartedIsNotPreempted) {
  Add(MakeWorker("a", 1));
  StageRequest low = MakeStage("low", 1, 0, "", Priority::kLow);
  low.preemptible = true;
  Add(low);
  Decide(25 * kHour);
  Add(MakeStage("normal", 1, 25 * kHour));
  EXPECT_EQ(Decide(26 * kHour), Texts{}) << "it was normal itself when it started";
  Add(MakeStage("high", 1, 26 * kHour, "", Priority::kHigh));
  EXPECT_EQ(Decide(26 * kHour), Texts{"stop low for high"});
}

TEST_F(SchedulerTest, WhatMadeRoomGoesOnWhenTheOtherIsCancelled) {
  Add(MakeWorker("a", 1));
  StageRequest low = MakeStage("low", 1, 0, "", Priority::kLow);
  low.preemptible = true;
  Add(low);
  Decide(0);
  Add(MakeStage("urgent", 1, 1, "", Priority::kHigh));
  Decide(1);
  ASSERT_TRUE(scheduler_.RemoveStage("urgent").ok());
  Requeue("low", 2);
  EXPECT_EQ(Decide(2), Texts{"low: a/0"});
}

TEST_F(SchedulerTest, NobodyIsPreemptedInVainOrByAnEqual) {
  Add(MakeWorker("a", 2));
  StageRequest low = MakeStage("low", 1, 0, "", Priority::kLow);
  low.preemptible = true;
  Add(low);
  Add(MakeStage("stays", 1, 0));
  Decide(0);
  Add(MakeStage("wide", 2, 1, "", Priority::kHigh));
  EXPECT_EQ(Decide(1), Texts{}) << "one slot would not be enough";
  ASSERT_TRUE(scheduler_.RemoveStage("wide").ok());
  Add(MakeStage("equal", 1, 1, "", Priority::kLow));
  EXPECT_EQ(Decide(1000 * kHour), Texts{}) << "ageing gives precedence, not the right to preempt";
}

TEST_F(SchedulerTest, AnElasticStageGrowsWhenNobodyWaits) {
  Add(MakeWorker("a", 4));
  Add(MakeStage("other", 2, 0));
  StageRequest elastic = MakeStage("j", 1, 1);
  elastic.max_ranks = 4;
  Add(elastic);
  EXPECT_EQ(Decide(1), (Texts{"other: a/0 a/1", "j: a/2 a/3"}));
  End("other", 30);
  const Decision early = scheduler_.Decide(At(30));
  EXPECT_TRUE(early.resizes.empty()) << "it has only just started";
  EXPECT_EQ(early.wake_at, At(601));
  EXPECT_EQ(Decide(601), Texts{"resize j to 4"});
  EXPECT_EQ(Decide(602), Texts{}) << "asked once";
  Requeue("j", 610);
  EXPECT_EQ(Decide(610), Texts{"j: a/0 a/1 a/2 a/3"});
}

TEST_F(SchedulerTest, AnElasticStageShrinksForOneThatWaits) {
  Add(MakeWorker("a", 4));
  StageRequest elastic = MakeStage("j", 1, 0);
  elastic.max_ranks = 4;
  Add(elastic);
  EXPECT_EQ(Decide(0), Texts{"j: a/0 a/1 a/2 a/3"});
  Add(MakeStage("k", 2, 10));
  EXPECT_EQ(Decide(20), Texts{});
  EXPECT_EQ(Decide(600), Texts{"resize j to 2 for k"});
  Requeue("j", 610);
  EXPECT_EQ(Decide(610), (Texts{"k: a/0 a/1", "j: a/2 a/3"}));
}

TEST_F(SchedulerTest, SlotsStayHeldWhileAWorkerIsAway) {
  Add(MakeWorker("a", 1));
  Add(MakeStage("j", 1));
  Decide(0);
  ASSERT_TRUE(scheduler_.RemoveWorker("a").ok());
  Add(MakeStage("k", 1, 1));
  EXPECT_EQ(Decide(1), Texts{});
  EXPECT_EQ(Why("k"), "waits for 1 slot; no worker is connected");
  Add(MakeWorker("a", 1));
  EXPECT_EQ(Decide(2), Texts{});
  End("j", 3);
  EXPECT_EQ(Decide(3), Texts{"k: a/0"});
}

TEST_F(SchedulerTest, RunningStagesAreToldAgainAfterARestart) {
  Add(MakeStage("j", 1));
  ASSERT_TRUE(scheduler_.MarkRunning("j", {"j", {{"a", 0}}}, At(0), absl::InfiniteFuture()).ok());
  Add(MakeStage("k", 1, 1));
  Add(MakeWorker("a", 2));
  EXPECT_EQ(Decide(1), Texts{"k: a/1"});
  EXPECT_EQ(scheduler_.running(), 2);
  EXPECT_EQ(scheduler_.pending(), 0);
}

TEST_F(SchedulerTest, BadInputIsRefusedByName) {
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  WorkerInfo worker = MakeWorker("a", 1);
  worker.slots.push_back(worker.slots[0]);
  EXPECT_EQ(message(scheduler_.UpsertWorker(worker)), "worker a: slots: index 0 is there twice");
  worker.slots = {{-1}};
  EXPECT_EQ(message(scheduler_.UpsertWorker(worker)), "worker a: slots: index -1 is below 0");
  EXPECT_EQ(message(scheduler_.UpsertWorker({})), "worker id: is empty");

  const auto refused = [&](const StageRequest& stage) { return message(scheduler_.UpsertStage(stage)); };
  StageRequest stage = MakeStage("j", 4);
  stage.max_ranks = 2;
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: max_ranks: 2 is below min_ranks, 4");
  EXPECT_EQ(refused(MakeStage("j", 0)), "stage jobs/j/stages/W4A4: min_ranks: 0 is below 1");
  EXPECT_EQ(refused(MakeStage("j", 1 << 30)), "stage jobs/j/stages/W4A4: max_ranks: 1073741824 is above 65536");
  stage = MakeStage("j", 3);
  stage.layout = GangLayout::kSplitPair;
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: ranks: no number from 3 to 3 is even");
  stage = MakeStage("j", 3);
  stage.shards = 8;
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: ranks: no number from 3 to 3 is possible and divides 8 shards");
  stage = MakeStage("j", 1);
  stage.memory_bytes = -1;
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: memory_bytes: -1 is below 0");
  stage = MakeStage("j", 1);
  stage.expected_duration = absl::Seconds(-1);
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: expected_duration: is below 0");
  stage = MakeStage("j", 1);
  stage.waiters.push_back(stage.waiters[0]);
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: waiters: job j is there twice");
  stage.waiters.clear();
  EXPECT_EQ(refused(stage), "stage jobs/j/stages/W4A4: waiters: there are none");

  EXPECT_EQ(message(scheduler_.SetQueue("q", {.weight = -1})), "queue q: weight: -1 is not above 0");
  EXPECT_EQ(message(scheduler_.SetQueue("q", {.max_slots = -2})), "queue q: max_slots: -2 is below 0");
  EXPECT_EQ(message(scheduler_.SetQueue("", {.max_jobs = -3})), "queue (default): max_jobs: -3 is below 0");
  EXPECT_EQ(message(Scheduler::Create({.ageing = absl::ZeroDuration()}).status()), "ageing: must be above 0");

  EXPECT_EQ(scheduler_.RemoveStage("x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(scheduler_.RemoveWorker("x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(scheduler_.MarkEnded("x", At(0)).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(scheduler_.Explain("x", At(0)).status().code(), absl::StatusCode::kNotFound);
  Add(MakeWorker("a", 1));
  Add(MakeStage("j", 1));
  Add(MakeStage("k", 1));
  EXPECT_EQ(scheduler_.MarkEnded("j", At(0)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(scheduler_.MarkRunning("j", {"j", {{"a", 0}, {"a", 0}}}, At(0), At(1)).code(), absl::StatusCode::kInvalidArgument);
  Decide(0);
  EXPECT_EQ(scheduler_.RemoveStage("j").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(scheduler_.MarkRunning("k", {"k", {{"a", 0}}}, At(0), At(1)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(scheduler_.pending(), 1) << "refused calls change nothing";
}

TEST(QueueUsageTest, UsageSaysWhatQueuesHaveAndHad) {
  Scheduler scheduler;
  ASSERT_TRUE(scheduler.UpsertWorker(MakeWorker("a", 1)).ok());
  ASSERT_TRUE(scheduler.UpsertStage(MakeStage("j", 1, 0, "x")).ok());
  ASSERT_TRUE(scheduler.UpsertStage(MakeStage("k", 1, 0, "y")).ok());
  const Decision decision = scheduler.Decide(At(0));
  ASSERT_EQ(decision.placements.size(), 1u);
  ASSERT_TRUE(scheduler.MarkRunning("j", decision.placements[0], At(0), absl::InfiniteFuture()).ok());
  const auto usage = scheduler.Usage(At(3600));
  ASSERT_EQ(usage.size(), 2u);
  EXPECT_EQ(usage[0].name, "x");
  EXPECT_EQ(usage[0].slots, 1);
  EXPECT_EQ(usage[0].jobs, 1);
  EXPECT_EQ(usage[0].waiting, 0);
  EXPECT_NEAR(usage[0].slot_seconds, 3600, 80) << "less what has decayed of it";
  EXPECT_EQ(usage[1].waiting, 1);
  EXPECT_EQ(usage[1].slot_seconds, 0);
}

// A queue that had the fleet for a day is behind one that had nothing, also for a scheduler that was made since.
TEST(QueueUsageTest, RestoredUsageDecidesWhoGoesFirst) {
  for (const std::string used : {"x", "y"}) {
    Scheduler scheduler;
    ASSERT_TRUE(scheduler.RestoreUsage(used, 86400, At(0)).ok());
    ASSERT_TRUE(scheduler.UpsertWorker(MakeWorker("a", 1)).ok());
    ASSERT_TRUE(scheduler.UpsertStage(MakeStage("j", 1, 0, "x")).ok());
    ASSERT_TRUE(scheduler.UpsertStage(MakeStage("k", 1, 0, "y")).ok());
    EXPECT_EQ(Shown(scheduler.Decide(At(10))), std::vector<std::string>{used == "x" ? "k: a/0" : "j: a/0"});
    EXPECT_TRUE(absl::IsInvalidArgument(scheduler.RestoreUsage(used, -1, At(0))));
  }
}

}  // namespace
}  // namespace bitstair::server::scheduling
