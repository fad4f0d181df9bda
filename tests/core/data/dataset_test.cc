#include "core/data/dataset.h"

#include <lzma.h>
#include <sys/stat.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

using ::testing::HasSubstr;

std::string BigEndian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string IdxImages(uint32_t count, uint32_t rows, uint32_t columns) {
  std::string bytes = BigEndian(0x803) + BigEndian(count) + BigEndian(rows) + BigEndian(columns);
  for (uint32_t i = 0; i < count * rows * columns; ++i) bytes.push_back(static_cast<char>(i * 7));
  return bytes;
}

std::string IdxLabels(uint32_t count) {
  std::string bytes = BigEndian(0x801) + BigEndian(count);
  for (uint32_t i = 0; i < count; ++i) bytes.push_back(static_cast<char>(i % 10));
  return bytes;
}

std::string CifarRecords(int count, int label_bytes, int classes) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    if (label_bytes == 2) bytes.push_back(static_cast<char>(i % 20));
    bytes.push_back(static_cast<char>(i % classes));
    for (int p = 0; p < 3072; ++p) bytes.push_back(static_cast<char>(i + p));
  }
  return bytes;
}

std::string Gzip(const std::string& bytes) {
  z_stream stream = {};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Xz(const std::string& bytes) {
  std::string out(lzma_stream_buffer_bound(bytes.size()), '\0');
  size_t size = 0;
  lzma_easy_buffer_encode(3, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), reinterpret_cast<uint8_t*>(out.data()),
                          &size, out.size());
  out.resize(size);
  return out;
}

class DatasetTest : public ::testing::Test {
 protected:
  DatasetTest() : folder_(absl::StrCat(::testing::TempDir(), "/dataset_", getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~DatasetTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& bytes) { std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes; }
  void WriteIdx(uint32_t count) {
    Write("train-images-idx3-ubyte", IdxImages(count, 28, 28));
    Write("train-labels-idx1-ubyte", IdxLabels(count));
  }
  // The message of a load that must fail with `code`.
  std::string Failure(absl::StatusCode code, Split split = Split::kTrain, int64_t limit = 0) {
    const absl::StatusOr<ImageDataset> data = LoadDataset(folder_, split, limit);
    EXPECT_EQ(data.status().code(), code) << data.status();
    return std::string(data.status().message());
  }

  const std::string folder_;
};

TEST_F(DatasetTest, ReadsIdxPlainAndGzip) {
  WriteIdx(12);
  const absl::StatusOr<ImageDataset> plain = LoadDataset(folder_, Split::kTrain);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->images.sizes(), (at::IntArrayRef{12, 1, 28, 28}));
  EXPECT_EQ(plain->classes, 10);
  EXPECT_EQ(plain->labels.const_data_ptr<int64_t>()[11], 1);
  EXPECT_EQ(plain->images.const_data_ptr<uint8_t>()[5], 35);
  EXPECT_EQ(plain->mean.size(), 1u);

  Write("t10k-images-idx3-ubyte.gz", Gzip(IdxImages(12, 28, 28)));
  Write("t10k-labels-idx1-ubyte.gz", Gzip(IdxLabels(12)));
  const absl::StatusOr<ImageDataset> zipped = LoadDataset(folder_, Split::kTest);
  ASSERT_TRUE(zipped.ok()) << zipped.status();
  EXPECT_TRUE(zipped->images.equal(plain->images));
  EXPECT_TRUE(zipped->labels.equal(plain->labels));
}

TEST_F(DatasetTest, ReadsGzipOfSeveralMembers) {
  const std::string images = IdxImages(12, 28, 28);
  Write("train-images-idx3-ubyte.gz", Gzip(images.substr(0, 1000)) + Gzip(images.substr(1000)));
  Write("train-labels-idx1-ubyte.gz", Gzip(IdxLabels(12)));
  EXPECT_TRUE(LoadDataset(folder_, Split::kTrain).ok());
}

TEST_F(DatasetTest, LimitTakesTheFirstImages) {
  WriteIdx(12);
  const absl::StatusOr<ImageDataset> few = LoadDataset(folder_, Split::kTrain, 5), all = LoadDataset(folder_, Split::kTrain, 500);
  ASSERT_TRUE(few.ok() && all.ok());
  EXPECT_EQ(few->size(), 5);
  EXPECT_EQ(all->size(), 12);
  EXPECT_TRUE(few->images.equal(all->images.slice(0, 0, 5)));
}

TEST_F(DatasetTest, HoldsTrainingImagesBack) {
  WriteIdx(12);  // and no test images
  const auto whole = OpenDataset(folder_, Split::kTrain), train = OpenDataset(folder_, Split::kTrain, 0, 3), test = OpenDataset(folder_, Split::kTest, 0, 3);
  ASSERT_TRUE(whole.ok() && train.ok() && test.ok()) << train.status() << test.status();
  EXPECT_EQ((*train)->size(), 9);
  EXPECT_EQ((*test)->size(), 3);
  EXPECT_EQ((*test)->classes, 10);
  EXPECT_EQ((*test)->mean, (*whole)->mean);
  std::vector<uint8_t> expected(28 * 28), pixels(28 * 28);
  const AugmentationKey key{1, 4};
  for (const auto& [source, index, original] : {std::tuple{train->get(), 8, 8}, std::tuple{test->get(), 0, 9}, std::tuple{test->get(), 2, 11}}) {
    for (const AugmentationKey* augmentation : {static_cast<const AugmentationKey*>(nullptr), &key}) {
      ASSERT_TRUE(source->Read(index, augmentation, pixels.data()).ok() && (*whole)->Read(original, augmentation, expected.data()).ok());
      EXPECT_EQ(pixels, expected) << original;
    }
    EXPECT_EQ(source->label(index), (*whole)->label(original));
  }
  EXPECT_EQ((*OpenDataset(folder_, Split::kTrain, 4, 3))->size(), 4);
  EXPECT_EQ((*OpenDataset(folder_, Split::kTest, 2, 3))->size(), 2);
  EXPECT_THAT(std::string(OpenDataset(folder_, Split::kTest, 0, 12).status().message()), HasSubstr("of 12 training images 12 cannot be held back"));
}

TEST_F(DatasetTest, ReadsCifar10FromFiveFiles) {
  for (int i = 1; i <= 5; ++i) Write(absl::StrCat("data_batch_", i, i == 3 ? ".bin.xz" : ".bin"), i == 3 ? Xz(CifarRecords(4, 1, 10)) : CifarRecords(4, 1, 10));
  const absl::StatusOr<ImageDataset> data = LoadDataset(folder_, Split::kTrain);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->images.sizes(), (at::IntArrayRef{20, 3, 32, 32}));
  EXPECT_EQ(data->classes, 10);
  EXPECT_EQ(data->labels.const_data_ptr<int64_t>()[19], 3);
  EXPECT_EQ(data->images.const_data_ptr<uint8_t>()[19 * 3072 + 2], 5);
  ASSERT_TRUE(LoadDataset(folder_, Split::kTrain, 6).ok());
  EXPECT_EQ(LoadDataset(folder_, Split::kTrain, 6)->size(), 6);
  std::filesystem::remove(folder_ + "/data_batch_4.bin");
  EXPECT_THAT(Failure(absl::StatusCode::kNotFound), HasSubstr("data_batch_4.bin"));
}

TEST_F(DatasetTest, ReadsFineLabelsOfCifar100) {
  Write("test.bin.xz", Xz(CifarRecords(90, 2, 100)));
  const absl::StatusOr<ImageDataset> data = LoadDataset(folder_, Split::kTest);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->classes, 100);
  EXPECT_EQ(data->labels.const_data_ptr<int64_t>()[89], 89);
}

TEST_F(DatasetTest, NamesWhatItLookedFor) {
  EXPECT_THAT(Failure(absl::StatusCode::kNotFound), HasSubstr("train-images-idx3-ubyte[.gz], data_batch_1.bin[.xz], train.bin[.xz]"));
  Write("train-images-idx3-ubyte", IdxImages(1, 28, 28));
  EXPECT_THAT(Failure(absl::StatusCode::kNotFound), HasSubstr("train-labels-idx1-ubyte"));
  EXPECT_THAT(LoadDataset(folder_ + "/absent", Split::kTrain).status().ToString(), HasSubstr("/absent does not exist"));
}

TEST_F(DatasetTest, TruncationAtEveryLengthNamesFileAndByte) {
  const std::string images = IdxImages(2, 3, 3), labels = IdxLabels(2);
  Write("train-labels-idx1-ubyte", labels);
  for (size_t length = 0; length < images.size(); ++length) {
    Write("train-images-idx3-ubyte", images.substr(0, length));
    const std::string message = Failure(absl::StatusCode::kDataLoss);
    EXPECT_THAT(message, HasSubstr("train-images-idx3-ubyte: byte "));
    // From the header on, sizes and length disagree; before it, the end itself is named.
    EXPECT_THAT(message, HasSubstr(length < 16 ? absl::StrCat("byte ", length, ": the file is truncated") : "cannot hold"));
  }
  Write("train-images-idx3-ubyte", images);
  for (size_t length = 0; length < labels.size(); ++length) {
    Write("train-labels-idx1-ubyte", labels.substr(0, length));
    EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train-labels-idx1-ubyte: byte "));
  }
}

TEST_F(DatasetTest, TruncatedGzipNamesTheByteOnDisk) {
  const std::string bytes = Gzip(IdxImages(3, 28, 28));
  Write("train-labels-idx1-ubyte", IdxLabels(3));
  for (size_t length = 0; length < bytes.size(); ++length) {
    Write("train-images-idx3-ubyte.gz", bytes.substr(0, length));
    const std::string message = Failure(absl::StatusCode::kDataLoss);
    EXPECT_THAT(message, ::testing::AnyOf(HasSubstr(absl::StrCat("byte ", length, ": the gzip file is truncated")), HasSubstr("cannot hold")));
  }
}

TEST_F(DatasetTest, TruncatedXzNamesTheByteOnDisk) {
  const std::string bytes = Xz(CifarRecords(2, 2, 100));
  for (size_t length = 0; length < bytes.size(); ++length) {
    Write("train.bin.xz", bytes.substr(0, length));
    EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr(absl::StrCat("train.bin.xz: byte ", length, ": the xz file is truncated")));
  }
}

TEST_F(DatasetTest, EveryFlippedByteOfACompressedFileIsSeen) {
  const std::string gz = Gzip(IdxImages(2, 28, 28)), xz = Xz(CifarRecords(1, 2, 100));
  Write("train-labels-idx1-ubyte", IdxLabels(2));
  for (size_t at = 10; at < gz.size(); ++at) {  // the first ten bytes hold a time and other fields without meaning
    std::string bad = gz;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    Write("train-images-idx3-ubyte.gz", bad);
    EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train-images-idx3-ubyte.gz: byte ")) << at;
  }
  std::filesystem::remove(folder_ + "/train-images-idx3-ubyte.gz");
  for (size_t at = 0; at < xz.size(); ++at) {
    std::string bad = xz;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    Write("train.bin.xz", bad);
    EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train.bin.xz: byte ")) << at;
  }
}

TEST_F(DatasetTest, WrongMagicNumber) {
  Write("train-images-idx3-ubyte", IdxLabels(20));
  Write("train-labels-idx1-ubyte", IdxLabels(2));
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train-images-idx3-ubyte: byte 0: magic number 0x00000801"));
  Write("train-images-idx3-ubyte.gz", "this is no gzip file");
  std::filesystem::remove(folder_ + "/train-images-idx3-ubyte");
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train-images-idx3-ubyte.gz: byte 2: damaged gzip data"));
}

TEST_F(DatasetTest, LabelOutOfRangeNamesItsByte) {
  std::string labels = IdxLabels(4);
  labels[8 + 2] = 10;
  Write("train-images-idx3-ubyte", IdxImages(4, 28, 28));
  Write("train-labels-idx1-ubyte", labels);
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train-labels-idx1-ubyte: byte 10: label 10 of image 2"));
  std::string records = CifarRecords(3, 2, 100);
  records[3074 + 1] = 100;
  std::filesystem::remove(folder_ + "/train-images-idx3-ubyte");
  Write("train.bin", records);
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train.bin: byte 3075: label 100"));
}

TEST_F(DatasetTest, SizesThatDisagree) {
  Write("train-images-idx3-ubyte", IdxImages(4, 28, 28));
  Write("train-labels-idx1-ubyte", IdxLabels(5));
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("5 labels do not fit 4 images"));
  Write("train-images-idx3-ubyte", IdxImages(5, 28, 28) + "x");
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("byte 3936: more bytes follow"));
  std::filesystem::remove(folder_ + "/train-images-idx3-ubyte");
  Write("train.bin", CifarRecords(2, 2, 100) + "\1\2\3");
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train.bin: byte 6151: the file is truncated"));
  Write("train.bin", "");
  EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train.bin: byte 0: the file holds no records"));
}

TEST_F(DatasetTest, HostileHeadersAllocateNothing) {
  Write("train-labels-idx1-ubyte", IdxLabels(2));
  for (const std::string& header : {BigEndian(0xffffffff) + BigEndian(28) + BigEndian(28), BigEndian(1) + BigEndian(0xffffffff) + BigEndian(0xffffffff),
                                    BigEndian(0) + BigEndian(28) + BigEndian(28), BigEndian(4) + BigEndian(0) + BigEndian(28)}) {
    Write("train-images-idx3-ubyte", BigEndian(0x803) + header + "pixels");
    EXPECT_THAT(Failure(absl::StatusCode::kDataLoss), HasSubstr("train-images-idx3-ubyte: byte "));
  }
}

TEST_F(DatasetTest, AFolderOrPipeInPlaceOfAFileIsRefused) {
  std::filesystem::create_directory(folder_ + "/train.bin");
  EXPECT_THAT(Failure(absl::StatusCode::kFailedPrecondition), HasSubstr("train.bin is not a file"));
  ASSERT_EQ(mkfifo((folder_ + "/test.bin").c_str(), 0600), 0);
  EXPECT_THAT(Failure(absl::StatusCode::kFailedPrecondition, Split::kTest), HasSubstr("test.bin is not a file"));
}

TEST(FashionMnistTest, TheRealSetIsWhole) {
  const std::string folder = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "package dataset-fashion-mnist is not installed";
  const absl::StatusOr<ImageDataset> test = LoadDataset(folder, Split::kTest);
  ASSERT_TRUE(test.ok()) << test.status();
  EXPECT_EQ(test->size(), 10'000);
  EXPECT_EQ(test->labels.sum().item<int64_t>(), 45'000);  // 1000 of each class
}

}  // namespace
}  // namespace bitstair::core
