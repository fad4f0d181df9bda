#include "core/data/image_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/data/dataset.h"
#include "core/data/image_crop.h"
#include "core/data/jpeg.h"
#include "core/data/resize.h"
#include "tests/core/data/picture_folder.h"

namespace bitstair::core {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kSide = ImageFolder::kSide;
// Of the mean over a picture that the decoder has made smaller, from one that it has not.
constexpr double kScaledTolerance = 2;

class ImageFolderTest : public ::testing::Test {
 protected:
  ImageFolderTest() : folder_("image_folder") {}

  std::unique_ptr<ImageFolder> Open(int64_t limit = 0) {
    auto data = ImageFolder::Open(folder_.path(), limit);
    EXPECT_TRUE(data.ok()) << data.status();
    return *std::move(data);
  }
  // The failure of reading the folder's only picture, whose bytes are these.
  absl::Status ReadFailure(const std::string& bytes) {
    folder_.Write("a/picture.JPEG", bytes);
    return Open()->Read(0, nullptr, std::vector<uint8_t>(3 * kSide * kSide).data());
  }
  static std::vector<uint8_t> Read(const ImageFolder& data, int64_t index, const AugmentationKey* key = nullptr) {
    std::vector<uint8_t> pixels(3 * kSide * kSide);
    const absl::Status status = data.Read(index, key, pixels.data());
    EXPECT_TRUE(status.ok()) << status;
    return pixels;
  }
  // The same with every pixel of the file decoded.
  static std::vector<uint8_t> ReadWhole(const std::string& bytes, const ImageCrop& crop) {
    JpegDecoder decoder;
    PixelRegion region;
    EXPECT_TRUE(decoder.Open(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()).ok());
    EXPECT_TRUE(decoder.Decode(1, 0, 0, decoder.width(), decoder.height(), &region).ok());
    const AxisTaps x({static_cast<double>(crop.left), static_cast<double>(crop.width), decoder.width(), crop.full_width, crop.window_left, kSide});
    const AxisTaps y({static_cast<double>(crop.top), static_cast<double>(crop.height), decoder.height(), crop.full_height, crop.window_top, kSide});
    std::vector<uint8_t> pixels(3 * kSide * kSide);
    ResizeToPlanes(region, x, y, crop.flip, pixels.data());
    return pixels;
  }
  static double MeanDifference(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += std::abs(int{a[i]} - int{b[i]});
    return sum / static_cast<double>(a.size());
  }

  PictureFolder folder_;
};

TEST_F(ImageFolderTest, LabelsAreTheSortedFoldersAndImagesComeInTurn) {
  const std::string picture = EncodeJpeg(20, 20);
  for (const char* file : {"n02/x.JPEG", "n02/a.jpg", "n10/only.jpeg", "n01/b", "n01/c.JPEG", "n01/a.JPEG"}) folder_.Write(file, picture);
  folder_.Write("n01/.hidden", "no picture");
  folder_.Write(".cache/x", "no class");
  const auto data = Open();
  EXPECT_THAT(data->class_names, ElementsAre("n01", "n02", "n10"));
  EXPECT_EQ(data->classes, 3);
  EXPECT_EQ(data->shape(), (ImageShape{3, 224, 224}));
  std::vector<std::string> files;
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < data->size(); ++i) {
    files.push_back(data->path(i).substr(folder_.path().size() + 1));
    labels.push_back(data->label(i));
  }
  EXPECT_THAT(files, ElementsAre("n01/a.JPEG", "n02/a.jpg", "n10/only.jpeg", "n01/b", "n02/x.JPEG", "n01/c.JPEG"));
  EXPECT_THAT(labels, ElementsAre(0, 1, 2, 0, 1, 0));
  EXPECT_EQ(Open(4)->size(), 4);
  EXPECT_EQ(Open(4)->path(3), data->path(3));
  EXPECT_EQ(Open(100)->size(), 6);
}

TEST_F(ImageFolderTest, EvaluationSeesTheMiddleOfThePicture) {
  const std::string bytes = EncodeJpeg(500, 375);
  folder_.Write("a/1.JPEG", bytes);
  EXPECT_EQ(Read(*Open(), 0), ReadWhole(bytes, CenterCrop(500, 375, 256, 224)));
}

TEST_F(ImageFolderTest, TrainingSeesARandomPart) {
  const std::string bytes = EncodeJpeg(500, 375);
  folder_.Write("a/1.JPEG", bytes);
  const auto data = Open();
  for (uint32_t epoch = 0; epoch < 20; ++epoch) {
    const AugmentationKey key{.seed = 3, .epoch = epoch};
    ASSERT_EQ(Read(*data, 0, &key), ReadWhole(bytes, RandomCrop(500, 375, 224, key, 0))) << epoch;
  }
}

TEST_F(ImageFolderTest, LargePicturesAreMadeSmallerByTheDecoderWithoutHarm) {
  for (const auto& [width, height] : {std::pair(1100, 1030), std::pair(2600, 2101), std::pair(1025, 3000)}) {
    const std::string bytes = EncodeJpeg(width, height);
    folder_.Write("a/1.JPEG", bytes);
    const auto data = Open();
    const std::vector<uint8_t> ours = Read(*data, 0), whole = ReadWhole(bytes, CenterCrop(width, height, 256, 224));
    EXPECT_LT(MeanDifference(ours, whole), kScaledTolerance) << width << "x" << height;
    EXPECT_NE(ours, whole) << "the decoder did not reduce " << width << "x" << height;
    for (uint32_t epoch = 0; epoch < 5; ++epoch) {
      const AugmentationKey key{.seed = 3, .epoch = epoch};
      EXPECT_LT(MeanDifference(Read(*data, 0, &key), ReadWhole(bytes, RandomCrop(width, height, 224, key, 0))), kScaledTolerance) << width << " " << epoch;
    }
  }
}

TEST_F(ImageFolderTest, TinyAndThinPicturesAreResizedToo) {
  int n = 0;
  for (const auto& [width, height] : {std::pair(1, 1), std::pair(3, 700), std::pair(700, 2), std::pair(17, 9)}) {
    folder_.Write(absl::StrCat("a/", n++, ".JPEG"), EncodeJpeg(width, height));
  }
  const auto data = Open();
  for (int64_t i = 0; i < data->size(); ++i) {
    Read(*data, i);
    for (uint32_t epoch = 0; epoch < 30; ++epoch) {
      const AugmentationKey key{.epoch = epoch};
      Read(*data, i, &key);
    }
  }
}

TEST_F(ImageFolderTest, GreyscaleAndCmykBecomeRgb) {
  folder_.Write("a/1.JPEG", EncodeJpeg(300, 280, {.pixels = JCS_GRAYSCALE}));
  folder_.Write("a/2.JPEG", EncodeJpeg(300, 280, {.pixels = JCS_CMYK, .quality = 95}));
  const auto data = Open();
  const std::vector<uint8_t> grey = Read(*data, 0), cmyk = Read(*data, 1);
  const size_t plane = size_t{kSide} * kSide;
  EXPECT_TRUE(std::equal(grey.begin(), grey.begin() + plane, grey.begin() + plane));
  EXPECT_TRUE(std::equal(grey.begin(), grey.begin() + plane, grey.begin() + 2 * plane));
  double sum = 0, expected = 0;
  for (size_t i = 0; i < plane; ++i) sum += cmyk[i];
  for (int y = 18; y < 262; ++y) {
    for (int x = 28; x < 272; ++x) expected += TestPixel(x, y, 0) * TestPixel(x, y, 3) / 255.0;
  }
  EXPECT_NEAR(sum / static_cast<double>(plane), expected / (244 * 244), 4);
}

TEST_F(ImageFolderTest, FaultsOfTheFolderNameIt) {
  const auto failure = [&] { return ImageFolder::Open(folder_.path()).status(); };
  EXPECT_EQ(failure().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(failure().message()), AllOf(HasSubstr(folder_.path()), HasSubstr("no class folders")));
  folder_.Write("flat.JPEG", EncodeJpeg(20, 20));
  EXPECT_THAT(std::string(failure().message()), HasSubstr(folder_.path("flat.JPEG") + " is not a class folder"));
  std::filesystem::remove(folder_.path("flat.JPEG"));
  folder_.Write("a/1.JPEG", EncodeJpeg(20, 20));
  std::filesystem::create_directory(folder_.path("b"));
  EXPECT_EQ(failure().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(failure().message()), HasSubstr("class folder " + folder_.path("b") + " has no images"));
  std::filesystem::create_directory(folder_.path("b/inner"));
  EXPECT_THAT(std::string(failure().message()), HasSubstr(folder_.path("b/inner") + " is not a file"));
  std::filesystem::remove(folder_.path("b/inner"));
  ASSERT_EQ(mkfifo(folder_.path("b/pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(failure().message()), HasSubstr(folder_.path("b/pipe") + " is not a file"));
  EXPECT_THAT(ImageFolder::Open(folder_.path("none")).status().ToString(), AllOf(HasSubstr("none"), HasSubstr("No such file")));
}

TEST_F(ImageFolderTest, FaultsOfAPictureNameItsFile) {
  const std::string good = EncodeJpeg(300, 280), file = folder_.path("a/picture.JPEG");
  const auto message = [&](const std::string& bytes) { return std::string(ReadFailure(bytes).message()); };
  EXPECT_TRUE(ReadFailure(good).ok());
  EXPECT_THAT(message(good.substr(0, good.size() / 2)), HasSubstr(absl::StrCat(file, ": byte ", good.size() / 2, ": the JPEG data is truncated")));
  EXPECT_THAT(message(good.substr(0, good.size() - 1)), HasSubstr(file + ": byte "));
  EXPECT_THAT(message(""), HasSubstr(file + ": byte 0: the file is empty"));
  EXPECT_THAT(message("\x89PNG\r\n\x1a\n"), AllOf(HasSubstr(file), HasSubstr("not a JPEG")));
  EXPECT_EQ(ReadFailure("text").code(), absl::StatusCode::kDataLoss);
  // A link that leads nowhere, a file that has gone.
  const auto data = Open();
  std::filesystem::remove(file);
  EXPECT_THAT(data->Read(0, nullptr, std::vector<uint8_t>(3 * kSide * kSide).data()).ToString(), AllOf(HasSubstr(file), HasSubstr("No such file")));
}

TEST_F(ImageFolderTest, OpenDatasetFindsTheSplits) {
  const auto failure = [&](Split split) { return std::string(OpenDataset(folder_.path(), split).status().message()); };
  EXPECT_THAT(failure(Split::kTrain), HasSubstr("train/CLASS/*.JPEG"));
  for (const char* file : {"train/a/1.JPEG", "train/b/1.JPEG", "train/b/2.JPEG"}) folder_.Write(file, EncodeJpeg(20, 20));
  EXPECT_THAT(OpenDataset(folder_.path(), Split::kTest).status().ToString(), HasSubstr(folder_.path("val")));
  folder_.Write("val/a/1.JPEG", EncodeJpeg(20, 20));
  folder_.Write("val/b/1.JPEG", EncodeJpeg(20, 20));
  const auto train = OpenDataset(folder_.path(), Split::kTrain), test = OpenDataset(folder_.path(), Split::kTest);
  ASSERT_TRUE(train.ok() && test.ok());
  EXPECT_EQ((*train)->size(), 3);
  EXPECT_EQ((*test)->size(), 2);
  EXPECT_EQ((*test)->class_names, (*train)->class_names);
  EXPECT_EQ((*OpenDataset(folder_.path(), Split::kTrain, 2))->size(), 2);
}

}  // namespace
}  // namespace bitstair::core
