#include "core/training/calibrate.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/nn/network_state.h"
#include "core/training/normalized_images.h"
#include "tests/core/training/synthetic_data.h"

namespace bitstair::core {
namespace {

struct Case {
  const char* network;
  int channels;
  int side;
};

NetworkConfig Config(const Case& c, ActivationFunction activation) {
  NetworkConfig config;
  config.network = c.network;
  config.image_channels = c.channels;
  config.image_height = config.image_width = c.side;
  config.classes = 4;
  if (c.side >= 32) config.channel_divisor = 8;
  config.activation = activation;
  config.dtype = at::kDouble;
  return config;
}

class CalibrateTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    data_ = SyntheticData(64, GetParam().channels, GetParam().side, 4);
    relu_ = *CreateNetwork(Config(GetParam(), ActivationFunction::kRelu));
    for (Parameter& p : relu_->parameters()) {
      if (p.batch_norm && p.name.ends_with("weight")) p.latent.detach().copy_(at::rand_like(p.latent.detach()) * 2 + 1);
      if (p.latent.dim() == 4) p.latent.detach().mul_(10);  // or variances come near batch norm's epsilon
    }
    ASSERT_TRUE(ReestimateBatchNorm(*relu_, data_, 64, 64).ok());
  }
  at::Tensor Logits(Network& network) { return network.Forward(NormalizedImages(data_, 0, 64, at::kDouble), /*training=*/false); }
  std::unique_ptr<Network> Clipped(const std::map<std::string, at::Tensor>& state) {
    auto network = *CreateNetwork(Config(GetParam(), ActivationFunction::kClip));
    EXPECT_TRUE(NetworkFromTensors(state, *network).ok());
    EXPECT_TRUE(ReestimateBatchNorm(*network, data_, 64, 64).ok());
    return network;
  }
  ImageDataset data_;
  std::unique_ptr<Network> relu_;
};

// At percentile 100 nothing is clipped, so only the batch norms' epsilon (1e-5, against variances divided by the squared range) tells the two nets apart.
TEST_P(CalibrateTest, TheClippedNetComputesWhatTheReluNetDid) {
  constexpr double kEpsilonEffect = 0.02;
  const at::Tensor expected = Logits(*relu_);
  const double uncalibrated = (Logits(*Clipped(NetworkToTensors(*relu_))) - expected).abs().max().item<double>();
  ASSERT_TRUE(CalibrateActivations(*relu_, data_, 64, 100).ok());
  const double calibrated = (Logits(*Clipped(NetworkToTensors(*relu_))) - expected).abs().max().item<double>();
  const double spread = expected.abs().max().item<double>();
  EXPECT_LT(calibrated, kEpsilonEffect * spread);
  EXPECT_GT(uncalibrated, 5 * kEpsilonEffect * spread);
}

TEST_P(CalibrateTest, EachGroupsGreatestActivationBecomesOne) {
  ASSERT_TRUE(CalibrateActivations(*relu_, data_, 64, 100).ok());
  ASSERT_TRUE(ReestimateBatchNorm(*relu_, data_, 64, 64).ok());
  std::vector<double> greatest(relu_->activation_groups().size(), 0);
  relu_->set_activation_observer([&](size_t group, const at::Tensor& v) { greatest[group] = std::max(greatest[group], v.max().item<double>()); });
  Logits(*relu_);
  for (const double g : greatest) EXPECT_NEAR(g, 1, 0.02);  // epsilon again
}

TEST_P(CalibrateTest, ThePercentileLeavesThatShareAtOrBelowOne) {
  ASSERT_TRUE(CalibrateActivations(*relu_, data_, 64, 95).ok());
  // The first group is scaled exactly: its input does not change.
  int64_t above = 0, all = 0;
  relu_->set_activation_observer([&](size_t group, const at::Tensor& v) {
    if (group != 1) return;
    above += v.gt(1).sum().item<int64_t>();
    all += v.numel();
  });
  ASSERT_TRUE(ReestimateBatchNorm(*relu_, data_, 64, 64).ok());
  Logits(*relu_);
  EXPECT_NEAR(static_cast<double>(above) / static_cast<double>(all), 0.05, 0.005);
}

TEST_P(CalibrateTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(CalibrateActivations(*relu_, data_, 64, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CalibrateActivations(*relu_, data_, 64, 100.5).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CalibrateActivations(*relu_, data_, 0, 99).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReestimateBatchNorm(*relu_, data_, 64, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CalibrateActivations(*Clipped(NetworkToTensors(*relu_)), data_, 64, 99).code(), absl::StatusCode::kFailedPrecondition);
}

INSTANTIATE_TEST_SUITE_P(Networks, CalibrateTest,
                         testing::Values(Case{"convnet28", 1, 28}, Case{"resnet20", 3, 16}, Case{"resnet20_b", 3, 16}, Case{"preresnet20", 3, 16},
                                         Case{"resnet18", 3, 64}, Case{"resnet50", 3, 64}, Case{"alexnet_cifar", 3, 32}, Case{"alexnet", 3, 127}),
                         [](const auto& info) { return std::string(info.param.network); });

TEST(ReestimateBatchNormTest, GivesTheAverageOfTheBatchesStatistics) {
  const ImageDataset data = SyntheticData(40, 1, 28, 4);
  auto network = *CreateNetwork(Config({"convnet28", 1, 28}, ActivationFunction::kRelu));
  ASSERT_TRUE(ReestimateBatchNorm(*network, data, 40, 16).ok());  // two whole batches
  const at::Tensor& w = network->parameters()[0].leaf;
  at::Tensor mean = at::zeros({16}, at::kDouble), variance = at::zeros({16}, at::kDouble);
  for (int64_t at : {0, 16}) {
    const at::Tensor y = at::conv2d(NormalizedImages(data, at, at + 16, at::kDouble), w.detach(), {}, 1, 1).transpose(0, 1).flatten(1);
    mean += y.mean(1) / 2;
    variance += y.var(1) / 2;
  }
  ASSERT_EQ(network->buffers()[0].name, "bn1.running_mean");
  EXPECT_TRUE(at::allclose(network->buffers()[0].value, mean, 1e-10, 1e-10));
  EXPECT_TRUE(at::allclose(network->buffers()[1].value, variance, 1e-10, 1e-10));
}

}  // namespace
}  // namespace bitstair::core
