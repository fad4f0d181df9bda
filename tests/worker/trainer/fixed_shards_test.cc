// Stages whose gradients are summed over fixed shards (docs/elastic.md): the same bits on any number of ranks.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/worker/trainer/trainer_gang.h"

namespace bitstair::trainer {
namespace {

using ::testing::HasSubstr;

constexpr int kShards = 4;

class FixedShardsTest : public TrainerTest {
 protected:
  // The same stage for another gang.
  static v1::StartTrainer OnRanks(v1::StartTrainer start, int ranks, int shards = kShards) {
    v1::StageSpec& spec = *start.mutable_spec();
    spec.set_reduction(v1::REDUCTION_FIXED_SHARDS);
    spec.set_shards(shards);
    spec.set_min_ranks(1);
    spec.set_ranks(shards);
    start.set_world_size(ranks);
    return start;
  }

  // Every checkpoint, also within an epoch, and every report are those of one rank.
  void ExpectSameOn(const std::vector<int>& gangs, v1::StartTrainer start, int shards = kShards) {
    start.mutable_spec()->mutable_checkpoint()->set_every_steps(4);
    const Outcome one = Run(OnRanks(start, 1, shards));
    Final(one);
    ASSERT_EQ(one.epochs.size(), 2U);
    for (const int ranks : gangs) {
      SCOPED_TRACE(absl::StrCat(ranks, " ranks"));
      const Outcome outcome = Run(OnRanks(start, ranks, shards));
      Final(outcome);
      EXPECT_EQ(LastDigest(outcome.logs.back()), LastDigest(one.logs[0])) << "parameters";
      EXPECT_EQ(Digests(outcome), Digests(one));
      EXPECT_EQ(Reported(outcome), Reported(one));
      EXPECT_GT(outcome.all_reduce_bytes, 0);
    }
  }

  v1::StartTrainer Distilling(const std::string& parent) {
    v1::StartTrainer start = GuidedStart(1, 4, 4, parent);
    start.mutable_spec()->clear_guided();
    v1::DistillationSpec& options = *start.mutable_spec()->mutable_distillation();
    options.set_temperature(2);
    options.set_student_weight(0.5);
    options.set_teacher_weight(0.5);
    options.set_teacher_learning_rate_factor(0.2);
    options.set_teacher(v1::TEACHER_START_CARRY);
    options.add_students(2);
    start.mutable_spec()->mutable_stochastic_precision()->set_start_share(0.5);
    start.mutable_spec()->mutable_stochastic_precision()->set_full_share_at(0.8);
    return start;
  }
};

class FixedShardsNumericsTest : public FixedShardsTest, public ::testing::WithParamInterface<v1::Numerics> {};

TEST_P(FixedShardsNumericsTest, OneTwoAndFourRanksTrainTheSameBits) {
  const auto with_numerics = [](v1::StartTrainer start) {
    start.mutable_spec()->set_numerics(GetParam());
    return start;
  };
  {
    SCOPED_TRACE("full precision");
    v1::StartTrainer start = with_numerics(Start(1, 32, 32));
    start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU);
    ExpectSameOn({2, 4}, start);
  }
  {
    SCOPED_TRACE("low precision");
    ExpectSameOn({2, 4}, with_numerics(Start(1)));
  }
  const std::string parent = FullPrecisionParent(1);
  {
    SCOPED_TRACE("guided");
    v1::StartTrainer start = with_numerics(GuidedStart(1, 4, 4, parent));
    start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
    ExpectSameOn({2, 4}, start);
  }
  {
    SCOPED_TRACE("distillation with stochastic precision");
    ExpectSameOn({2}, with_numerics(Distilling(parent)));
  }
}
INSTANTIATE_TEST_SUITE_P(Numerics, FixedShardsNumericsTest, ::testing::Values(v1::NUMERICS_REFERENCE, v1::NUMERICS_FAST, v1::NUMERICS_FAST8),
                         [](const auto& info) { return v1::Numerics_Name(info.param); });

// Of three ranks with two of six shards each the middle one has no whole subtree.
TEST_F(FixedShardsTest, ShardsNeedBeNoPowerOfTwo) {
  v1::StartTrainer start = Start(1);
  start.mutable_spec()->set_batch_size(48);
  ExpectSameOn({3}, start, 6);
}

TEST_F(FixedShardsTest, ShardsAreNotRanks) {
  const core::Checkpoint sharded = Load(Final(Run(OnRanks(Start(1), 1))).path()), whole = Load(Final(Run(Start(1))).path());
  EXPECT_EQ(sharded.shards, kShards);
  EXPECT_FALSE(sharded.tensors.at("conv1.weight").equal(whole.tensors.at("conv1.weight"))) << "batch statistics of eight images, not of 32";
  EXPECT_TRUE(sharded.tensors.contains("shard3/bn1.running_mean"));
  EXPECT_FALSE(sharded.tensors.contains("rank0/bn1.running_mean"));
}

// Each direction: stopped within an epoch on so many ranks, and resumed on others.
TEST_F(FixedShardsTest, AStageGoesOnWithMoreOrFewerRanksBitForBit) {
  v1::StartTrainer start = GuidedStart(1, 4, 4, FullPrecisionParent(1));
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const Outcome undisturbed = Run(OnRanks(start, 2));
  const std::string want = Final(undisturbed).checkpoint().sha256();
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const std::vector<std::pair<int, int>> changes{{1, 2}, {2, 1}, {1, 4}, {4, 2}};
  for (const auto& [before, after] : changes) {
    SCOPED_TRACE(absl::StrCat("from ", before, " to ", after, " ranks"));
    const Outcome stopped = Run(OnRanks(start, before), [](Gang& gang, const v1::FromTrainer& message) {
      v1::ToTrainer stop;
      stop.mutable_stop();
      if (message.has_checkpoint() && message.checkpoint().checkpoint().step() == 2) gang.back()->Send(stop);
    });
    EXPECT_EQ(stopped.results[0].cause(), v1::EXIT_CAUSE_STOPPED) << Problems(stopped);
    ASSERT_FALSE(stopped.checkpoints.empty());
    const v1::TrainerCheckpoint last = stopped.checkpoints.back();
    EXPECT_FALSE(last.checkpoint().final());
    EXPECT_GT(last.checkpoint().step(), 2);

    v1::StartTrainer resumed_start = OnRanks(start, after);
    resumed_start.set_resume_path(last.path());
    resumed_start.mutable_attempt()->set_generation(2);
    const Outcome resumed = Run(resumed_start);
    EXPECT_EQ(Final(resumed).checkpoint().sha256(), want);
    const std::vector<std::string> reported = Reported(resumed), all = Reported(undisturbed);
    ASSERT_FALSE(reported.empty());
    EXPECT_EQ(reported, std::vector<std::string>(all.end() - static_cast<ptrdiff_t>(reported.size()), all.end())) << "also of the epoch that was cut in two";
  }
}

TEST_F(FixedShardsTest, ACheckpointOfOtherShardsIsRefused) {
  v1::StartTrainer start = Start(1);
  const std::string four = Final(Run(OnRanks(start, 1))).path(), ranks = Final(Run(start)).path();
  const auto refusal = [&](v1::StartTrainer resumed, const std::string& path) {
    resumed.set_resume_path(path);
    const Outcome outcome = Run(resumed);
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT) << Problems(outcome);
    return outcome.results[0].message();
  };
  EXPECT_THAT(refusal(OnRanks(start, 1, 2), four), HasSubstr("the checkpoint is of 4 fixed shards, not 2 fixed shards"));
  EXPECT_THAT(refusal(start, four), HasSubstr("the checkpoint is of 4 fixed shards, not 1 ranks"));
  EXPECT_THAT(refusal(OnRanks(start, 1), ranks), HasSubstr("the checkpoint is of 1 ranks, not 4 fixed shards"));
}

TEST_F(FixedShardsTest, ALossThatIsNotFiniteEndsTheGangTogether) {
  v1::StartTrainer start = OnRanks(Start(1), 2);
  start.mutable_spec()->set_learning_rate(1e32);
  const Outcome outcome = Run(start);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(outcome.results[rank].cause(), v1::EXIT_CAUSE_FAILED) << Problems(outcome);
    EXPECT_THAT(outcome.results[rank].message(), HasSubstr("stage W4A4 epoch 1 step "));
  }
}

}  // namespace
}  // namespace bitstair::trainer
