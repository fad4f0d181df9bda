#include "core/data/sample_pipeline.h"

#include <ATen/ATen.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/data/batch_loader.h"
#include "core/data/image_folder.h"
#include "tests/core/data/picture_folder.h"

namespace bitstair::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// 2x2 images; image i has label i and pixels i, or cannot be read. Reads take different times, so that threads overtake each other.
class Numbers final : public SampleSource {
 public:
  explicit Numbers(int64_t size, std::set<int64_t> unreadable = {}) : size_(size), unreadable_(std::move(unreadable)) {
    classes = 1000;
    mean = {0};
    std = {1};
  }
  int64_t size() const override { return size_; }
  ImageShape shape() const override { return {1, 2, 2}; }
  int64_t label(int64_t index) const override { return index; }
  absl::Status Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const override {
    ++reads;
    std::this_thread::sleep_for(std::chrono::microseconds(index % 7 * 50));
    if (unreadable_.contains(index)) return absl::DataLossError(absl::StrCat("file ", index));
    std::fill(pixels, pixels + 4, static_cast<uint8_t>(index + (key == nullptr ? 0 : key->epoch)));
    return absl::OkStatus();
  }
  mutable std::atomic<int> reads{0};

 private:
  const int64_t size_;
  const std::set<int64_t> unreadable_;
};

std::vector<int32_t> Order(int32_t begin, int32_t end) {
  std::vector<int32_t> order;
  for (int32_t i = begin; i < end; ++i) order.push_back(i);
  return order;
}

std::vector<std::vector<int64_t>> Labels(SamplePipeline& pipeline, std::vector<std::string>* skipped = nullptr) {
  std::vector<std::vector<int64_t>> batches;
  for (SampleBatch batch; pipeline.Next(&batch);) {
    const int64_t* labels = batch.labels.const_data_ptr<int64_t>();
    batches.emplace_back(labels, labels + batch.labels.numel());
    EXPECT_EQ(batch.images.size(0), batch.labels.size(0));
    for (int64_t i = 0; i < batch.labels.size(0); ++i) EXPECT_EQ(batch.images[i][0][1][1].item<float>(), static_cast<float>(labels[i]) / 255.0f);
    if (skipped != nullptr) skipped->insert(skipped->end(), batch.skipped.begin(), batch.skipped.end());
  }
  return batches;
}

TEST(SamplePipelineTest, BatchesComeInOrderWithTheRestAtTheEnd) {
  const Numbers data(100);
  for (const int threads : {1, 2, 5}) {
    SamplePipeline pipeline(data, threads);
    pipeline.Start({9, 3, 7, 1, 0, 50, 2}, 3, std::nullopt, WhenSkipped::kLeaveOut);
    EXPECT_THAT(Labels(pipeline), ElementsAre(ElementsAre(9, 3, 7), ElementsAre(1, 0, 50), ElementsAre(2)));
    EXPECT_TRUE(pipeline.status().ok());
    pipeline.Start({}, 3, std::nullopt, WhenSkipped::kLeaveOut);
    EXPECT_THAT(Labels(pipeline), IsEmpty());
  }
}

TEST(SamplePipelineTest, ReadsAheadButNotFar) {
  const Numbers data(100);
  SamplePipeline pipeline(data, 3);
  pipeline.Start(Order(0, 100), 5, std::nullopt, WhenSkipped::kLeaveOut);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (data.reads < 5 * SamplePipeline::kBatches && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(data.reads, 5 * SamplePipeline::kBatches);
  EXPECT_EQ(Labels(pipeline).size(), 20u);
}

TEST(SamplePipelineTest, CanBeLeftInTheMiddle) {
  const Numbers data(100);
  SamplePipeline pipeline(data, 4);
  SampleBatch batch;
  for (int i = 0; i < 20; ++i) {
    pipeline.Start(Order(0, 100), 8, std::nullopt, WhenSkipped::kLeaveOut);
    EXPECT_TRUE(i % 2 == 1 || pipeline.Next(&batch));
  }
  pipeline.Start(Order(40, 42), 8, std::nullopt, WhenSkipped::kLeaveOut);
  EXPECT_THAT(Labels(pipeline), ElementsAre(ElementsAre(40, 41)));
  pipeline.Start(Order(0, 100), 8, std::nullopt, WhenSkipped::kLeaveOut);  // and destroyed while it reads
}

TEST(SamplePipelineTest, TheFirstUnreadableSampleInOrderIsTheError) {
  const Numbers data(100, {17, 13, 60});
  for (int round = 0; round < 20; ++round) {
    SamplePipeline pipeline(data, 4);
    pipeline.Start(Order(0, 100), 10, std::nullopt, WhenSkipped::kLeaveOut);
    EXPECT_EQ(Labels(pipeline).size(), 1u);
    EXPECT_EQ(pipeline.status(), absl::DataLossError("file 13"));
    SampleBatch batch;
    EXPECT_FALSE(pipeline.Next(&batch));
    pipeline.Start(Order(0, 10), 10, std::nullopt, WhenSkipped::kLeaveOut);
    EXPECT_EQ(Labels(pipeline).size(), 1u);
    EXPECT_TRUE(pipeline.status().ok());
  }
}

TEST(SamplePipelineTest, SkippedSamplesAreLeftOutAndCounted) {
  Numbers data(100, {0, 4, 5, 8, 9, 10, 11});
  data.skip_unreadable = true;
  for (const int threads : {1, 3}) {
    SamplePipeline pipeline(data, threads);
    pipeline.Start(Order(0, 14), 4, std::nullopt, WhenSkipped::kLeaveOut);
    std::vector<std::string> skipped;
    EXPECT_THAT(Labels(pipeline, &skipped), ElementsAre(ElementsAre(1, 2, 3), ElementsAre(6, 7), IsEmpty(), ElementsAre(12, 13)));
    EXPECT_THAT(skipped, ElementsAre("file 0", "file 4", "file 5", "file 8", "file 9", "file 10", "file 11"));
  }
}

TEST(SamplePipelineTest, InTrainingTheNextReadableSampleTakesThePlace) {
  Numbers data(20, {3, 7, 8, 19});
  data.skip_unreadable = true;
  for (const int threads : {1, 3}) {
    SamplePipeline pipeline(data, threads);
    pipeline.Start({19, 3, 5, 7}, 2, std::nullopt, WhenSkipped::kReplace);
    std::vector<std::string> skipped;
    EXPECT_THAT(Labels(pipeline, &skipped), ElementsAre(ElementsAre(0, 4), ElementsAre(5, 9)));
    EXPECT_THAT(skipped, ElementsAre("file 19", "file 3", "file 7"));
  }
}

TEST(SamplePipelineTest, WhereNothingCanBeReadItFailsInsteadOfSearchingForEver) {
  Numbers data(5, {0, 1, 2, 3, 4});
  data.skip_unreadable = true;
  SamplePipeline pipeline(data, 2);
  pipeline.Start(Order(0, 5), 5, std::nullopt, WhenSkipped::kReplace);
  SampleBatch batch;
  EXPECT_FALSE(pipeline.Next(&batch));
  EXPECT_THAT(std::string(pipeline.status().message()), HasSubstr("5 images in a row cannot be read; the first: file "));
}

// The pictures of a folder, through the loader that training uses.
class PicturePipelineTest : public ::testing::Test {
 protected:
  PicturePipelineTest() : folder_("picture_pipeline") {
    for (int i = 0; i < 26; ++i) folder_.Write(absl::StrCat(i % 3, "/", i, ".JPEG"), EncodeJpeg(200 + 9 * i, 300 - 4 * i));
    data_ = *ImageFolder::Open(folder_.path());
  }
  std::vector<Batch> Epoch(const BatchLoaderOptions& options, int64_t first = 0) {
    BatchLoader loader(*data_, options);
    std::vector<Batch> batches;
    loader.StartEpoch(6, first);
    for (Batch batch; loader.Next(&batch);) batches.push_back(batch);
    EXPECT_TRUE(loader.status().ok()) << loader.status();
    return batches;
  }

  PictureFolder folder_;
  std::unique_ptr<ImageFolder> data_;
};

TEST_F(PicturePipelineTest, BatchesDependNeitherOnThreadsNorOnWhereTheyBegin) {
  const std::vector<Batch> one = Epoch({.seed = 4, .batch_size = 8, .augment = true, .threads = 1}),
                           four = Epoch({.seed = 4, .batch_size = 8, .augment = true, .threads = 4}),
                           resumed = Epoch({.seed = 4, .batch_size = 8, .augment = true, .threads = 3}, 2);
  ASSERT_EQ(one.size(), 3u);
  ASSERT_EQ(four.size(), 3u);
  ASSERT_EQ(resumed.size(), 1u);
  for (size_t b = 0; b < one.size(); ++b) {
    EXPECT_TRUE(one[b].images.equal(four[b].images));
    EXPECT_TRUE(one[b].labels.equal(four[b].labels));
  }
  EXPECT_TRUE(resumed[0].images.equal(one[2].images));
  EXPECT_EQ(resumed[0].index, 2);
}

TEST_F(PicturePipelineTest, RanksShareTheBatchAsOneRankHasIt) {
  const std::vector<Batch> whole = Epoch({.batch_size = 8, .augment = true}), a = Epoch({.rank = 0, .world_size = 2, .batch_size = 8, .augment = true}),
                           b = Epoch({.rank = 1, .world_size = 2, .batch_size = 8, .augment = true});
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(at::cat({a[i].images, b[i].images}).equal(whole[i].images));
}

TEST_F(PicturePipelineTest, ATruncatedPictureEndsTheEpochOrIsReplacedAndCounted) {
  const std::string picture = EncodeJpeg(300, 280), file = folder_.path("1/13.JPEG");
  folder_.Write("1/13.JPEG", picture.substr(0, 2000));
  BatchLoader loader(*data_, {.batch_size = 26, .augment = true, .threads = 3});
  loader.StartEpoch(0, 0);
  Batch batch;
  EXPECT_FALSE(loader.Next(&batch));
  EXPECT_THAT(std::string(loader.status().message()), HasSubstr(file + ": byte 2000: the JPEG data is truncated"));
  data_->skip_unreadable = true;
  const std::vector<Batch> one = Epoch({.batch_size = 26, .augment = true, .threads = 1}), three = Epoch({.batch_size = 26, .augment = true, .threads = 3});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_THAT(one[0].skipped, ElementsAre(HasSubstr(file)));
  EXPECT_THAT(three[0].skipped, ElementsAre(HasSubstr(file)));
  EXPECT_TRUE(one[0].images.equal(three[0].images));
  EXPECT_EQ(one[0].labels.size(0), 26);
}

}  // namespace
}  // namespace bitstair::core
