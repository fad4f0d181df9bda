// Which slots a gang gets.
#include "server/scheduling/placement.h"

#include "tests/server/scheduling/cluster.h"

namespace bitstair::server::scheduling {
namespace {

using PlacementTest = Cluster;

// Islands of so many GPUs each.
WorkerInfo Islands(const std::string& id, std::vector<int> sizes) {
  WorkerInfo worker = MakeWorker(id, 0);
  for (size_t island = 0; island < sizes.size(); ++island) {
    for (int i = 0; i < sizes[island]; ++i) worker.slots.push_back({static_cast<int>(worker.slots.size()), SlotKind::kGpu, static_cast<int>(island)});
  }
  return worker;
}

TEST_F(PlacementTest, OneWorkerWithTheFewestLeftOver) {
  Add(MakeWorker("a", 4));
  Add(MakeWorker("b", 2));
  Add(MakeWorker("c", 1));
  Add(MakeStage("j", 2));
  EXPECT_EQ(Decide(), Texts{"j: b/0 b/1"});
}

TEST_F(PlacementTest, OneIslandBeforeAWorkerWithFewerLeftOver) {
  Add(Islands("a", {2, 1}));
  Add(Islands("b", {4, 4}));
  Add(MakeStage("j", 3));
  EXPECT_EQ(Decide(), Texts{"j: b/0 b/1 b/2"});
}

TEST_F(PlacementTest, TheSmallestIslandThatHoldsTheGang) {
  Add(Islands("a", {4, 2}));
  Add(MakeStage("j", 2));
  EXPECT_EQ(Decide(), Texts{"j: a/4 a/5"});
}

TEST_F(PlacementTest, WorkersOfOneHostBeforeOthers) {
  WorkerInfo a = MakeWorker("a", 2), b = MakeWorker("b", 3), c = MakeWorker("c", 2);
  a.host = c.host = "h";
  Add(a);
  Add(b);
  Add(c);
  Add(MakeStage("j", 4));
  EXPECT_EQ(Decide(), Texts{"j: a/0 a/1 c/0 c/1"});
}

TEST_F(PlacementTest, OneSubnetBeforeTheWholeFleet) {
  WorkerInfo a = MakeWorker("a", 3), b = MakeWorker("b", 2), c = MakeWorker("c", 2);
  a.subnet = "10.0.0.0/24";
  b.subnet = c.subnet = "10.0.1.0/24";
  Add(a);
  Add(b);
  Add(c);
  Add(MakeStage("j", 4));
  EXPECT_EQ(Decide(), Texts{"j: b/0 b/1 c/0 c/1"});
  Add(MakeStage("k", 3));
  EXPECT_EQ(Decide(), Texts{"k: a/0 a/1 a/2"});
}

TEST_F(PlacementTest, SpreadsOverTheFewestWorkersAndTheLastNoLargerThanNeeded) {
  Add(MakeWorker("a", 1));
  Add(MakeWorker("b", 4));
  Add(MakeWorker("c", 3));
  Add(MakeStage("j", 5));
  EXPECT_EQ(Decide(), Texts{"j: b/0 b/1 b/2 b/3 a/0"});
}

TEST_F(PlacementTest, AllOrNone) {
  Add(MakeWorker("a", 2));
  Add(MakeStage("one", 1));
  Decide();
  Add(MakeStage("j", 2));
  EXPECT_EQ(Decide(), Texts{});
  EXPECT_EQ(Why("j"), "waits for 2 slots; 1 of 2 is free");
}

TEST_F(PlacementTest, GpusComeFirstAndAGangHasOneKind) {
  Add(MakeWorker("a", 2, 2));
  Add(MakeStage("j", 2));
  EXPECT_EQ(Decide(), Texts{"j: a/2 a/3"});
  Add(MakeStage("k", 1));
  EXPECT_EQ(Decide(), Texts{}) << "it waits for a GPU, CPU slots are not the same";
  Add(MakeStage("wide", 4));
  EXPECT_EQ(Why("wide"), "waits for 4 slots; the fleet has 2 in all");
}

TEST_F(PlacementTest, TooFewGpusInAllMeansCpuSlots) {
  Add(MakeWorker("a", 2, 1));
  Add(MakeStage("j", 2));
  EXPECT_EQ(Decide(), Texts{"j: a/0 a/1"});
}

TEST_F(PlacementTest, ThePreferredProfileIsTriedAlone) {
  WorkerInfo other = MakeWorker("a", 1);
  other.numeric_profile = "cpu avx2";
  Add(other);
  Add(MakeWorker("b", 4));
  StageRequest stage = MakeStage("j", 1);
  stage.preferred_profile = "cpu";
  Add(stage);
  EXPECT_EQ(Decide(), Texts{"j: b/0"});
  stage = MakeStage("k", 4);
  stage.preferred_profile = "cpu";
  Add(stage);
  const Decision decision = scheduler_.Decide(At(0));
  ASSERT_EQ(decision.placements.size(), 1u);
  EXPECT_EQ(Show(decision.placements[0]), "k: b/1 b/2 b/3 a/0");
  EXPECT_EQ(decision.placements[0].numeric_profile, "mixed");
}

TEST_F(PlacementTest, LabelsMemoryAndDataDecideWhoIsEligible) {
  WorkerInfo plain = MakeWorker("a", 0, 4), large = MakeWorker("b", 0, 2), without = MakeWorker("c", 0, 4);
  for (Slot& slot : plain.slots) slot.memory_bytes = int64_t{8} << 30;
  for (Slot& slot : large.slots) slot.memory_bytes = int64_t{80} << 30;
  large.labels = {{"gpu", "h100"}};
  without.data = {};
  Add(plain);
  Add(large);
  Add(without);
  StageRequest stage = MakeStage("labelled", 1);
  stage.labels = {{"gpu", "h100"}};
  Add(stage);
  EXPECT_EQ(Decide(), Texts{"labelled: b/0"});
  stage = MakeStage("large", 1);
  stage.memory_bytes = int64_t{12} << 30;
  Add(stage);
  EXPECT_EQ(Decide(), Texts{"large: b/1"});
  stage = MakeStage("none", 1);
  stage.labels = {{"gpu", "a100"}};
  Add(stage);
  stage = MakeStage("three", 3);
  stage.memory_bytes = int64_t{12} << 30;
  Add(stage);
  stage = MakeStage("other", 1);
  stage.data_key = "other";
  stage.data_name = "cifar100";
  Add(stage);
  EXPECT_EQ(Decide(), Texts{});
  EXPECT_EQ(Why("none"), "no connected worker has label gpu=a100 and offers data set mnist");
  EXPECT_EQ(Why("three"), "waits for 3 slots with 12.0 GiB of memory each; the workers that offer data set mnist have 2 in all");
  EXPECT_EQ(Why("other"), "no connected worker offers data set cifar100 with the job's digest");
}

TEST_F(PlacementTest, AHostWhereItFailedIsUsedOnlyIfNothingElseCouldHoldIt) {
  Add(MakeWorker("a", 2));
  Add(MakeWorker("b", 1));
  StageRequest stage = MakeStage("j", 1);
  stage.avoid_hosts = {"host-b"};
  Add(stage);
  EXPECT_EQ(Decide(), Texts{"j: a/0"});
  stage = MakeStage("k", 2);
  stage.avoid_hosts = {"host-b"};
  Add(stage);
  EXPECT_EQ(Decide(), Texts{}) << "it waits for a, which could hold it";
  stage = MakeStage("l", 2);
  stage.avoid_hosts = {"host-a"};
  ASSERT_TRUE(scheduler_.RemoveStage("k").ok());
  Add(stage);
  EXPECT_EQ(Decide(), Texts{"l: a/1 b/0"});
}

TEST_F(PlacementTest, CordonedAndUnavailableWorkersGetNothingNew) {
  WorkerInfo cordoned = MakeWorker("a", 2), gone = MakeWorker("b", 2);
  cordoned.state = WorkerState::kCordoned;
  gone.state = WorkerState::kUnavailable;
  Add(gone);
  Add(MakeStage("j", 1));
  EXPECT_EQ(Decide(), Texts{});
  EXPECT_EQ(Why("j"), "waits for 1 slot; no worker is connected");
  Add(cordoned);
  EXPECT_EQ(Decide(), Texts{});
  EXPECT_EQ(Why("j"), "waits for 1 slot; every connected worker is cordoned");
}

TEST_F(PlacementTest, BusySlotsAreNotGiven) {
  WorkerInfo worker = MakeWorker("a", 3);
  worker.busy = {0, 2};
  Add(worker);
  Add(MakeStage("j", 1));
  EXPECT_EQ(Decide(), Texts{"j: a/1"});
}

TEST_F(PlacementTest, ASplitPairHasEachRankBesideItsCounterpart) {
  Add(MakeWorker("a", 3));
  Add(MakeWorker("b", 3));
  StageRequest pair = MakeStage("j", 4);
  pair.layout = GangLayout::kSplitPair;
  Add(pair);
  // Ranks 0 and 1 are one set; 2 and 3, the other, lie beside them.
  EXPECT_EQ(Decide(), Texts{"j: a/0 b/0 a/1 b/1"});
}

TEST_F(PlacementTest, ASplitPairOnOneHostIfItFits) {
  Add(MakeWorker("a", 2));
  Add(MakeWorker("b", 4));
  Add(MakeWorker("c", 2));
  StageRequest pair = MakeStage("j", 4);
  pair.layout = GangLayout::kSplitPair;
  Add(pair);
  EXPECT_EQ(Decide(), Texts{"j: b/0 b/2 b/1 b/3"});
}

TEST_F(PlacementTest, AGangThatStaysOnOneHostIsNotSpread) {
  Add(MakeWorker("a", 0, 2));
  Add(MakeWorker("b", 0, 4));
  Add(MakeStage("first", 3), 3600);
  Decide();
  StageRequest stage = MakeStage("j", 3);
  stage.one_host = true;
  Add(stage);
  EXPECT_EQ(Decide(60), Texts{});
  EXPECT_EQ(Why("j", 60), "waits for 3 GPUs on one host; best host has 2 free until about 01:00");
  stage.key = "k";
  stage.name = "k";
  stage.waiters[0].job_id = "k";
  stage.min_ranks = stage.max_ranks = 5;
  Add(stage);
  EXPECT_EQ(Why("k", 60), "waits for 5 slots on one host; the largest host has 0 in all");
}

TEST_F(PlacementTest, AnElasticGangStartsWithWhatFitsAndShardsDivide) {
  Add(MakeWorker("a", 7));
  StageRequest stage = MakeStage("j", 1);
  stage.max_ranks = 8;
  stage.shards = 8;
  Add(stage);
  EXPECT_EQ(Decide(), Texts{"j: a/0 a/1 a/2 a/3"});
}

}  // namespace
}  // namespace bitstair::server::scheduling
