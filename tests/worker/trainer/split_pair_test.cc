// Guided pairs whose nets are two sets of ranks (docs/guided.md): the same training as in one process each.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/worker/trainer/trainer_gang.h"

namespace bitstair::trainer {
namespace {

using ::testing::HasSubstr;

class SplitPairTest : public TrainerTest {
 protected:
  v1::StartTrainer Pair(int ranks, const std::string& parent, int activation_bits = 4) {
    v1::StartTrainer start = GuidedStart(ranks, 4, activation_bits, parent);
    start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
    return start;
  }
  static v1::StartTrainer Split(v1::StartTrainer start) {
    start.mutable_spec()->set_placement(v1::PAIR_PLACEMENT_SPLIT);
    start.set_world_size(2 * start.world_size());
    return start;
  }
};

// 54 steps of both nets, on one and on two ranks a set: the checkpoints are the same files, within an epoch too, and the reports the same numbers.
TEST_F(SplitPairTest, TrainsTheBitsOfAColocatedPair) {
  const std::string parent = FullPrecisionParent(1);
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(absl::StrCat(ranks, " ranks a set"));
    v1::StartTrainer start = Pair(ranks, parent);
    start.mutable_spec()->set_epochs(9);
    start.mutable_spec()->set_schedule_epochs(9);
    start.mutable_spec()->mutable_checkpoint()->set_every_steps(20);
    const Outcome colocated = Run(start), split = Run(Split(start));
    Final(colocated);
    Final(split);
    EXPECT_EQ(Digests(split), Digests(colocated));
    EXPECT_EQ(Reported(split), Reported(colocated));
    ASSERT_EQ(split.epochs.size(), 9U);
    EXPECT_GT(split.epochs.back().teacher().test_top1(), 30);
    EXPECT_GT(split.all_reduce_bytes, 0);
  }
}

TEST_F(SplitPairTest, OtherMethodsTrainTheSameBitsToo) {
  const std::string parent = FullPrecisionParent(1);
  const auto same = [&](const char* what, const std::function<void(v1::StageSpec&)>& change, int activation_bits = 4) {
    SCOPED_TRACE(what);
    v1::StartTrainer start = Pair(1, parent, activation_bits);
    change(*start.mutable_spec());
    const Outcome colocated = Run(start), split = Run(Split(start));
    EXPECT_EQ(Final(split).checkpoint().sha256(), Final(colocated).checkpoint().sha256());
    EXPECT_EQ(Reported(split), Reported(colocated));
  };
  same(
      "activations of 32 bits", [](v1::StageSpec&) {}, 32);
  same(
      "activations of 16 bits", [](v1::StageSpec&) {}, 16);
  same("fast, where codes are bytes", [](v1::StageSpec& spec) { spec.set_numerics(v1::NUMERICS_FAST); });
  for (const v1::Numerics numerics : {v1::NUMERICS_REFERENCE, v1::NUMERICS_FAST}) {
    same("logits beside codes", [&](v1::StageSpec& spec) {
      spec.set_numerics(numerics);
      for (const char* point : {"conv3", "logits"}) spec.mutable_guided()->add_hint_points(point);
    });
  }
  same("fixed shards", [](v1::StageSpec& spec) {
    spec.set_reduction(v1::REDUCTION_FIXED_SHARDS);
    spec.set_shards(4);
  });
  same("stochastic precision", [](v1::StageSpec& spec) {
    spec.mutable_stochastic_precision()->set_start_share(0.5);
    spec.mutable_stochastic_precision()->set_full_share_at(0.8);
  });
}

// With one rank a set nothing is reduced: rank 0 sends hint features alone.
TEST_F(SplitPairTest, FeaturesTravelAsPackedCodes) {
  const std::string parent = FullPrecisionParent(1);
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 32}) {
    v1::StartTrainer start = Pair(1, parent, bits);
    start.mutable_spec()->set_epochs(1);
    start.mutable_spec()->set_schedule_epochs(1);
    start.mutable_spec()->mutable_guided()->add_hint_points("conv2");
    start.mutable_spec()->mutable_guided()->add_hint_points("conv3");
    start.mutable_spec()->set_quantize_last_activation(true);
    const Outcome outcome = Run(Split(start));
    Final(outcome);
    int64_t each = 0;
    for (const int64_t count : {32 * 14 * 14, 64 * 7 * 7}) each += 16 + (kBatch * count * bits + 7) / 8;
    EXPECT_EQ(outcome.all_reduce_bytes, kSteps * each) << bits << " bits";
  }
}

TEST_F(SplitPairTest, KillingEitherSideEndsBothAndTheNextGenerationGoesOn) {
  v1::StartTrainer start = Split(Pair(1, FullPrecisionParent(1)));
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const std::string want = Final(Run(start)).checkpoint().sha256();
  for (const int victim : {0, 1}) {
    SCOPED_TRACE(absl::StrCat("rank ", victim));
    start.clear_resume_path();
    start.mutable_attempt()->set_generation(1);
    const Outcome broken = Run(start, nullptr, absl::StrCat("W4A4:", victim, ":9:1"));
    EXPECT_EQ(broken.exits[victim], -SIGKILL);
    EXPECT_EQ(broken.results[1 - victim].cause(), v1::EXIT_CAUSE_PEER_LOST) << Problems(broken);
    ASSERT_FALSE(broken.checkpoints.empty());
    EXPECT_EQ(broken.checkpoints.back().checkpoint().step(), 2);
    start.set_resume_path(broken.checkpoints.back().path());
    start.mutable_attempt()->set_generation(2);
    EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), want);
  }
}

// A checkpoint says nothing of the placement.
TEST_F(SplitPairTest, APairGoesOnColocated) {
  const v1::StartTrainer start = Pair(1, FullPrecisionParent(1));
  const Outcome undisturbed = Run(start);
  v1::StartTrainer resumed = start;
  const Outcome split = Run(Split(start));
  Final(split);
  resumed.set_resume_path(split.checkpoints.front().path());
  EXPECT_EQ(split.checkpoints.front().checkpoint().epoch(), 1);
  EXPECT_EQ(Final(Run(resumed)).checkpoint().sha256(), Final(undisturbed).checkpoint().sha256());
}

TEST_F(SplitPairTest, ALossThatIsNotFiniteEndsBothSets) {
  v1::StartTrainer start = Split(Pair(2, FullPrecisionParent(1)));
  start.mutable_spec()->mutable_guided()->set_teacher_learning_rate_factor(1e32);
  const Outcome outcome = Run(start);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(outcome.results[rank].cause(), v1::EXIT_CAUSE_FAILED) << Problems(outcome);
    EXPECT_THAT(outcome.results[rank].message(), HasSubstr("stage W4A4 epoch 1 step "));
  }
}

}  // namespace
}  // namespace bitstair::trainer
