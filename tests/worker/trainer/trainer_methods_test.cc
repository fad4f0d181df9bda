// Stages of several nets, of learned quantisers, with initial weights; what an epoch tells of its layers.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/safetensors.h"
#include "core/digest/sha256.h"
#include "tests/worker/trainer/trainer_gang.h"

namespace bitstair::trainer {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void ExpectSameLayers(const v1::EpochResult& have, const v1::EpochResult& want) {
  ASSERT_EQ(have.layers_size(), want.layers_size());
  EXPECT_GT(have.layers_size(), 0);
  for (int i = 0; i < want.layers_size(); ++i)
    EXPECT_EQ(have.layers(i).SerializeAsString(), want.layers(i).SerializeAsString()) << want.layers(i).ShortDebugString();
}

TEST_F(TrainerTest, LearnedStepsStartFromTheWeightsAndCarryOver) {
  v1::StartTrainer start = Start(1, 4, 4);
  start.mutable_spec()->set_quantizer("lsq");
  start.mutable_spec()->set_epochs(1);
  start.mutable_spec()->set_parent("W32A32");
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  start.mutable_spec()->set_learning_rate(1e-9);  // so that the steps can be told
  start.mutable_spec()->set_weight_decay(0);
  start.set_parent_path(FullPrecisionParent(1));
  const std::string four = Final(Run(start)).path();
  const auto scalar = [](const core::Checkpoint& checkpoint, const std::string& name) { return checkpoint.tensors.at(name).item<double>(); };
  const core::Checkpoint at_four = Load(four);
  EXPECT_NEAR(scalar(at_four, "conv2.weight_step"), 2 * at_four.tensors.at("conv2.weight").abs().mean().item<double>() / std::sqrt(7), 1e-6);
  EXPECT_NEAR(scalar(at_four, "relu2.step"), 1.0 / 15, 1e-6) << "the calibration makes ranges [0, 1]";

  v1::StartTrainer next = Start(1, 2, 2);
  *next.mutable_spec() = start.spec();
  next.mutable_spec()->set_name("W2A2");
  next.mutable_spec()->set_weight_bits(2);
  next.mutable_spec()->set_activation_bits(2);
  next.mutable_spec()->set_parent("W4A4");
  next.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_NONE);
  next.mutable_spec()->set_carry_momentum(true);
  next.set_parent_path(four);
  const core::Checkpoint at_two = Load(Final(Run(next)).path());
  EXPECT_NEAR(scalar(at_two, "conv2.weight_step"), scalar(at_four, "conv2.weight_step") * std::sqrt(7), 1e-5);
  EXPECT_NEAR(scalar(at_two, "relu2.step"), scalar(at_four, "relu2.step") * std::sqrt(5), 1e-5);
}

// From full precision to 4 and to 2 bits on two ranks, of which one is killed and the stage goes on; and from a file.
TEST_F(TrainerTest, TheLogitsScaleStartsFromTheWeightsCarriesOverAndResumesBitForBit) {
  const auto stage = [&](int bits, const std::string& parent, double learning_rate) {
    v1::StartTrainer start = Start(2, bits, bits);
    start.mutable_spec()->set_quantize_first_last(true);
    start.mutable_spec()->set_parent("parent");
    start.mutable_spec()->set_learning_rate(learning_rate);
    start.mutable_spec()->set_numerics(v1::NUMERICS_FAST);
    start.set_parent_path(parent);
    return start;
  };
  constexpr double kStill = 1e-9;  // so that what a stage starts with can be told from what it ends with
  const auto scale_of = [](const core::Checkpoint& checkpoint) { return checkpoint.tensors.at("logit_scale").item<double>(); };
  v1::StartTrainer start = stage(4, FullPrecisionParent(2), kStill);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const core::Checkpoint still = Load(Final(Run(start)).path());
  const at::Tensor w = still.tensors.at("fc2.weight").to(at::kDouble), t = w.tanh();
  const at::Tensor w_q = 2 * (15 * (t / (2 * t.abs().max()) + 0.5)).round() / 15 - 1;
  EXPECT_NEAR(scale_of(still), (w * w_q).sum().item<double>() / w_q.square().sum().item<double>(), 1e-6);

  start.mutable_spec()->set_learning_rate(0.02);
  const v1::TrainerCheckpoint four = Final(Run(start));
  const core::Checkpoint at_four = Load(four.path());
  EXPECT_GT(std::abs(scale_of(at_four) - scale_of(still)), 1e-3) << "it is learned";
  EXPECT_NEAR(scale_of(Load(Final(Run(stage(2, four.path(), kStill))).path())), scale_of(at_four), 1e-6);

  start = stage(2, four.path(), 0.02);
  start.mutable_spec()->set_carry_momentum(true);
  const Outcome undisturbed = Run(start);
  const v1::TrainerCheckpoint want = Final(undisturbed);
  EXPECT_EQ(LastDigest(undisturbed.logs[0]), LastDigest(undisturbed.logs[1]));
  EXPECT_GT(undisturbed.epochs.back().test_top1(), 30);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const Outcome broken = Run(start, nullptr, "W2A2:1:9:1");
  EXPECT_EQ(broken.exits[1], -SIGKILL);
  ASSERT_FALSE(broken.checkpoints.empty()) << Problems(broken);
  start.set_resume_path(broken.checkpoints.back().path());
  start.mutable_attempt()->set_generation(2);
  EXPECT_EQ(Final(Run(start, nullptr, "W2A2:1:9:1")).checkpoint().sha256(), want.checkpoint().sha256());
  EXPECT_TRUE(Load(want.path()).tensors.contains("momentum/logit_scale"));

  start = stage(2, "", kStill);
  start.mutable_spec()->clear_parent();
  start.mutable_spec()->mutable_initial_weights()->set_path(four.path());
  start.mutable_spec()->set_initial_weights_digest(four.checkpoint().sha256());
  start.set_weights_path(four.path());
  EXPECT_NEAR(scale_of(Load(Final(Run(start)).path())), scale_of(at_four), 1e-6);
  // A full-precision net beside it has no place for the scale.
  *start.mutable_spec()->mutable_guided() = GuidedStart(2, 2, 2, "").spec().guided();
  EXPECT_THAT(Run(start).results[0].message(), HasSubstr("unexpected: logit_scale"));
}

TEST_F(TrainerTest, InitialWeightsStartAStageAsAFullPrecisionParentDoes) {
  const std::string parent = FullPrecisionParent(1);
  v1::StartTrainer start = GuidedStart(1, 4, 4, parent);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const Outcome from_parent = Run(start);
  start.mutable_spec()->clear_parent();
  start.clear_parent_path();
  start.set_weights_path(parent);
  start.mutable_spec()->mutable_initial_weights()->set_path(parent);
  start.mutable_spec()->set_initial_weights_digest(core::Sha256OfFile(parent)->sha256);
  EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), Final(from_parent).checkpoint().sha256()) << "our own checkpoint, both nets of the pair";

  // As another program would write them: the names of a wrapped network, statistics in float32, counters.
  core::SafetensorsFile foreign;
  for (const auto& [name, tensor] : Load(parent).tensors) {
    if (name.find('/') == std::string::npos) foreign.tensors.emplace("module." + name, tensor.to(at::kFloat));
  }
  foreign.tensors.emplace("module.bn1.num_batches_tracked", at::full({}, 7, at::kLong));
  const auto write = [&] {
    const std::string bytes = *core::EncodeSafetensors(foreign);
    std::ofstream(folder_ + "/foreign", std::ios::binary) << bytes;
    start.set_weights_path(folder_ + "/foreign");
    start.mutable_spec()->set_initial_weights_digest(core::Sha256Hex(bytes));
  };
  write();
  const core::Checkpoint ours = Load(Final(from_parent).path()), theirs = Load(Final(Run(start)).path());
  const at::Tensor weight = theirs.tensors.at("conv2.weight");
  EXPECT_TRUE(weight.allclose(ours.tensors.at("conv2.weight"), 1e-3, 1e-4)) << "only the statistics' rounding tells them apart";

  const auto refused = [&](const std::string& message) {
    write();
    const Outcome outcome = Run(start);
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA) << "no other try would help";
    EXPECT_THAT(outcome.results[0].message(), AllOf(HasSubstr("initial weights " + folder_ + "/foreign: "), HasSubstr(message)));
    EXPECT_TRUE(outcome.epochs.empty());
  };
  const at::Tensor kept = foreign.tensors.at("module.fc1.weight");
  foreign.tensors["module.fc1.weight"] = at::zeros({1, 2}, at::kFloat);
  refused("fc1.weight has shape [1, 2] instead of [");
  foreign.tensors.erase("module.fc1.weight");
  foreign.tensors["module.other"] = kept;
  refused("missing: fc1.weight; unexpected: other");
  start.mutable_spec()->mutable_initial_weights()->set_allow_missing(true);
  start.mutable_spec()->mutable_initial_weights()->set_allow_unexpected(true);
  const Outcome allowed = Run(start);
  Final(allowed);
  EXPECT_THAT(allowed.logs[0], AllOf(HasSubstr("missing, kept from the seed: fc1.weight"), HasSubstr("unexpected, passed over: other")));

  start.mutable_spec()->set_initial_weights_digest(core::Sha256Hex("another file"));
  EXPECT_THAT(Run(start).results[0].message(), HasSubstr("has changed: its SHA-256 is"));
  // A quantised checkpoint of our own clips already.
  start.set_weights_path(Final(from_parent).path());
  start.mutable_spec()->set_initial_weights_digest(Final(from_parent).checkpoint().sha256());
  EXPECT_THAT(Run(start).results[0].message(), HasSubstr("set pretrain_activation: clip"));
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_NONE);
  Final(Run(start));
}

// Full precision, then two pair stages, the second of which finds both nets in the first's checkpoint, is killed at a step and goes on.
TEST_F(TrainerTest, AChainOfGuidedPairsResumesBitForBit) {
  const std::string full = FullPrecisionParent(2);
  for (const v1::TeacherStart teacher : {v1::TEACHER_START_CARRY, v1::TEACHER_START_RESET}) {
    SCOPED_TRACE(v1::TeacherStart_Name(teacher));
    v1::StartTrainer start = GuidedStart(2, 4, 32, full);
    start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
    start.mutable_spec()->mutable_guided()->set_teacher(teacher);
    const v1::TrainerCheckpoint first = Final(Run(start));

    start = GuidedStart(2, 4, 4, first.path());
    start.mutable_spec()->set_carry_momentum(true);
    start.mutable_spec()->mutable_guided()->set_teacher(teacher);
    const Outcome undisturbed = Run(start);
    const v1::TrainerCheckpoint want = Final(undisturbed);
    EXPECT_EQ(LastDigest(undisturbed.logs[0]), LastDigest(undisturbed.logs[1]));
    EXPECT_GT(undisturbed.epochs.back().test_top1(), 30);
    EXPECT_GT(undisturbed.epochs.back().teacher().test_top1(), 30);
    EXPECT_GT(undisturbed.epochs.back().teacher().hint(), 0);
    EXPECT_GT(undisturbed.epochs.back().teacher().train_loss(), 0);

    start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
    const Outcome broken = Run(start, nullptr, "W4A4:1:9:1");
    EXPECT_EQ(broken.exits[1], -SIGKILL);
    // NCCL waits for a lost peer until the worker ends the gang.
    if (Gpus() == 0) {
      EXPECT_EQ(broken.results[0].cause(), v1::EXIT_CAUSE_PEER_LOST) << Problems(broken);
    }
    EXPECT_EQ(broken.checkpoints.back().checkpoint().step(), 2);
    start.set_resume_path(broken.checkpoints.back().path());
    start.mutable_attempt()->set_generation(2);
    const Outcome resumed = Run(start, nullptr, "W4A4:1:9:1");
    EXPECT_EQ(Final(resumed).checkpoint().sha256(), want.checkpoint().sha256());
    // Also what is reported of the epoch that was cut in two.
    EXPECT_EQ(resumed.epochs.back().teacher().SerializeAsString(), undisturbed.epochs.back().teacher().SerializeAsString());
    ExpectSameLayers(resumed.epochs.back(), undisturbed.epochs.back());
    const at::Tensor sums = Load(broken.checkpoints.back().path()).tensors.at("rank1/telemetry");
    EXPECT_EQ(sums[0].item<double>(), 2) << "steps of the epoch";
    EXPECT_EQ(sums[1].item<double>(), 1) << "steps with norms";
    EXPECT_EQ(sums[2].item<double>(), 2 * (kBatch / 2) * 16 * 28 * 28) << "what relu1 has been given";
    EXPECT_LT(sums[3].item<double>(), sums[2].item<double>());
    EXPECT_FALSE(Load(want.path()).tensors.contains("rank1/telemetry")) << "not at an epoch's end";

    const core::Checkpoint before = Load(first.path()), after = Load(want.path());
    for (const char* name : {"full/conv2.weight", "full/momentum/conv2.weight", "full/rank1/bn1.running_mean", "full/bn1.running_mean"}) {
      ASSERT_TRUE(after.tensors.contains(name)) << name;
      EXPECT_FALSE(after.tensors.at(name).equal(before.tensors.at(name))) << name;
    }
    EXPECT_EQ(after.tensors.contains("full/start/conv2.weight"), teacher == v1::TEACHER_START_RESET);
    if (teacher != v1::TEACHER_START_RESET) continue;
    for (const char* name : {"full/start/conv2.weight", "full/start/bn1.weight", "full/start/bn1.running_mean"}) {
      EXPECT_TRUE(after.tensors.at(name).equal(before.tensors.at(name))) << name;
    }
  }
}

// A teacher and two students, and layers that are quantised by chance, through two stages and a killed rank.
TEST_F(TrainerTest, AChainOfDistillationsWithStochasticPrecisionResumesBitForBit) {
  const auto distilling = [&](int activation_bits, const std::string& parent) {
    v1::StartTrainer start = GuidedStart(2, 4, activation_bits, parent);
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
  };
  v1::StartTrainer start = distilling(32, FullPrecisionParent(2));
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const v1::TrainerCheckpoint first = Final(Run(start));

  start = distilling(4, first.path());
  start.mutable_spec()->set_carry_momentum(true);
  const Outcome undisturbed = Run(start);
  const v1::TrainerCheckpoint want = Final(undisturbed);
  ASSERT_FALSE(undisturbed.epochs.empty()) << Problems(undisturbed);
  EXPECT_EQ(LastDigest(undisturbed.logs[0]), LastDigest(undisturbed.logs[1]));
  const v1::EpochResult& last = undisturbed.epochs.back();
  EXPECT_GT(last.test_top1(), 30);
  EXPECT_GT(last.teacher().test_top1(), 30);
  EXPECT_GT(last.teacher().divergence(), 0);
  ASSERT_EQ(last.students_size(), 1);
  EXPECT_EQ(last.students(0).name(), "W2A2");
  EXPECT_GT(last.students(0).test_top1(), 15);
  EXPECT_GT(last.students(0).train_loss(), 0);

  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const Outcome broken = Run(start, nullptr, "W4A4:1:9:1");
  EXPECT_EQ(broken.exits[1], -SIGKILL);
  ASSERT_FALSE(broken.checkpoints.empty()) << Problems(broken);
  start.set_resume_path(broken.checkpoints.back().path());
  start.mutable_attempt()->set_generation(2);
  const Outcome resumed = Run(start, nullptr, "W4A4:1:9:1");
  EXPECT_EQ(Final(resumed).checkpoint().sha256(), want.checkpoint().sha256());
  EXPECT_EQ(resumed.epochs.back().teacher().SerializeAsString(), last.teacher().SerializeAsString());
  EXPECT_EQ(resumed.epochs.back().students(0).SerializeAsString(), last.students(0).SerializeAsString());
  ExpectSameLayers(resumed.epochs.back(), last);
  const core::Checkpoint before = Load(first.path()), after = Load(want.path());
  for (const char* name : {"full/conv2.weight", "student2/conv2.weight", "student2/momentum/conv2.weight", "student2/bn1.running_mean"}) {
    ASSERT_TRUE(after.tensors.contains(name)) << name;
    EXPECT_FALSE(after.tensors.at(name).equal(before.tensors.at(name))) << name;
  }
}

// Every layer is quantised at every step where the share begins at 1: the same weights as without; only the statistics are estimated anew.
TEST_F(TrainerTest, StochasticPrecisionWithAFullShareTrainsTheSameWeights) {
  v1::StartTrainer start = Start(1);
  const Outcome plain = Run(start);
  start.mutable_spec()->mutable_stochastic_precision()->set_start_share(1);
  start.mutable_spec()->mutable_stochastic_precision()->set_full_share_at(1);
  const Outcome full = Run(start);
  start.mutable_spec()->mutable_stochastic_precision()->set_start_share(0);
  const Outcome other = Run(start);
  const core::Checkpoint want = Load(Final(plain).path()), have = Load(Final(full).path()), changed = Load(Final(other).path());
  for (const char* name : {"conv1.weight", "conv2.weight", "fc1.weight", "bn3.weight", "fc2.bias"}) {
    EXPECT_TRUE(have.tensors.at(name).equal(want.tensors.at(name))) << name;
    EXPECT_FALSE(changed.tensors.at(name).equal(want.tensors.at(name))) << name;
  }
  EXPECT_FALSE(have.tensors.at("bn1.running_mean").equal(want.tensors.at("bn1.running_mean")));
}

// What is told of the layers does not depend on the numerics where it follows from codes, nor on the number of ranks where it is a sum.
TEST_F(TrainerTest, AnEpochTellsOfItsLayers) {
  const std::string full = FullPrecisionParent(2);
  v1::StartTrainer start = GuidedStart(2, 4, 4, full);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const Outcome outcome = Run(start);
  ASSERT_EQ(outcome.epochs.size(), 2U) << Problems(outcome);
  for (const v1::EpochResult& epoch : outcome.epochs) {
    int clips = 0, levels = 0, gradients = 0, hints = 0, of_full = 0;
    double hint = 0;
    for (const v1::LayerTelemetry& layer : epoch.layers()) {
      SCOPED_TRACE(layer.ShortDebugString());
      of_full += layer.net() == "full" ? 1 : 0;
      if (layer.has_clipped_share()) {
        ++clips;
        EXPECT_GE(layer.clipped_share(), 0);
        EXPECT_LT(layer.clipped_share(), 1);
      }
      if (layer.levels_size() > 0) {
        ++levels;
        ASSERT_EQ(layer.levels_size(), layer.level_shares_size());
        EXPECT_LE(layer.levels_size(), 16);
        float sum = 0;
        for (const float share : layer.level_shares()) sum += share;
        EXPECT_NEAR(sum, 1, 1e-5);
        for (const int code : layer.levels()) EXPECT_TRUE(code % 2 != 0 && code >= -15 && code <= 15) << code;
      }
      if (layer.has_gradient_norm()) {
        ++gradients;
        EXPECT_GT(layer.gradient_norm(), 0);
      }
      if (layer.has_hint_distance()) {
        ++hints;
        EXPECT_EQ(layer.net(), "");
        EXPECT_GT(layer.hint_distance(), 0);
        hint += layer.hint_distance();
      }
    }
    EXPECT_EQ(clips, 8) << "four activations of each net";
    EXPECT_EQ(levels, 3);
    EXPECT_EQ(gradients, 10) << "five layers of each net";
    EXPECT_EQ(hints, 2);
    EXPECT_NEAR(hint, epoch.teacher().hint(), 1e-9 * hint) << "over all steps, as R is";
    EXPECT_EQ(of_full, 9);
  }
}

// With lambda 0 the pair's low-precision net is the net alone, bit for bit, on two ranks too.
TEST_F(TrainerTest, AGuidedPairWithoutAHintTrainsTheNetAlone) {
  const std::string full = FullPrecisionParent(2);
  v1::StartTrainer start = GuidedStart(2, 4, 4, full);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  start.mutable_spec()->mutable_guided()->set_lambda(0);
  const Outcome pair = Run(start);
  start.mutable_spec()->clear_guided();
  const Outcome alone = Run(start);
  const core::Checkpoint with = Load(Final(pair).path()), without = Load(Final(alone).path());
  for (const auto& [name, tensor] : without.tensors) EXPECT_TRUE(with.tensors.at(name).equal(tensor)) << name;
  EXPECT_EQ(pair.epochs.back().test_loss(), alone.epochs.back().test_loss());
  EXPECT_FALSE(alone.epochs.back().has_teacher());
  EXPECT_GT(pair.all_reduce_bytes, alone.all_reduce_bytes) << "the full-precision net's gradients travel, too";
}

TEST_F(TrainerTest, AGuidedPairThatCannotBeIsRefused) {
  const std::string full = FullPrecisionParent(1);
  v1::StartTrainer start = GuidedStart(1, 4, 4, full);
  start.mutable_spec()->mutable_guided()->add_hint_points("layer3");
  Outcome outcome = Run(start);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("network convnet28 has no hint point \"layer3\"; known: conv1, conv2, conv3, fc1, logits"));

  // A parent of few bits that is no pair has no full-precision net.
  v1::StartTrainer parent = Start(1);
  const std::string low = Final(Run(parent)).path();
  outcome = Run(GuidedStart(1, 2, 2, low));
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("the parent W4A4 is neither a full-precision stage nor one with a full-precision net beside it"));
}

TEST_F(TrainerTest, ALossOfAPairThatIsNotFiniteNamesTheNet) {
  v1::StartTrainer start = GuidedStart(2, 4, 4, FullPrecisionParent(2));
  start.mutable_spec()->mutable_guided()->set_teacher_learning_rate_factor(1e32);
  const Outcome outcome = Run(start);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(outcome.results[rank].cause(), v1::EXIT_CAUSE_FAILED) << Problems(outcome);
    EXPECT_THAT(outcome.results[rank].message(), AllOf(HasSubstr("stage W4A4 epoch 1 step "), HasSubstr("full-precision net: ")));
  }
}

}  // namespace
}  // namespace bitstair::trainer
