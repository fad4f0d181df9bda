#include "server/scheduler.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bitstair::server {
namespace {

SchedulerWorker Worker(const std::string& id, int cpu, int gpu = 0, std::set<int> busy = {}) {
  SchedulerWorker worker;
  worker.id = id;
  worker.numeric_profile = "cpu";
  worker.available = true;
  worker.busy = std::move(busy);
  for (int i = 0; i < cpu + gpu; ++i) {
    v1::Slot slot;
    slot.set_index(i);
    slot.set_kind(i < cpu ? v1::SLOT_KIND_CPU : v1::SLOT_KIND_GPU);
    worker.slots.push_back(slot);
  }
  return worker;
}

PendingStage Stage(const std::string& job, int ranks, std::set<std::string> eligible) {
  return {"jobs/" + job + "/stages/W4A4", ranks, "mnist", std::move(eligible), ""};
}

std::string Show(const Placement& placement) {
  std::string text = absl::StrCat(absl::StripSuffix(absl::StripPrefix(placement.stage, "jobs/"), "/stages/W4A4"), ":");
  for (const auto& rank : placement.ranks) absl::StrAppend(&text, " ", rank.rank(), "=", rank.worker_id(), "/", rank.slot());
  return text;
}

std::string ReasonOf(const Schedule& schedule, const std::string& job) {
  const auto found = schedule.reasons.find("jobs/" + job + "/stages/W4A4");
  return found == schedule.reasons.end() ? "" : found->second;
}

TEST(SchedulerTest, AGangPrefersTheOneWorkerWithFewestFreeSlotsThatFits) {
  const auto schedule = PlaceStages({Stage("j", 2, {"a", "b", "c"})}, {Worker("a", 4), Worker("b", 2), Worker("c", 1)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(Show(schedule.placements[0]), "j: 0=b/0 1=b/1");
  EXPECT_EQ(schedule.placements[0].numeric_profile, "cpu");
  EXPECT_TRUE(schedule.reasons.empty());
}

TEST(SchedulerTest, SpreadsAGangThatFitsNoOneWorker) {
  const auto schedule = PlaceStages({Stage("j", 3, {"a", "b"})}, {Worker("a", 1), Worker("b", 2)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(Show(schedule.placements[0]), "j: 0=b/0 1=b/1 2=a/0");
}

TEST(SchedulerTest, AllOrNone) {
  const auto schedule = PlaceStages({Stage("j", 2, {"a"})}, {Worker("a", 2, 0, {1})});
  EXPECT_TRUE(schedule.placements.empty());
  EXPECT_EQ(ReasonOf(schedule, "j"), "waits for 2 slots; 1 of 2 is free");
}

TEST(SchedulerTest, SaysWhenTheFleetIsTooSmall) {
  EXPECT_EQ(ReasonOf(PlaceStages({Stage("j", 3, {"a"})}, {Worker("a", 2)}), "j"), "waits for 3 slots; the fleet has 2 in all");
  EXPECT_EQ(ReasonOf(PlaceStages({Stage("j", 3, {"a"})}, {Worker("a", 2), Worker("b", 2)}), "j"),
            "waits for 3 slots; the workers that offer data set mnist have 2 in all");
}

TEST(SchedulerTest, SaysWhenNoWorkerHasTheData) {
  EXPECT_EQ(ReasonOf(PlaceStages({Stage("j", 1, {})}, {Worker("a", 2)}), "j"), "no connected worker offers data set mnist with the job's digest");
  EXPECT_EQ(ReasonOf(PlaceStages({Stage("j", 1, {"a"})}, {}), "j"), "waits for 1 slot; no worker is connected");
  SchedulerWorker gone = Worker("a", 2);
  gone.available = false;
  EXPECT_EQ(ReasonOf(PlaceStages({Stage("j", 1, {"a"})}, {gone}), "j"), "waits for 1 slot; no worker is connected");
}

TEST(SchedulerTest, FirstComeFirstServedAlsoForALargeGang) {
  // The second job would fit, but it would keep the first waiting.
  const auto schedule = PlaceStages({Stage("big", 2, {"a"}), Stage("small", 1, {"a"})}, {Worker("a", 2, 0, {0})});
  EXPECT_TRUE(schedule.placements.empty());
  EXPECT_EQ(ReasonOf(schedule, "small"), "waits for 1 slot; 1 of 2 is free, after jobs/big/stages/W4A4");
}

TEST(SchedulerTest, AStageThatCanNeverRunHoldsUpNobody) {
  const auto schedule = PlaceStages({Stage("huge", 9, {"a"}), Stage("small", 1, {"a"})}, {Worker("a", 2)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(schedule.placements[0].stage, "jobs/small/stages/W4A4");
}

TEST(SchedulerTest, OtherWorkersStayOpenWhileOneIsWaitedFor) {
  const auto schedule = PlaceStages({Stage("first", 2, {"a"}), Stage("second", 1, {"a", "b"})}, {Worker("a", 2, 0, {0}), Worker("b", 1)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(Show(schedule.placements[0]), "second: 0=b/0");
}

TEST(SchedulerTest, GpusComeFirstAndAGangHasOneKind) {
  auto schedule = PlaceStages({Stage("j", 2, {"a"})}, {Worker("a", 2, 2)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(Show(schedule.placements[0]), "j: 0=a/2 1=a/3");
  schedule = PlaceStages({Stage("j", 2, {"a"})}, {Worker("a", 2, 1)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(Show(schedule.placements[0]), "j: 0=a/0 1=a/1") << "one GPU is too few, and kinds do not mix";
}

TEST(SchedulerTest, SlotsTakenInThisRoundAreNotGivenTwice) {
  const auto schedule = PlaceStages({Stage("x", 1, {"a"}), Stage("y", 1, {"a"}), Stage("z", 1, {"a"})}, {Worker("a", 2)});
  ASSERT_EQ(schedule.placements.size(), 2u);
  EXPECT_EQ(Show(schedule.placements[0]), "x: 0=a/0");
  EXPECT_EQ(Show(schedule.placements[1]), "y: 0=a/1");
  EXPECT_EQ(ReasonOf(schedule, "z"), "waits for 1 slot; 0 of 2 are free");
}

TEST(SchedulerTest, AResumedStagePrefersItsNumericProfile) {
  auto other = Worker("a", 1);
  other.numeric_profile = "cpu avx2";
  PendingStage stage = Stage("j", 1, {"a", "b"});
  stage.preferred_profile = "cpu";
  auto schedule = PlaceStages({stage}, {other, Worker("b", 4)});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(Show(schedule.placements[0]), "j: 0=b/0");
  schedule = PlaceStages({stage}, {other, Worker("b", 1, 0, {0})});
  ASSERT_EQ(schedule.placements.size(), 1u);
  EXPECT_EQ(schedule.placements[0].numeric_profile, "cpu avx2");
}

}  // namespace
}  // namespace bitstair::server
