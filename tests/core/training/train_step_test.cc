#include "core/training/train_step.h"

#include <cmath>
#include <limits>

#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/nn/network_state.h"
#include "core/training/calibrate.h"
#include "core/training/evaluate.h"
#include "core/training/normalized_images.h"
#include "tests/core/training/synthetic_data.h"

namespace bitstair::core {
namespace {

NetworkConfig Config(int weight_bits, int activation_bits, ActivationFunction activation) {
  NetworkConfig config;
  config.network = "convnet28";
  config.image_channels = 1;
  config.image_height = config.image_width = 28;
  config.classes = 4;
  config.weight_bits = weight_bits;
  config.activation_bits = activation_bits;
  config.activation = activation;
  return config;
}

Batch BatchOf(const ImageDataset& data, int64_t begin, int64_t end, int64_t index) {
  return {NormalizedImages(data, begin, end, at::kFloat), data.labels.slice(0, begin, end), index};
}

// Mean loss of one pass over the data in batches of 32.
double TrainOneEpoch(TrainStep& step, const ImageDataset& data, double learning_rate) {
  double loss = 0;
  int64_t batches = 0;
  for (int64_t at = 0; at + 32 <= data.size(); at += 32, ++batches) {
    const absl::StatusOr<StepResult> result = step.Run(BatchOf(data, at, at + 32, batches), learning_rate);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return std::numeric_limits<double>::infinity();
    loss += result->loss;
  }
  return loss / static_cast<double>(batches);
}

// The whole staircase, two stages per width: first weights, then activations.
TEST(TrainStepTest, WalksFrom32To2BitsAndTheLossFalls) {
  const ImageDataset data = SyntheticData(128, 1, 28, 4);
  const std::pair<int, int> widths[] = {{32, 32}, {16, 32}, {16, 16}, {8, 16}, {8, 8}, {4, 8}, {4, 4}, {2, 4}, {2, 2}};
  std::map<std::string, at::Tensor> state;
  double first = 0, last = 0;
  for (const auto& [weight_bits, activation_bits] : widths) {
    SCOPED_TRACE(testing::Message() << "W" << weight_bits << "A" << activation_bits);
    const bool start = weight_bits == 32;
    auto network = CreateNetwork(Config(weight_bits, activation_bits, start ? ActivationFunction::kRelu : ActivationFunction::kClip));
    ASSERT_TRUE(network.ok());
    if (!start) {
      ASSERT_TRUE(NetworkFromTensors(state, **network).ok());
    }
    Sgd sgd((*network)->parameters(), {});
    LocalGradients gradients;
    TrainStep step(network->get(), &sgd, &gradients);
    const double begin = TrainOneEpoch(step, data, 0.02);
    double end = begin;
    for (int epoch = 0; epoch < 2; ++epoch) end = TrainOneEpoch(step, data, 0.02);
    if (start) {
      first = begin;
      EXPECT_LT(end, begin / 2);
      ASSERT_TRUE(CalibrateActivations(**network, data, 128, 99.9).ok());
      ASSERT_TRUE(ReestimateBatchNorm(**network, data, 128, 32).ok());
    }
    EXPECT_LT(end, std::max(begin, 0.1));
    last = end;
    state = NetworkToTensors(**network);
  }
  EXPECT_LT(last, first / 4);

  auto network = CreateNetwork(Config(2, 2, ActivationFunction::kClip));
  ASSERT_TRUE(NetworkFromTensors(state, **network).ok());
  const EvaluationSums sums = *Evaluate(**network, data, 0, data.size(), 50);
  EXPECT_EQ(sums.images, 128);
  EXPECT_GT(sums.top1, 115);
}

TEST(TrainStepTest, IsDeterministic) {
  const ImageDataset data = SyntheticData(32, 1, 28, 4);
  std::map<std::string, at::Tensor> states[2];
  for (auto& state : states) {
    auto network = CreateNetwork(Config(4, 4, ActivationFunction::kClip));
    Sgd sgd((*network)->parameters(), {});
    LocalGradients gradients;
    TrainStep step(network->get(), &sgd, &gradients);
    for (int i = 0; i < 3; ++i) TrainOneEpoch(step, data, 0.05);
    state = NetworkToTensors(**network);
  }
  for (const auto& [name, tensor] : states[0]) EXPECT_TRUE(at::equal(tensor, states[1].at(name))) << name;
}

class TrainStepNanTest : public testing::Test {
 protected:
  void SetUp() override {
    network_ = *CreateNetwork(Config(4, 4, ActivationFunction::kClip));
    data_ = SyntheticData(8, 1, 28, 4);
  }
  std::string RunAndExpectError(const Batch& batch) {
    Sgd sgd(network_->parameters(), {});
    LocalGradients gradients;
    TrainStep step(network_.get(), &sgd, &gradients);
    std::vector<at::Tensor> before;
    for (const Parameter& p : network_->parameters()) before.push_back(p.latent.detach().clone());
    const absl::StatusOr<StepResult> result = step.Run(batch, 0.1);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::allclose(network_->parameters()[i].latent.detach(), before[i], 0, 0, /*equal_nan=*/true));
    return std::string(result.status().message());
  }
  std::unique_ptr<Network> network_;
  ImageDataset data_;
};

TEST_F(TrainStepNanTest, ANanPixelIsSeen) {
  Batch batch = BatchOf(data_, 0, 8, 41);
  batch.images[3][0][14][14] = std::numeric_limits<float>::quiet_NaN();
  const std::string message = RunAndExpectError(batch);
  EXPECT_NE(message.find("batch 41"), std::string::npos) << message;
  EXPECT_NE(message.find("images"), std::string::npos) << message;
}

TEST_F(TrainStepNanTest, ANanWeightIsNamed) {
  network_->parameters()[6].latent.detach().view(-1)[5] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_EQ(network_->parameters()[6].name, "conv3.weight");
  const std::string message = RunAndExpectError(BatchOf(data_, 0, 8, 0));
  EXPECT_NE(message.find("conv3.weight"), std::string::npos) << message;
}

// 8-bit codes take the exact integer statistics, where a NaN must not get lost either.
TEST_F(TrainStepNanTest, ANanPixelIsSeenThroughIntegerSums) {
  network_ = *CreateNetwork(Config(8, 8, ActivationFunction::kClip));
  Batch batch = BatchOf(data_, 0, 8, 0);
  batch.images[0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
  RunAndExpectError(batch);
}

TEST(EvaluateTest, CoversEachImageOnce) {
  const ImageDataset data = SyntheticData(23, 1, 28, 4);
  auto network = CreateNetwork(Config(4, 4, ActivationFunction::kClip));
  const EvaluationSums all = *Evaluate(**network, data, 0, 23, 23);
  std::vector<int64_t> progress;
  const EvaluationSums a = *Evaluate(**network, data, 0, 10, 4, [&](int64_t done) { progress.push_back(done); });
  const EvaluationSums b = *Evaluate(**network, data, 10, 23, 4);
  EXPECT_EQ(progress, (std::vector<int64_t>{4, 8, 10}));
  EXPECT_EQ(a.images + b.images, 23);
  EXPECT_EQ(a.top1 + b.top1, all.top1);
  EXPECT_EQ(all.top5, 23);  // four classes only
  EXPECT_NEAR(a.loss + b.loss, all.loss, 1e-4);
  EXPECT_EQ(Evaluate(**network, data, 5, 5, 4)->images, 0);
}

// The same images, of which some cannot be read.
class Damaged final : public SampleSource {
 public:
  Damaged(const ImageDataset& data, std::set<int64_t> unreadable) : data_(data), unreadable_(std::move(unreadable)) {
    classes = data.classes;
    mean = data.mean;
    std = data.std;
  }
  int64_t size() const override { return data_.size(); }
  ImageShape shape() const override { return data_.shape(); }
  int64_t label(int64_t index) const override { return data_.label(index); }
  absl::Status Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const override {
    return unreadable_.contains(index) ? absl::NotFoundError(absl::StrCat("file ", index)) : data_.Read(index, key, pixels);
  }

 private:
  const ImageDataset& data_;
  const std::set<int64_t> unreadable_;
};

TEST(EvaluateTest, AnUnreadableImageIsAnErrorOrLeftOutAndCounted) {
  const ImageDataset data = SyntheticData(23, 1, 28, 4);
  auto network = CreateNetwork(Config(4, 4, ActivationFunction::kClip));
  Damaged damaged(data, {3, 9, 22});
  EXPECT_EQ(Evaluate(**network, damaged, 0, 23, 4).status(), absl::NotFoundError("file 3"));
  EXPECT_EQ(CalibrateActivations(**CreateNetwork(Config(32, 32, ActivationFunction::kRelu)), damaged, 23, 99).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReestimateBatchNorm(**network, damaged, 23, 4).code(), absl::StatusCode::kDataLoss);
  damaged.skip_unreadable = true;
  const EvaluationSums readable = *Evaluate(**network, damaged, 0, 23, 4), all = *Evaluate(**network, data, 0, 23, 4);
  EvaluationSums missing;
  for (const int64_t i : {3, 9, 22}) {
    const EvaluationSums one = *Evaluate(**network, data, i, i + 1, 1);
    missing.loss += one.loss;
    missing.top1 += one.top1;
  }
  EXPECT_EQ(readable.images, 20);
  EXPECT_EQ(readable.skipped, 3);
  EXPECT_EQ(readable.top1, all.top1 - missing.top1);
  EXPECT_NEAR(readable.loss, all.loss - missing.loss, 1e-4);
  EXPECT_TRUE(CalibrateActivations(**CreateNetwork(Config(32, 32, ActivationFunction::kRelu)), damaged, 23, 99).ok());
  EXPECT_TRUE(ReestimateBatchNorm(**network, damaged, 23, 4).ok());
}

// CPU time in clock ticks of all threads of this process but the calling one.
int64_t TicksOfOtherThreads() {
  int64_t ticks = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == std::to_string(gettid())) continue;
    std::ifstream stat(task.path() / "stat");
    std::string line;
    std::getline(stat, line);
    std::istringstream fields(line.substr(line.rfind(')') + 2));
    std::string field;
    for (int i = 3; i <= 13; ++i) fields >> field;
    int64_t user = 0, kernel = 0;
    fields >> user >> kernel;
    ticks += user + kernel;
  }
  return ticks;
}

// A rank with one thread computes with one, though libraries have pools of their own: two such ranks fit two cores.
TEST(TrainStepTest, AStepStaysWithinItsThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  for (const Numerics numerics : {Numerics::kReference, Numerics::kFast}) {
    const ImageDataset data = SyntheticData(64, 1, 28, 4);
    NetworkConfig config = Config(4, 4, ActivationFunction::kClip);
    config.numerics = numerics;
    auto network = CreateNetwork(config);
    Sgd sgd((*network)->parameters(), SgdOptions{});
    LocalGradients gradients;
    TrainStep step(network->get(), &sgd, &gradients);
    ASSERT_TRUE(step.Run(BatchOf(data, 0, 64, 0), 0.01).ok());
    const int64_t others = TicksOfOtherThreads();
    const std::clock_t begin = std::clock();
    while (std::clock() - begin < CLOCKS_PER_SEC / 2) ASSERT_TRUE(step.Run(BatchOf(data, 0, 64, 0), 0.01).ok());
    EXPECT_LE(TicksOfOtherThreads() - others, 2) << "of about 50 ticks";
  }
  at::set_num_threads(before);
}

// In numerics fast a NaN never becomes a code: the step ends with an error that names the layer, and the weights stay.
TEST(TrainStepTest, ANotANumberEndsAFastStepWithTheLayersName) {
  const ImageDataset data = SyntheticData(32, 1, 28, 4);
  NetworkConfig config = Config(4, 4, ActivationFunction::kClip);
  config.numerics = Numerics::kFast;
  auto network = CreateNetwork(config);
  ASSERT_TRUE(network.ok());
  Sgd sgd((*network)->parameters(), SgdOptions{});
  LocalGradients gradients;
  TrainStep step(network->get(), &sgd, &gradients);
  ASSERT_TRUE(step.Run(BatchOf(data, 0, 32, 0), 0.1).ok());
  for (const Parameter& p : (*network)->parameters()) {
    if (p.name == "bn2.weight") p.latent.detach()[3].fill_(std::numeric_limits<float>::quiet_NaN());
  }
  const absl::StatusOr<StepResult> result = step.Run(BatchOf(data, 0, 32, 7), 0.1);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(std::string(result.status().message()).find("batch 7: an activation after bn2 is not a number"), std::string::npos) << result.status();
}

}  // namespace
}  // namespace bitstair::core
