#include "core/data/batch_loader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "core/data/dataset.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

// Image i has label i (as a mark to tell images apart) and pixels of a gradient that no crop or flip maps to itself.
ImageDataset Images(int64_t count, int64_t channels, int64_t side) {
  ImageDataset data;
  data.images = at::arange(count * channels * side * side).remainder(251).to(at::kByte).view({count, channels, side, side});
  data.labels = at::arange(count);
  data.classes = static_cast<int>(count);
  data.mean.assign(static_cast<size_t>(channels), 0.25f);
  data.std.assign(static_cast<size_t>(channels), 0.5f);
  return data;
}

std::vector<Batch> Epoch(BatchLoader& loader, int64_t epoch, int64_t first = 0) {
  std::vector<Batch> batches;
  loader.StartEpoch(epoch, first);
  for (Batch batch; loader.Next(&batch);) batches.push_back(batch);
  return batches;
}

std::vector<int64_t> Labels(const std::vector<Batch>& batches) {
  std::vector<int64_t> labels;
  for (const Batch& batch : batches)
    labels.insert(labels.end(), batch.labels.const_data_ptr<int64_t>(), batch.labels.const_data_ptr<int64_t>() + batch.labels.numel());
  return labels;
}

TEST(BatchLoaderTest, EachImageAtMostOnceAndTheShortBatchIsDropped) {
  const ImageDataset data = Images(103, 1, 5);
  BatchLoader loader(data, {.seed = 3, .batch_size = 10});
  EXPECT_EQ(loader.batches_per_epoch(), 10);
  const std::vector<int64_t> labels = Labels(Epoch(loader, 0));
  EXPECT_EQ(labels.size(), 100u);
  EXPECT_EQ(std::set<int64_t>(labels.begin(), labels.end()).size(), 100u);
  EXPECT_FALSE(std::is_sorted(labels.begin(), labels.end()));
}

TEST(BatchLoaderTest, OrderIsThePermutationOfTheDocument) {
  const ImageDataset data = Images(20, 1, 5);
  BatchLoader loader(data, {.seed = 9, .batch_size = 20});
  std::vector<int64_t> expected(20);
  for (int64_t i = 0; i < 20; ++i) expected[i] = i;
  for (uint32_t i = 19; i > 0; --i) std::swap(expected[i], expected[UniformInteger(9, Purpose::kShuffle, 77, i, 0, i + 1)]);
  EXPECT_EQ(Labels(Epoch(loader, 77)), expected);
}

TEST(BatchLoaderTest, EpochsAndSeedsDiffer) {
  const ImageDataset data = Images(40, 1, 5);
  BatchLoader a(data, {.seed = 1, .batch_size = 8}), b(data, {.seed = 2, .batch_size = 8});
  const std::vector<int64_t> first = Labels(Epoch(a, 0));
  EXPECT_NE(first, Labels(Epoch(a, 1)));
  EXPECT_NE(first, Labels(Epoch(b, 0)));
  EXPECT_EQ(first, Labels(Epoch(a, 0)));
}

TEST(BatchLoaderTest, RanksShareTheGlobalBatchInOrder) {
  const ImageDataset data = Images(50, 3, 32);
  BatchLoader whole(data, {.batch_size = 12, .augment = true});
  const std::vector<Batch> expected = Epoch(whole, 4);
  std::vector<std::vector<Batch>> parts;
  for (int rank = 0; rank < 3; ++rank) {
    BatchLoader loader(data, {.rank = rank, .world_size = 3, .batch_size = 12, .augment = true});
    parts.push_back(Epoch(loader, 4));
  }
  ASSERT_EQ(expected.size(), 4u);
  for (size_t b = 0; b < expected.size(); ++b) {
    EXPECT_TRUE(at::cat({parts[0][b].images, parts[1][b].images, parts[2][b].images}).equal(expected[b].images));
    EXPECT_TRUE(at::cat({parts[0][b].labels, parts[1][b].labels, parts[2][b].labels}).equal(expected[b].labels));
  }
}

TEST(BatchLoaderTest, ShardsAreTheSameBatchesOnAnyNumberOfRanks) {
  const ImageDataset data = Images(50, 3, 32);
  BatchLoader one(data, {.shards = 4, .batch_size = 12, .augment = true});
  const std::vector<Batch> expected = Epoch(one, 4, 1);
  ASSERT_EQ(expected.size(), 3U * 4);
  for (int rank = 0; rank < 2; ++rank) {
    BatchLoader loader(data, {.rank = rank, .world_size = 2, .shards = 4, .batch_size = 12, .augment = true});
    const std::vector<Batch> own = Epoch(loader, 4, 1);
    ASSERT_EQ(own.size(), 3U * 2);
    for (size_t i = 0; i < own.size(); ++i) {
      const Batch& same = expected[i / 2 * 4 + static_cast<size_t>(rank) * 2 + i % 2];
      EXPECT_TRUE(own[i].images.equal(same.images));
      EXPECT_TRUE(own[i].labels.equal(same.labels));
      EXPECT_EQ(own[i].index, static_cast<int64_t>(1 + i / 2));
      EXPECT_EQ(own[i].position.batch, same.position.batch);
      EXPECT_EQ(own[i].position.first_image, same.position.first_image);
      EXPECT_EQ(own[i].position.first_image, static_cast<int64_t>(static_cast<size_t>(rank) * 6 + i % 2 * 3));
    }
  }
}

TEST(BatchLoaderTest, StartsAnywhereInTheEpoch) {
  const ImageDataset data = Images(64, 1, 28);
  BatchLoader loader(data, {.batch_size = 8, .augment = true});
  const std::vector<Batch> whole = Epoch(loader, 2), rest = Epoch(loader, 2, 5);
  ASSERT_EQ(rest.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(rest[i].index, static_cast<int64_t>(5 + i));
    EXPECT_TRUE(rest[i].images.equal(whole[5 + i].images));
  }
  EXPECT_TRUE(Epoch(loader, 2, 8).empty());
}

TEST(BatchLoaderTest, CanBeLeftAndRestartedInTheMiddle) {
  const ImageDataset data = Images(64, 1, 28);
  BatchLoader loader(data, {.batch_size = 4});
  const std::vector<int64_t> expected = Labels(Epoch(loader, 1));
  Batch batch;
  loader.StartEpoch(0, 0);
  ASSERT_TRUE(loader.Next(&batch));
  EXPECT_EQ(Labels(Epoch(loader, 1)), expected);
  loader.StartEpoch(0, 0);  // and destroyed while the thread waits for room
}

TEST(BatchLoaderTest, WithoutAugmentationPixelsAreNormalised) {
  const ImageDataset data = Images(6, 3, 32);
  BatchLoader loader(data, {.batch_size = 6});
  const Batch batch = Epoch(loader, 0).at(0);
  const at::Tensor expected = (data.images.index_select(0, batch.labels).to(at::kFloat) / 255.0f - 0.25f) / 0.5f;
  EXPECT_TRUE(at::allclose(batch.images, expected, 0, 1e-6));
  EXPECT_EQ(batch.images.scalar_type(), at::kFloat);
}

TEST(BatchLoaderTest, CropAndFlipFollowTheDocument) {
  for (const int64_t side : {28, 32}) {
    const int64_t pad = side == 28 ? 2 : 4;
    const ImageDataset data = Images(200, 1, side);
    BatchLoader loader(data, {.seed = 11, .batch_size = 200, .augment = true});
    const Batch batch = Epoch(loader, 6).at(0);
    const at::Tensor padded = at::constant_pad_nd(data.images, {pad, pad, pad, pad}, 0);
    int flips = 0;
    for (int64_t i = 0; i < 200; ++i) {
      const int64_t image = batch.labels[i].item<int64_t>();
      const uint32_t key = static_cast<uint32_t>(image), choices = static_cast<uint32_t>(2 * pad + 1);
      const int64_t top = UniformInteger(11, Purpose::kCrop, 6, key, 0, choices), left = UniformInteger(11, Purpose::kCrop, 6, key, 1, choices);
      at::Tensor expected = padded[image].slice(1, top, top + side).slice(2, left, left + side);
      if (Philox4x32(11, Purpose::kFlip, 6, key, 0)[0] & 1) {
        expected = expected.flip({2});
        ++flips;
      }
      ASSERT_TRUE(at::allclose(batch.images[i], (expected.to(at::kFloat) / 255.0f - 0.25f) / 0.5f, 0, 1e-6)) << "image " << image;
    }
    EXPECT_NEAR(flips, 100, 30);
  }
}

TEST(BatchLoaderTest, RefusesImpossibleOptions) {
  const ImageDataset data = Images(6, 1, 5);
  EXPECT_THROW(BatchLoader(data, {.world_size = 4, .batch_size = 6}), c10::Error);
  EXPECT_THROW(BatchLoader(data, {.world_size = 2, .shards = 3, .batch_size = 6}), c10::Error);
  EXPECT_THROW(BatchLoader(data, {.world_size = 2, .shards = 4, .batch_size = 6}), c10::Error);
  EXPECT_THROW(BatchLoader(data, {.rank = 2, .world_size = 2, .batch_size = 6}), c10::Error);
  EXPECT_THROW(BatchLoader(data, {.batch_size = 0}), c10::Error);
  BatchLoader small(data, {.batch_size = 8});
  EXPECT_EQ(small.batches_per_epoch(), 0);
  EXPECT_TRUE(Epoch(small, 0).empty());
}

}  // namespace
}  // namespace bitstair::core
