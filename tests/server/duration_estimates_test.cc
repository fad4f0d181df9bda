#include "server/duration_estimates.h"

#include <gtest/gtest.h>

namespace bitstair::server {
namespace {

Stage StageOf(int weight_bits, int epochs, const std::string& profile = "cpu") {
  Stage stage;
  stage.record.mutable_spec()->set_network("resnet20");
  stage.record.mutable_spec()->set_weight_bits(weight_bits);
  stage.record.mutable_spec()->set_epochs(epochs);
  stage.record.set_numeric_profile(profile);
  return stage;
}

TEST(DurationEstimatesTest, NothingIsKnownOfWhatWasNeverMeasured) {
  DurationEstimates estimates;
  estimates.Learn(StageOf(4, 10), 20);
  EXPECT_FALSE(estimates.SecondsLeft(StageOf(2, 10)).has_value());
  EXPECT_FALSE(estimates.Seconds(StageOf(2, 10).record.spec()).has_value());
}

TEST(DurationEstimatesTest, WhatIsLeftGoesFromTheNewestCheckpoint) {
  DurationEstimates estimates;
  estimates.Learn(StageOf(4, 10), 19);
  estimates.Learn(StageOf(4, 3), 20);  // newer
  Stage stage = StageOf(4, 10);
  EXPECT_EQ(*estimates.SecondsLeft(stage), 200);
  stage.record.mutable_checkpoint()->set_epoch(7);
  EXPECT_EQ(*estimates.SecondsLeft(stage), 60);
  EXPECT_EQ(*estimates.Seconds(stage.record.spec()), 200) << "of a plan: whole";
}

TEST(DurationEstimatesTest, TheSameNumericProfileCountsFirst) {
  DurationEstimates estimates;
  estimates.Learn(StageOf(4, 1, "cpu"), 20);
  estimates.Learn(StageOf(4, 1, "cuda"), 2);
  EXPECT_EQ(*estimates.SecondsLeft(StageOf(4, 1, "cpu")), 20);
  EXPECT_EQ(*estimates.SecondsLeft(StageOf(4, 1, "cuda")), 2);
  EXPECT_EQ(*estimates.SecondsLeft(StageOf(4, 1, "")), 2) << "not started: the newest";
}

TEST(DurationEstimatesTest, AnElasticStageCountsWithTheRanksThatItHas) {
  const auto elastic = [](int ranks) {
    Stage stage = StageOf(4, 10);
    v1::StageSpec& spec = *stage.record.mutable_spec();
    spec.set_reduction(v1::REDUCTION_FIXED_SHARDS);
    spec.set_shards(8);
    spec.set_min_ranks(1);
    spec.set_ranks(8);
    if (ranks == 0) return stage;
    stage.attempt.emplace().ranks.resize(static_cast<size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) stage.record.add_ranks();
    return stage;
  };
  DurationEstimates estimates;
  estimates.Learn(elastic(2), 12);
  EXPECT_EQ(*estimates.SecondsLeft(elastic(2)), 120);
  EXPECT_EQ(*estimates.SecondsLeft(elastic(4)), 60) << "scaled";
  EXPECT_EQ(*estimates.SecondsLeft(elastic(0)), 240) << "waits: with the fewest";
  estimates.Learn(elastic(4), 7);
  EXPECT_EQ(*estimates.SecondsLeft(elastic(2)), 120);
  EXPECT_EQ(*estimates.SecondsLeft(elastic(4)), 70) << "measured";
  EXPECT_EQ(*estimates.SecondsLeft(elastic(8)), 35) << "scaled from the nearest";
  EXPECT_EQ(*estimates.Seconds(elastic(0).record.spec()), 240);
  EXPECT_FALSE(estimates.SecondsLeft(StageOf(4, 10)).has_value()) << "without fixed shards it is another kind";
}

TEST(DurationEstimatesTest, ImpossibleTimesAreNotLearnt) {
  DurationEstimates estimates;
  estimates.Learn(StageOf(4, 1), 0);
  estimates.Learn(StageOf(4, 1), -3);
  EXPECT_FALSE(estimates.SecondsLeft(StageOf(4, 1)).has_value());
}

}  // namespace
}  // namespace bitstair::server
