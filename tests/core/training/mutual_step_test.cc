#include "core/training/mutual_step.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/nn/network_state.h"

namespace bitstair::core {
namespace {

NetworkConfig Config(int bits, Numerics numerics = Numerics::kReference) {
  NetworkConfig config;
  config.network = "convnet28";
  config.image_channels = 1;
  config.image_height = config.image_width = 28;
  config.channel_divisor = 4;
  config.classes = 4;
  config.weight_bits = config.activation_bits = bits;
  config.activation = ActivationFunction::kClip;
  config.numerics = numerics;
  config.seed = static_cast<uint64_t>(bits);
  return config;
}

struct Net {
  explicit Net(const NetworkConfig& config) : network(CreateNetwork(config).value()), sgd(network->parameters(), SgdOptions{}) {}
  PairMember member() { return {network.get(), &sgd, &gradients}; }
  std::unique_ptr<Network> network;
  Sgd sgd;
  LocalGradients gradients;
};

Batch RandomBatch() {
  return {at::randn({16, 1, 28, 28}), at::randint(4, {16}, at::kLong), 5};
}

std::string Refusal(std::vector<PairMember> students, PairMember teacher, const DistillationOptions& options = {}) {
  return std::string(MutualStep::Create(std::move(students), teacher, options).status().message());
}

TEST(MutualStepTest, AllNetsLearnInAnyNumericsAndComeCloserToEachOther) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast, Numerics::kFast8}) {
    at::manual_seed(2);
    Net teacher(Config(32, numerics)), first(Config(4, numerics)), second(Config(2, numerics));
    const auto step = MutualStep::Create({first.member(), second.member()}, teacher.member(), {});
    ASSERT_TRUE(step.ok()) << step.status();
    const Batch batch = RandomBatch();
    MutualStepResult begin, end;
    for (int i = 0; i < 30; ++i) {
      const absl::StatusOr<MutualStepResult> result = (*step)->Run(batch, 0.02, 0.02);
      ASSERT_TRUE(result.ok()) << result.status();
      (i == 0 ? begin : end) = *result;
    }
    ASSERT_EQ(end.students.size(), 2U);
    EXPECT_EQ(end.teacher.images, 16);
    EXPECT_LT(end.teacher.loss, begin.teacher.loss);
    for (size_t i = 0; i < 2; ++i) EXPECT_LT(end.students[i].loss, begin.students[i].loss);
    EXPECT_GE(end.divergence, 0);
    EXPECT_TRUE(std::isfinite(end.divergence));
  }
}

TEST(MutualStepTest, WeightsOfZeroTrainEachNetAsAlone) {
  for (const char* quantizer : {"dorefa", "lsq", "pact"}) {
    SCOPED_TRACE(quantizer);
    at::manual_seed(3);
    NetworkConfig full = Config(32), few = Config(3);
    full.quantizer = few.quantizer = quantizer;
    Net teacher(full), student(few), alone(few);
    const Batch batch = RandomBatch();
    const auto step = MutualStep::Create({student.member()}, teacher.member(), {.student_weight = 0, .teacher_weight = 0});
    ASSERT_TRUE(step.ok()) << step.status();
    TrainStep other(alone.network.get(), &alone.sgd, &alone.gradients);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE((*step)->Run(batch, 0.05, 0.01).ok());
      ASSERT_TRUE(other.Run(batch, 0.05).ok());
    }
    const auto expected = NetworkToTensors(*alone.network);
    for (const auto& [name, tensor] : NetworkToTensors(*student.network)) EXPECT_TRUE(at::equal(tensor, expected.at(name))) << name;
  }
}

// Predictions do not care how weights and activations were rounded, so every quantiser can be distilled.
TEST(MutualStepTest, LearnedScalarsLearnFromTheTeacherToo) {
  for (const char* quantizer : {"lsq", "pact"}) {
    SCOPED_TRACE(quantizer);
    for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
      at::manual_seed(4);
      NetworkConfig full = Config(32, numerics), few = Config(4, numerics);
      full.quantizer = few.quantizer = quantizer;
      Net teacher(full), student(few), alone(few);
      const Batch batch = RandomBatch();
      const auto step = MutualStep::Create({student.member()}, teacher.member(), {.student_weight = 50, .teacher_weight = 0});
      ASSERT_TRUE(step.ok()) << step.status();
      TrainStep other(alone.network.get(), &alone.sgd, &alone.gradients);
      MutualStepResult begin, end;
      for (int i = 0; i < 30; ++i) {
        const absl::StatusOr<MutualStepResult> result = (*step)->Run(batch, 0.002, 0);
        ASSERT_TRUE(result.ok()) << result.status();
        ASSERT_TRUE(other.Run(batch, 0.002).ok());
        (i == 0 ? begin : end) = *result;
      }
      EXPECT_LT(end.divergence, begin.divergence);
      int learned = 0;
      const auto without = NetworkToTensors(*alone.network);
      for (const Parameter& p : student.network->parameters()) {
        if (p.scalar == Scalar::kNone) continue;
        ++learned;
        EXPECT_GT(p.latent.item<double>(), 0) << p.name;
        EXPECT_NE(p.latent.item<double>(), without.at(p.name).item<double>()) << p.name;
      }
      EXPECT_GT(learned, 2);
    }
  }
}

TEST(MutualStepTest, AStepThatFailsNamesTheNetAndChangesNoWeight) {
  Net teacher(Config(32)), first(Config(4)), second(Config(2));
  const auto step = MutualStep::Create({first.member(), second.member()}, teacher.member(), {});
  ASSERT_TRUE(step.ok()) << step.status();
  second.network->parameters().back().latent.detach().fill_(std::numeric_limits<float>::quiet_NaN());
  const auto before = NetworkToTensors(*first.network);
  const absl::StatusOr<MutualStepResult> result = (*step)->Run(RandomBatch(), 0.1, 0.1);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("batch 5, student 2: "), std::string::npos) << result.status();
  for (const Parameter& p : first.network->parameters()) EXPECT_TRUE(at::equal(p.latent.detach(), before.at(p.name))) << p.name;
}

TEST(MutualStepTest, RefusalsNameWhatIsWrong) {
  Net teacher(Config(32)), student(Config(4));
  EXPECT_EQ(Refusal({}, teacher.member()), "a distillation needs a student");
  EXPECT_EQ(Refusal({teacher.member()}, student.member()), "the teacher of a distillation has 4-bit weights and 4-bit activations, not 32");
  EXPECT_EQ(Refusal({student.member()}, teacher.member(), {.temperature = 0}), "temperature of a distillation is 0, not a number above 0");
  EXPECT_EQ(Refusal({student.member()}, teacher.member(), {.student_weight = -1}), "a weight of a distillation is -1, not a number of at least 0");
  EXPECT_EQ(Refusal({student.member()}, teacher.member(), {.teacher_weight = -2}), "a weight of a distillation is -2, not a number of at least 0");
  NetworkConfig other = Config(4);
  other.classes = 5;
  Net five(other);
  EXPECT_EQ(
      Refusal({student.member(), five.member()}, teacher.member()),
      "a distillation needs nets of one network: the student 2 is convnet28 for 1x28x28 images and 5 classes, the teacher convnet28 for 1x28x28 images and 4 "
      "classes");
  Net fast(Config(4, Numerics::kFast));
  EXPECT_EQ(Refusal({fast.member()}, teacher.member()), "a distillation needs nets of the same numerics and dtype");
}

}  // namespace
}  // namespace bitstair::core
