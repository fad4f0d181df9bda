#include "core/training/guided_step.h"

#include <cmath>
#include <limits>
#include <map>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/kernels/convolution.h"
#include "core/nn/network_state.h"
#include "core/training/hint_loss.h"
#include "core/training/mutual_step.h"
#include "core/training/normalized_images.h"
#include "tests/core/training/synthetic_data.h"

namespace bitstair::core {
namespace {

NetworkConfig Config(const std::string& network, int weight_bits, int activation_bits, Numerics numerics) {
  NetworkConfig config;
  config.network = network;
  config.image_channels = network == "convnet28" ? 1 : 3;
  config.image_height = config.image_width = network == "convnet28" ? 28 : network == "resnet18" ? 64 : 16;
  config.classes = 4;
  config.weight_bits = weight_bits;
  config.activation_bits = activation_bits;
  config.activation = ActivationFunction::kClip;
  config.numerics = numerics;
  return config;
}

// Keeps the gradients that a step gives each leaf.
class KeptGradients final : public GradientSink {
 public:
  explicit KeptGradients(Network& network) : network_(network) {}
  void PrepareForward() override {}
  void PrepareBackward(const at::Tensor&) override {}
  void Finish() override {
    gradients.clear();
    for (const Parameter& p : network_.parameters()) gradients.push_back(p.leaf.grad().clone());
  }
  std::vector<at::Tensor> gradients;

 private:
  Network& network_;
};

struct Net {
  explicit Net(const NetworkConfig& config) : network(CreateNetwork(config).value()), sgd(network->parameters(), SgdOptions{}), gradients(*network) {
    // Most activations inside of the clip, as calibration leaves them.
    for (const Parameter& p : network->parameters()) {
      if (p.batch_norm) p.latent.detach().fill_(p.name.ends_with(".weight") ? 0.15 : 0.05);
    }
  }
  PairMember member() { return {network.get(), &sgd, &gradients}; }

  std::unique_ptr<Network> network;
  Sgd sgd;
  KeptGradients gradients;
};

struct Pair {
  Pair(NetworkConfig config, ActivationFunction full_activation, const GuidedOptions& options) : low(config), full(FullConfig(config, full_activation)) {
    step = GuidedStep::Create(low.member(), full.member(), options).value();
  }
  static NetworkConfig FullConfig(NetworkConfig config, ActivationFunction activation) {
    config.weight_bits = config.activation_bits = 32;
    config.activation = activation;
    config.seed = 2;
    return config;
  }
  Net low, full;
  std::unique_ptr<GuidedStep> step;
};

Batch RandomBatch(const NetworkConfig& config, int64_t images) {
  at::manual_seed(7);
  const at::Tensor x = at::randn({images, config.image_channels, config.image_height, config.image_width});
  return {x, at::randint(config.classes, {images}, at::kLong), 0, {}};
}

// ---- What a hint is ----------------------------------------------------------------------------------------------------------------------------------------

Features OfValues(std::vector<double> values) {
  return {at::tensor(values, at::kDouble).set_requires_grad(true), 1, 0};
}

TEST(HintLossTest, IsHalfTheMeanSquareOfWhatQLeavesApart) {
  const Features low{at::tensor({3.0, 0.0, 1.0, 2.0}, at::kDouble).set_requires_grad(true), 1.0 / 3, 3};
  const Features full = OfValues({0.9, 0.4, 1.7, -0.2});  // levels 3, 1, 3, 0
  const HintTerm term = HintLoss(low, full, {.bits = 2, .weight = 10});
  EXPECT_DOUBLE_EQ(term.distance, 0.5 * (0 + 1 + 4 + 4) / 9.0 / 4);
  EXPECT_DOUBLE_EQ(term.low.item<double>(), 10 * term.distance);
  EXPECT_DOUBLE_EQ(term.full.item<double>(), 10 * term.distance);
  term.low.backward();
  EXPECT_FALSE(full.tensor.grad().defined()) << "the other net's features are constants";
  term.full.backward();
  // By code: lambda d / n^2 / M; by value: lambda d / n / M, where 0 <= z <= 1.
  EXPECT_TRUE(at::allclose(low.tensor.grad(), 10 / 9.0 / 4 * at::tensor({0.0, -1.0, -2.0, 2.0}, at::kDouble)));
  EXPECT_TRUE(at::allclose(full.tensor.grad(), -10 / 3.0 / 4 * at::tensor({0.0, -1.0, 0.0, 0.0}, at::kDouble)));
}

TEST(HintLossTest, RoundsBothNetsWhereTheHintPointIsNotQuantised) {
  const Features low = OfValues({0.9, 0.4, 0.5}), full = OfValues({0.9, 0.1, 1.0});  // levels of 2 bits: 3, 1, 2 (a tie, to even) and 3, 0, 3
  const HintTerm term = HintLoss(low, full, {.bits = 2, .weight = 1});
  EXPECT_DOUBLE_EQ(term.distance, 0.5 * (0 + 1 + 1) / 9.0 / 3);
  term.low.backward();
  EXPECT_TRUE(at::allclose(low.tensor.grad(), at::tensor({0.0, 1.0, -1.0}, at::kDouble) / 9)) << low.tensor.grad();
}

TEST(HintLossTest, At32BitsQIsTheClip) {
  const Features low = OfValues({0.9, 0.4}), full = OfValues({0.8, 1.5});
  const HintTerm term = HintLoss(low, full, {.bits = 32, .weight = 1});
  EXPECT_DOUBLE_EQ(term.distance, 0.5 * (0.01 + 0.36) / 2);
  term.full.backward();
  EXPECT_TRUE(at::allclose(full.tensor.grad(), at::tensor({-0.05, 0.0}, at::kDouble))) << full.tensor.grad();
}

TEST(HintLossTest, OfLogitsPredictionsAreCompared) {
  const auto of_rows = [](std::vector<double> values) { return Features{at::tensor(values, at::kDouble).view({2, 3}).set_requires_grad(true)}; };
  const Features low = of_rows({2.5, -4, 0.5, 0, 1, 2}), full = of_rows({3, -1, 0.5, 1, 1, 1});
  const HintTerm term = HintLoss(low, full, {.bits = 2, .weight = 10, .temperature = 4, .clipped = true});
  const auto of = [](const Features& features) { return at::softmax(features.tensor.detach() / 4, 1); };
  const at::Tensor p = of(full), q = of(low);
  EXPECT_NEAR(term.distance, 16 * (p * (p / q).log()).sum().item<double>() / 2, 1e-14);
  EXPECT_NEAR(term.low.item<double>(), 10 * term.distance, 1e-13);
  EXPECT_NEAR(term.full.item<double>(), 10 * 16 * (q * (q / p).log()).sum().item<double>() / 2, 1e-13);
  term.low.backward();
  EXPECT_FALSE(full.tensor.grad().defined()) << "the other net's predictions are constants";
  term.full.backward();
  EXPECT_TRUE(at::allclose(low.tensor.grad(), (q - p) * (10 * 4 / 2.0))) << low.tensor.grad();
  EXPECT_TRUE(at::allclose(full.tensor.grad(), (p - q) * (10 * 4 / 2.0))) << full.tensor.grad();
}

TEST(HintLossTest, RefusesFeaturesOfDifferentShapes) {
  EXPECT_THROW(HintLoss(OfValues({0, 1}), OfValues({0, 1, 0}), {}), c10::Error);
}

// ---- A step ------------------------------------------------------------------------------------------------------------------------------------------------

// With lambda 0 a pair is two nets that do not know of each other: the same bits as two steps of TrainStep.
TEST(GuidedStepTest, WithoutAHintEqualsTwoSteps) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast, Numerics::kFast8}) {
    const NetworkConfig config = Config("convnet28", 4, 4, numerics);
    Pair pair(config, ActivationFunction::kClip, {.lambda = 0});
    Net low(config), full(Pair::FullConfig(config, ActivationFunction::kClip));
    TrainStep low_step(low.network.get(), &low.sgd, &low.gradients), full_step(full.network.get(), &full.sgd, &full.gradients);
    Batch batch = RandomBatch(config, 16);
    for (int i = 0; i < 3; ++i) {
      batch.position.batch = i;
      const auto both = pair.step->Run(batch, 0.1, 0.02);
      ASSERT_TRUE(both.ok()) << both.status();
      const auto of_low = low_step.Run(batch, 0.1), of_full = full_step.Run(batch, 0.02);
      EXPECT_EQ(both->low.loss, of_low->loss);
      EXPECT_EQ(both->full.loss, of_full->loss);
      EXPECT_EQ(both->low.correct, of_low->correct);
      EXPECT_EQ(both->full.images, 16);
      EXPECT_GT(both->hint, 0);
    }
    const auto expect_equal = [](Network& a, Network& b) {
      const auto theirs = NetworkToTensors(b);
      for (const auto& [name, tensor] : NetworkToTensors(a)) EXPECT_TRUE(tensor.equal(theirs.at(name))) << name;
    };
    expect_equal(*pair.low.network, *low.network);
    expect_equal(*pair.full.network, *full.network);
  }
}

// lambda R pulls the nets together: with it the hint ends lower than without.
TEST(GuidedStepTest, TheHintBringsTheNetsTogether) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const ImageDataset data = SyntheticData(64, 1, 28, 4);
    double last[2] = {};
    for (const bool guided : {false, true}) {
      Pair pair(Config("convnet28", 4, 4, numerics), ActivationFunction::kClip, {.lambda = guided ? 100.0 : 0.0});
      for (int i = 0; i < 30; ++i) {
        const int64_t at = i % 2 * 32;
        const auto result = pair.step->Run({NormalizedImages(data, at, at + 32, at::kFloat), data.labels.slice(0, at, at + 32), i, {}}, 0.02, 0.004);
        ASSERT_TRUE(result.ok()) << result.status();
        last[guided ? 1 : 0] = result->hint;
      }
    }
    EXPECT_LT(last[1], last[0] / 2);
  }
}

// Gradients of the fast numerics against the reference's, for both nets. In float32 both do nearly the same but for the order of sums, and a last bit flips a
// code of thousands here and there: error relative to the greatest one of a tensor. In bfloat16, fast stays as near to the reference as the reference itself
// does when only its inputs are rounded to bfloat16 (times 5: fast rounds in every layer).
constexpr double kFloat32Error = 2e-2;
constexpr double kBfloat16Times = 5, kBfloat16More = 0.02;

double Cosine(const at::Tensor& a, const at::Tensor& b) {
  return at::cosine_similarity(a.flatten(), b.flatten(), 0).item<double>();
}

at::Tensor Rounded(const at::Tensor& t) {
  return t.to(at::kBFloat16).to(at::kFloat);
}

// The reference with its images and full-precision parameters rounded to bfloat16, after one step.
void RunRounded(Pair& pair, Batch batch) {
  batch.images = Rounded(batch.images);
  for (Net* net : {&pair.low, &pair.full}) {
    for (const Parameter& p : net->network->parameters()) {
      if (p.quantizer == nullptr) p.latent.detach().copy_(Rounded(p.latent.detach()));
    }
  }
  ASSERT_TRUE(pair.step->Run(batch, 0, 0).ok());
}

void CompareNumerics(const std::string& network, int weight_bits, int activation_bits, ActivationFunction full_activation, const GuidedOptions& options) {
  SCOPED_TRACE(network + " W" + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
  const NetworkConfig config = Config(network, weight_bits, activation_bits, Numerics::kReference);
  NetworkConfig fast_config = config;
  fast_config.numerics = Numerics::kFast;
  Pair pair(config, full_activation, options), fast(fast_config, full_activation, options), rounded(config, full_activation, options);
  const Batch batch = RandomBatch(config, 16);
  const auto expected = pair.step->Run(batch, 0, 0), result = fast.step->Run(batch, 0, 0);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(result.ok()) << result.status();
  const bool bfloat16 = FastFloat() == at::kBFloat16;
  if (bfloat16) RunRounded(rounded, batch);
  const double loss_bound = bfloat16 ? 0.02 : 1e-3;
  EXPECT_NEAR(result->low.loss, expected->low.loss, loss_bound * expected->low.loss);
  EXPECT_NEAR(result->full.loss, expected->full.loss, loss_bound * expected->full.loss);
  EXPECT_NEAR(result->hint, expected->hint, loss_bound * expected->hint);
  const auto gradients = [](Pair& of, bool low) { return (low ? of.low : of.full).gradients.gradients; };
  for (const bool low : {true, false}) {
    const std::vector<at::Tensor> theirs = gradients(pair, low), ours = gradients(fast, low), near = gradients(rounded, low);
    for (size_t i = 0; i < theirs.size(); ++i) {
      const std::string name = (low ? "low " : "full ") + pair.low.network->parameters()[i].name;
      if (bfloat16) {
        EXPECT_LE(1 - Cosine(ours[i], theirs[i]), kBfloat16Times * (1 - Cosine(near[i], theirs[i])) + kBfloat16More) << name;
      } else {
        EXPECT_LE((ours[i] - theirs[i]).abs().max().item<double>(), kFloat32Error * theirs[i].abs().max().item<double>()) << name;
      }
    }
  }
}

TEST(GuidedStepTest, FastGradientsFollowTheReference) {
  for (const c10::ScalarType type : {at::kFloat, at::kBFloat16}) {
    if (!SetFastFloat(type)) continue;
    SCOPED_TRACE(c10::toString(type));
    CompareNumerics("convnet28", 4, 4, ActivationFunction::kClip, {.lambda = 100});
    CompareNumerics("convnet28", 2, 32, ActivationFunction::kClip, {.lambda = 100, .hint_points = {"conv1", "conv3"}});
    CompareNumerics("convnet28", 16, 16, ActivationFunction::kRelu, {.lambda = 100});
    CompareNumerics("convnet28", 4, 4, ActivationFunction::kRelu, {.lambda = 100, .hint_points = {"fc1", "conv2"}});
    CompareNumerics("resnet20", 4, 4, ActivationFunction::kClip, {.lambda = 100});
    CompareNumerics("resnet20", 4, 32, ActivationFunction::kClip, {.lambda = 100, .hint_points = {"layer1.1", "layer3"}});
    CompareNumerics("resnet20", 2, 2, ActivationFunction::kClip, {.lambda = 10, .hint_points = {"logits", "layer2"}});
    CompareNumerics("resnet18", 4, 4, ActivationFunction::kClip, {.lambda = 100});
  }
  SetFastFloat(at::kHalf);
}

// A pair that is guided by predictions alone is mutual distillation with one student, whose two weights are lambda.
TEST(GuidedStepTest, HintsAtTheLogitsAreMutualDistillation) {
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const NetworkConfig config = Config("convnet28", 2, 2, numerics);
    Pair pair(config, ActivationFunction::kClip, {.lambda = 0.5, .hint_points = {"logits"}, .temperature = 3});
    Net student(config), teacher(Pair::FullConfig(config, ActivationFunction::kClip));
    const auto mutual = MutualStep::Create({student.member()}, teacher.member(), {.temperature = 3, .student_weight = 0.5, .teacher_weight = 0.5}).value();
    Batch batch = RandomBatch(config, 16);
    for (int i = 0; i < 3; ++i) {
      batch.position.batch = i;
      const auto guided = pair.step->Run(batch, 0.1, 0.02);
      const auto expected = mutual->Run(batch, 0.1, 0.02);
      ASSERT_TRUE(guided.ok() && expected.ok()) << guided.status() << expected.status();
      EXPECT_EQ(guided->low.loss, expected->students[0].loss);
      EXPECT_NEAR(guided->hint, 9 * expected->divergence, 1e-6 * guided->hint);
    }
    const auto theirs = NetworkToTensors(*student.network), of_teacher = NetworkToTensors(*teacher.network);
    for (const auto& [name, tensor] : NetworkToTensors(*pair.low.network)) EXPECT_TRUE(tensor.equal(theirs.at(name))) << name;
    for (const auto& [name, tensor] : NetworkToTensors(*pair.full.network)) EXPECT_TRUE(tensor.equal(of_teacher.at(name))) << name;
  }
}

// ---- Hint points -------------------------------------------------------------------------------------------------------------------------------------------

std::vector<std::string> Chosen(const std::string& network, const std::vector<std::string>& names) {
  const auto made = CreateNetwork(Config(network, 4, 4, Numerics::kReference)).value();
  std::vector<std::string> chosen;
  const std::vector<size_t> points = ChooseHintPoints(*made, names).value();
  for (const size_t point : points) chosen.push_back(made->hint_points()[point].name);
  return chosen;
}

TEST(HintPointsTest, ByDefaultTheLastTwoGroups) {
  EXPECT_EQ(Chosen("resnet20", {}), (std::vector<std::string>{"layer2", "layer3"}));
  EXPECT_EQ(Chosen("resnet18", {}), (std::vector<std::string>{"layer3", "layer4"}));
  EXPECT_EQ(Chosen("convnet28", {}), (std::vector<std::string>{"conv3", "fc1"}));
}

TEST(HintPointsTest, AreChosenByName) {
  EXPECT_EQ(Chosen("resnet20", {"layer3", "layer1.0", "layer1"}), (std::vector<std::string>{"layer1.0", "layer1", "layer3"}));
  EXPECT_EQ(Chosen("resnet20", {"logits", "layer3"}), (std::vector<std::string>{"layer3", "logits"}));
}

// Each point is shown once, in order, with features of the network's own shapes.
TEST(HintPointsTest, AreShownInTheOrderOfForward) {
  for (const char* name : {"resnet20", "resnet18", "convnet28"}) {
    const NetworkConfig config = Config(name, 4, 4, Numerics::kReference);
    const auto network = CreateNetwork(config).value();
    std::vector<size_t> seen;
    network->set_hint_observer([&](size_t point, const Features& features) {
      seen.push_back(point);
      EXPECT_EQ(features.tensor.size(0), 2);
    });
    network->Forward(at::zeros({2, config.image_channels, config.image_height, config.image_width}), false);
    ASSERT_EQ(seen.size(), network->hint_points().size()) << name;
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i) << name;
  }
}

// ---- Errors ------------------------------------------------------------------------------------------------------------------------------------------------

std::string CreateError(const NetworkConfig& low, const NetworkConfig& full, const GuidedOptions& options) {
  Net a(low), b(full);
  const auto step = GuidedStep::Create(a.member(), b.member(), options);
  EXPECT_EQ(step.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(step.status().message());
}

TEST(GuidedStepErrorTest, UnknownHintPointsAreNamed) {
  const NetworkConfig low = Config("resnet20", 4, 4, Numerics::kReference), full = Config("resnet20", 32, 32, Numerics::kReference);
  EXPECT_EQ(CreateError(low, full, {.hint_points = {"layer3", "layer5"}}),
            "network resnet20 has no hint point \"layer5\"; known: layer1.0, layer1.1, layer1, layer2.0, layer2.1, layer2, layer3.0, layer3.1, layer3, logits");
  EXPECT_EQ(CreateError(low, full, {.hint_points = {"layer3", "layer3"}}), "hint point \"layer3\" is named twice");
}

TEST(GuidedStepErrorTest, NetsThatDoNotFitAreRefused) {
  const NetworkConfig low = Config("convnet28", 4, 4, Numerics::kReference), full = Config("convnet28", 32, 32, Numerics::kReference);
  EXPECT_EQ(CreateError(low, Config("resnet20", 32, 32, Numerics::kReference), {}),
            "a guided pair needs nets of one network: the low-precision net is convnet28 for 1x28x28 images and 4 classes, the full-precision net resnet20 "
            "for 3x16x16 images and 4 classes");
  NetworkConfig other = full;
  other.classes = 5;
  EXPECT_NE(CreateError(low, other, {}).find("and 5 classes"), std::string::npos);
  EXPECT_NE(CreateError(low, Config("convnet28", 32, 32, Numerics::kFast), {}).find("numerics"), std::string::npos);
  EXPECT_EQ(CreateError(low, Config("convnet28", 8, 32, Numerics::kReference), {}),
            "the full-precision net of a guided pair has 8-bit weights and 32-bit activations, not 32");
  for (const double lambda : {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    EXPECT_NE(CreateError(low, full, {.lambda = lambda}).find("lambda"), std::string::npos);
  }
  EXPECT_EQ(CreateError(low, full, {.temperature = 0}), "temperature of a guided pair is 0, not a number above 0");
}

class GuidedStepNanTest : public testing::TestWithParam<Numerics> {
 protected:
  // Makes a batch norm's factor of one net NaN and runs a step: the error. Nothing is changed.
  std::string ErrorOfBad(bool low, const std::string& parameter) {
    const NetworkConfig config = Config("convnet28", 4, 4, GetParam());
    Pair pair(config, ActivationFunction::kClip, {});
    Net& net = low ? pair.low : pair.full;
    for (const Parameter& p : net.network->parameters()) {
      if (p.name == parameter) p.latent.detach().view(-1)[3].fill_(std::numeric_limits<float>::quiet_NaN());
    }
    std::map<std::string, at::Tensor> before[2];
    Net* nets[2] = {&pair.low, &pair.full};
    const auto latent = [](Net& of) {
      std::map<std::string, at::Tensor> tensors;
      for (const Parameter& p : of.network->parameters()) tensors[p.name] = p.latent.detach().clone();
      return tensors;
    };
    for (int i = 0; i < 2; ++i) before[i] = latent(*nets[i]);
    Batch batch = RandomBatch(config, 8);
    batch.index = 41;
    const auto result = pair.step->Run(batch, 0.1, 0.02);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
    for (int i = 0; i < 2; ++i) {
      for (const auto& [name, tensor] : latent(*nets[i])) EXPECT_TRUE(at::allclose(tensor, before[i].at(name), 0, 0, /*equal_nan=*/true)) << name;
    }
    return std::string(result.status().message());
  }
};

TEST_P(GuidedStepNanTest, NamesBatchNetAndLayer) {
  const std::string low = ErrorOfBad(true, "bn2.weight"), full = ErrorOfBad(false, "bn3.weight");
  EXPECT_EQ(low.find("batch 41, low-precision net: "), 0) << low;
  EXPECT_NE(low.find("bn2"), std::string::npos) << low;
  EXPECT_EQ(full.find("batch 41, full-precision net: "), 0) << full;
  EXPECT_NE(full.find("bn3"), std::string::npos) << full;
}

TEST_P(GuidedStepNanTest, NamesAQuantisedWeight) {
  const std::string low = ErrorOfBad(true, "conv3.weight");
  EXPECT_EQ(low.find("batch 41, low-precision net: parameter conv3.weight is not finite"), 0) << low;
}

// After an error the next step works: no graph, hint or observer is left over.
TEST_P(GuidedStepNanTest, GoesOnWithTheNextBatch) {
  const NetworkConfig config = Config("convnet28", 4, 4, GetParam());
  Pair pair(config, ActivationFunction::kClip, {});
  Batch bad = RandomBatch(config, 8);
  bad.images = bad.images.clone();
  bad.images[0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
  const auto result = pair.step->Run(bad, 0.1, 0.02);
  EXPECT_NE(result.status().message().find("the images are not finite"), std::string::npos) << result.status();
  pair.low.network->Forward(RandomBatch(config, 2).images, false);
  Pair fresh(config, ActivationFunction::kClip, {});
  const Batch batch = RandomBatch(config, 8);
  EXPECT_EQ(pair.step->Run(batch, 0.1, 0.02)->hint, fresh.step->Run(batch, 0.1, 0.02)->hint);
}

INSTANTIATE_TEST_SUITE_P(Numerics, GuidedStepNanTest, testing::Values(Numerics::kReference, Numerics::kFast));

}  // namespace
}  // namespace bitstair::core
