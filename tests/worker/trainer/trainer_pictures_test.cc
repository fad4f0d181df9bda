// Stages on image folders, and pictures that cannot be read.
#include <filesystem>
#include <fstream>
#include <string>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/core/data/picture_folder.h"
#include "tests/worker/trainer/trainer_gang.h"

namespace bitstair::trainer {
namespace {

using ::testing::HasSubstr;

// An image folder of two classes: 8 training pictures and 4 test pictures of different sizes.
class PictureTrainerTest : public TrainerTest {
 protected:
  PictureTrainerTest() : pictures_("trainer_pictures") {
    for (int i = 0; i < 12; ++i) {
      pictures_.Write(absl::StrCat(i < 8 ? "train/" : "val/", i % 2 == 0 ? "n01" : "n02", "/", i, ".JPEG"), core::EncodeJpeg(240 + 20 * i, 300 - 10 * i));
    }
  }
  v1::StartTrainer Start(int ranks, int weight_bits = 4, int activation_bits = 4) {
    v1::StartTrainer start = TrainerTest::Start(ranks, weight_bits, activation_bits);
    start.mutable_spec()->set_network("resnet18");
    start.mutable_spec()->set_numerics(v1::NUMERICS_FAST);
    start.mutable_spec()->set_batch_size(4);
    start.set_data_path(pictures_.path());
    return start;
  }
  // In the middle of its data.
  void Truncate(const std::string& file) { std::filesystem::resize_file(pictures_.path(file), 2000); }

  core::PictureFolder pictures_;
};

TEST_F(PictureTrainerTest, AStoppedGangResumesBitForBit) {
  v1::StartTrainer start = Start(2);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(1);
  const Outcome undisturbed = Run(start);
  const std::string want = Final(undisturbed).checkpoint().sha256();
  ASSERT_EQ(undisturbed.epochs.size(), 2u);
  EXPECT_EQ(undisturbed.epochs[0].skipped_images(), 0);
  const auto middle = std::find_if(undisturbed.checkpoints.begin(), undisturbed.checkpoints.end(),
                                   [](const v1::TrainerCheckpoint& c) { return c.checkpoint().epoch() == 0 && c.checkpoint().step() == 1; });
  ASSERT_NE(middle, undisturbed.checkpoints.end());
  start.set_resume_path(middle->path());
  start.mutable_attempt()->set_generation(2);
  start.mutable_slot()->set_threads(1);
  EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), want);
}

TEST_F(PictureTrainerTest, AnUnreadableTrainingPictureIsNamedAndEndsTheGang) {
  Truncate("train/n02/5.JPEG");
  const Outcome outcome = Run(Start(2));
  // All ranks have taken part in the step, and each tells the whole story.
  for (const v1::TrainerResult& result : outcome.results) {
    EXPECT_EQ(result.cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
    EXPECT_THAT(result.message(), HasSubstr(": " + pictures_.path("train/n02/5.JPEG") + ": byte 2000: the JPEG data is truncated"));
    EXPECT_EQ(result.message(), outcome.results[0].message());
  }
}

TEST_F(PictureTrainerTest, AnUnreadableTestPictureIsNamed) {
  Truncate("val/n01/8.JPEG");
  const Outcome outcome = Run(Start(2));
  for (const v1::TrainerResult& result : outcome.results) {
    EXPECT_EQ(result.cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
    EXPECT_THAT(result.message(), HasSubstr("rank 1: " + pictures_.path("val/n01/8.JPEG")));
  }
}

TEST_F(PictureTrainerTest, UnreadablePicturesAreSkippedAndCountedIfTheRecipeSaysSo) {
  Truncate("train/n02/5.JPEG");
  Truncate("val/n01/8.JPEG");
  v1::StartTrainer start = Start(2);
  start.mutable_spec()->mutable_data()->set_unreadable_images(v1::UNREADABLE_IMAGES_SKIP);
  const Outcome outcome = Run(start);
  Final(outcome);
  ASSERT_EQ(outcome.epochs.size(), 2u);
  for (const v1::EpochResult& epoch : outcome.epochs) EXPECT_EQ(epoch.skipped_images(), 2);
  EXPECT_THAT(outcome.logs[0] + outcome.logs[1], HasSubstr("skipped an image: " + pictures_.path("train/n02/5.JPEG")));
}

TEST_F(PictureTrainerTest, FaultsOfTheFoldersAreNamed) {
  const auto message = [&] {
    const Outcome outcome = Run(Start(1));
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
    return outcome.results[0].message();
  };
  pictures_.Write("val/n03/1.JPEG", core::EncodeJpeg(30, 30));
  EXPECT_THAT(message(), HasSubstr("number of classes (2 and 3)"));
  std::filesystem::remove_all(pictures_.path("val/n02"));
  EXPECT_THAT(message(), HasSubstr("class 1 is n02 in the training images and n03 in the test images"));
  std::filesystem::create_directory(pictures_.path("train/n03"));
  EXPECT_THAT(message(), HasSubstr("class folder " + pictures_.path("train/n03") + " has no images"));
  std::filesystem::remove_all(pictures_.path("train"));
  std::filesystem::create_directory(pictures_.path("train"));
  EXPECT_THAT(message(), HasSubstr(pictures_.path("train") + " has no class folders"));
}

TEST_F(PictureTrainerTest, APictureThatCalibrationCannotReadIsAFaultOfTheDataAndNotOfTheCheckpoint) {
  v1::StartTrainer start = Start(1, 32, 32);
  start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU);
  start.mutable_spec()->set_epochs(1);
  const std::string parent = Final(Run(start)).path();
  Truncate("train/n02/5.JPEG");
  start = Start(1);
  start.mutable_spec()->set_parent("parent");
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  start.set_parent_path(parent);
  const Outcome outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("train/n02/5.JPEG"));
}

}  // namespace
}  // namespace bitstair::trainer
