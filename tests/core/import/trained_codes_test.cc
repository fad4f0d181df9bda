// A trained network of the repository (docs/results/) on real images: what evaluation by integer codes gives, image by image.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/data/dataset.h"
#include "core/import/fit_weights.h"
#include "core/import/weights_file.h"
#include "core/kernels/convolution.h"
#include "core/nn/network_state.h"
#include "core/training/normalized_images.h"

namespace bitstair::core {
namespace {

constexpr int64_t kImages = 2000, kBatch = 250;

std::unique_ptr<Network> Load(const WeightsFile& file, const SampleSource& data, Numerics numerics, c10::ScalarType dtype) {
  NetworkConfig config;
  config.network = file.word("network");
  config.image_channels = data.shape().channels;
  config.image_height = data.shape().height;
  config.image_width = data.shape().width;
  config.classes = data.classes;
  config.weight_bits = config.activation_bits = 2;
  config.activation = ActivationFunction::kClip;
  config.numerics = numerics;
  config.dtype = dtype;
  absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
  EXPECT_TRUE(network.ok()) << network.status();
  const absl::StatusOr<FittedWeights> fitted = FitWeights(file, **network, {});
  EXPECT_TRUE(fitted.ok()) << fitted.status();
  EXPECT_TRUE(NetworkFromTensors(fitted->tensors, **network).ok());
  return *std::move(network);
}

TEST(TrainedCodesTest, IntegerCodesGiveWhatFloatsOnCodesGiveForEveryImage) {
  const absl::StatusOr<std::unique_ptr<SampleSource>> data = OpenDataset(BITSTAIR_TEST_DATA "/cifar100", Split::kTest, kImages);
  if (!data.ok()) GTEST_SKIP() << data.status();
  const absl::StatusOr<WeightsFile> file = ReadWeightsFile(BITSTAIR_RESULTS "/cifar100_resnet20/baseline_w2a2_seed1.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  // The first convolution is in full precision: as in the others, so that all begin with the same codes.
  SetFastFloat(at::kFloat);
  const auto fast = Load(*file, **data, Numerics::kFast, at::kFloat), reference = Load(*file, **data, Numerics::kReference, at::kFloat),
             wide = Load(*file, **data, Numerics::kReference, at::kDouble);
  int64_t same = 0, correct = 0;
  for (int64_t begin = 0; begin < kImages; begin += kBatch) {
    const absl::StatusOr<LabelledImages> images = ReadImages(**data, begin, begin + kBatch, at::kDouble);
    ASSERT_TRUE(images.ok()) << images.status();
    const at::Tensor of_codes = fast->Forward(images->images.to(at::kFloat), false), of_floats = reference->Forward(images->images.to(at::kFloat), false);
    EXPECT_TRUE(of_codes.allclose(of_floats, 1e-5, 1e-4)) << "images from " << begin << ": " << (of_codes - of_floats).abs().max().item<float>();
    EXPECT_TRUE(of_codes.argmax(1).equal(of_floats.argmax(1))) << "images from " << begin;
    same += of_codes.argmax(1).eq(wide->Forward(images->images, false).argmax(1)).sum().item<int64_t>();
    correct += of_codes.argmax(1).eq(images->labels).sum().item<int64_t>();
  }
  SetFastFloat(at::kHalf);  // the processor's own again
  const double agree = 100.0 * static_cast<double>(same) / kImages;
  std::cout << "top-1 in float64 agrees for " << agree << " % of " << kImages << " images; top-1 " << 100.0 * static_cast<double>(correct) / kImages << " %\n";
  EXPECT_GE(agree, 99.9) << "float64 takes ties of the first convolution the other way";
  EXPECT_GT(correct, kImages / 2) << "a trained network, or the comparison says little";
}

}  // namespace
}  // namespace bitstair::core
