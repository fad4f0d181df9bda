#include "core/checkpoint/checkpoint.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/safetensors.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"

namespace bitstair::core {
namespace {

using ::testing::HasSubstr;

Checkpoint Sample() {
  Checkpoint sample;
  sample.stage_key = std::string(64, 'a');
  sample.stage_name = "W4A8";
  sample.weight_bits = 4;
  sample.activation_bits = 8;
  sample.network = "convnet28";
  sample.epoch = 3;
  sample.step = 117;
  sample.world_size = 2;
  sample.epoch_loss_sum = 1.0 / 3.0;
  sample.epoch_correct = 4321;
  sample.tensors["conv1.weight"] = at::arange(27, at::kFloat).view({3, 3, 3}) / 7;
  sample.tensors["rank0/bn1.running_mean"] = at::arange(5, at::kDouble) / 3;
  sample.tensors["fc.bias"] = at::zeros({1}, at::kFloat);
  sample.tensors["labels"] = at::arange(4);
  sample.tensors["bytes"] = at::arange(3).to(at::kByte);
  sample.tensors["empty"] = at::zeros({0, 2}, at::kFloat);
  sample.tensors["scalar"] = at::scalar_tensor(2.5, at::kFloat);
  return sample;
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : folder_(absl::StrCat(::testing::TempDir(), "/checkpoint_", getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& bytes) {
    const std::string path = folder_ + "/file.safetensors";
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  const std::string folder_;
};

std::string WithHeader(std::string header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i)));
  return bytes + header + data;
}

TEST_F(CheckpointTest, ComesBackAsItWasSaved) {
  const Checkpoint sample = Sample();
  const absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(folder_, sample, "cpu");
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->path, folder_ + "/" + saved->sha256 + ".safetensors");
  EXPECT_EQ(std::filesystem::file_size(saved->path), static_cast<uintmax_t>(saved->size_bytes));
  EXPECT_EQ(Sha256OfFile(saved->path)->sha256, saved->sha256);
  const absl::StatusOr<Checkpoint> loaded = LoadCheckpoint(saved->path, saved->sha256);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->stage_key, sample.stage_key);
  EXPECT_EQ(loaded->stage_name, "W4A8");
  EXPECT_EQ(loaded->weight_bits, 4);
  EXPECT_EQ(loaded->activation_bits, 8);
  EXPECT_EQ(loaded->network, "convnet28");
  EXPECT_EQ(loaded->epoch, 3);
  EXPECT_EQ(loaded->step, 117);
  EXPECT_FALSE(loaded->final);
  EXPECT_EQ(loaded->world_size, 2);
  EXPECT_EQ(loaded->shards, 0);
  EXPECT_EQ(loaded->epoch_loss_sum, sample.epoch_loss_sum);
  EXPECT_EQ(loaded->epoch_correct, 4321);
  EXPECT_FALSE(loaded->pair.has_value());
  ASSERT_EQ(loaded->tensors.size(), sample.tensors.size());
  for (const auto& [name, tensor] : sample.tensors) {
    ASSERT_EQ(loaded->tensors.count(name), 1u) << name;
    EXPECT_TRUE(loaded->tensors.at(name).equal(tensor)) << name;
    EXPECT_EQ(loaded->tensors.at(name).scalar_type(), tensor.scalar_type()) << name;
  }
}

TEST_F(CheckpointTest, WithFixedShardsTheRanksAreNotInIt) {
  Checkpoint sample = Sample();
  sample.shards = 4;
  const absl::StatusOr<SavedCheckpoint> two = SaveCheckpoint(folder_, sample, "cpu");
  sample.world_size = 1;
  const absl::StatusOr<SavedCheckpoint> one = SaveCheckpoint(folder_, sample, "cpu");
  ASSERT_TRUE(two.ok() && one.ok());
  EXPECT_EQ(one->sha256, two->sha256);
  EXPECT_EQ(LoadCheckpoint(one->path)->shards, 4);
  sample.shards = 0;
  EXPECT_NE(SaveCheckpoint(folder_, sample, "cpu")->sha256, one->sha256);
}

TEST_F(CheckpointTest, BytesDependOnTheContentsAlone) {
  const absl::StatusOr<SavedCheckpoint> first = SaveCheckpoint(folder_, Sample(), "cpu");
  Checkpoint strided = Sample();
  strided.tensors["conv1.weight"] = strided.tensors["conv1.weight"].transpose(0, 2).contiguous().transpose(0, 2);
  const absl::StatusOr<SavedCheckpoint> second = SaveCheckpoint(folder_, strided, "another profile");
  Checkpoint other = Sample();
  other.tensors["fc.bias"][0] = -0.0f;
  const absl::StatusOr<SavedCheckpoint> third = SaveCheckpoint(folder_, other, "cpu");
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  EXPECT_EQ(first->sha256, second->sha256);
  EXPECT_NE(first->sha256, third->sha256);
}

TEST_F(CheckpointTest, ManifestNamesDigestPositionAndProfile) {
  const absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(folder_, Sample(), "cpu avx2 threads=1");
  ASSERT_TRUE(saved.ok());
  const absl::StatusOr<std::string> manifest = ReadFile(folder_ + "/" + saved->sha256 + ".manifest.json");
  ASSERT_TRUE(manifest.ok());
  for (const std::string& part :
       {saved->sha256, absl::StrCat("\"size_bytes\": ", saved->size_bytes), std::string("\"step\": 117"), std::string("cpu avx2 threads=1")}) {
    EXPECT_THAT(*manifest, HasSubstr(part));
  }
}

TEST_F(CheckpointTest, AnUnwritableFolderIsNamed) {
  EXPECT_THAT(SaveCheckpoint(folder_ + "/absent", Sample(), "cpu").status().ToString(), HasSubstr(folder_ + "/absent"));
}

TEST_F(CheckpointTest, AnotherDigestIsDataLoss) {
  const absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(folder_, Sample(), "cpu");
  ASSERT_TRUE(saved.ok());
  const absl::StatusOr<Checkpoint> loaded = LoadCheckpoint(saved->path, std::string(64, '0'));
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(loaded.status().ToString(), HasSubstr(saved->path));
}

TEST_F(CheckpointTest, TruncationAtEveryLengthIsDataLossNamingFileAndByte) {
  const absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(folder_, Sample(), "cpu");
  ASSERT_TRUE(saved.ok());
  const std::string bytes = *ReadFile(saved->path);
  for (size_t length = 0; length < bytes.size(); ++length) {
    const std::string path = Write(bytes.substr(0, length));
    const absl::StatusOr<Checkpoint> loaded = LoadCheckpoint(path);
    ASSERT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss) << length << loaded.status();
    ASSERT_THAT(std::string(loaded.status().message()), HasSubstr(absl::StrCat(path, ": byte ", length, ": "))) << length;
  }
  EXPECT_EQ(LoadCheckpoint(Write(bytes + "x")).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, EveryFlippedBitIsSeenByTheDigestAndNeverCrashesTheReader) {
  const absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(folder_, Sample(), "cpu");
  ASSERT_TRUE(saved.ok());
  const std::string bytes = *ReadFile(saved->path);
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = bytes;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      (void)DecodeSafetensors(bad, "flipped");
      if (bit != 3) continue;
      ASSERT_EQ(LoadCheckpoint(Write(bad), saved->sha256).status().code(), absl::StatusCode::kDataLoss);
    }
  }
}

TEST(SafetensorsTest, TheWorkedExampleOfTheDocument) {
  SafetensorsFile file;
  file.tensors["w"] = at::ones({1});
  const absl::StatusOr<std::string> bytes = EncodeSafetensors(file);
  ASSERT_TRUE(bytes.ok());
  const std::string expected =
      std::string("\x38\0\0\0\0\0\0\0", 8) + R"({"w":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}}  )" + std::string("\0\0\x80\x3f", 4);
  EXPECT_EQ(*bytes, expected);
}

TEST(SafetensorsTest, RefusesADtypeItDoesNotHold) {
  SafetensorsFile file;
  file.tensors["w"] = at::ones({1}, at::kHalf);
  EXPECT_THAT(EncodeSafetensors(file).status().ToString(), HasSubstr("tensor w"));
}

TEST(SafetensorsTest, HostileHeadersAreDataLoss) {
  const std::string eight(8, 'x');
  const std::string max_length = std::string(7, '\xff') + '\x7f';
  const std::string cases[] = {
      max_length + eight,
      WithHeader("[]", ""),
      WithHeader("", ""),
      WithHeader("{", ""),
      WithHeader(std::string(1 << 20, '['), ""),
      WithHeader("{\"w\":" + std::string(1 << 20, '['), ""),
      WithHeader(R"({"w":7})", eight),
      WithHeader(R"({"w":{}})", eight),
      WithHeader(R"({"__metadata__":[]})", ""),
      WithHeader(R"({"__metadata__":{"a":1}})", ""),
      WithHeader(R"({"w":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[1099511627776,1099511627776,0],"data_offsets":[0,0]}})", ""),
      WithHeader(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[8,0]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", eight),
      WithHeader(R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight),
      WithHeader(R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})", eight),
      WithHeader(R"({"w":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]}})", eight),
      WithHeader("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", eight),
  };
  for (const std::string& bytes : cases) {
    const absl::StatusOr<SafetensorsFile> file = DecodeSafetensors(bytes, "hostile");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << bytes.substr(0, 120);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("hostile: byte "));
  }
}

TEST_F(CheckpointTest, MetadataIsChecked) {
  const absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(folder_, Sample(), "cpu");
  ASSERT_TRUE(saved.ok());
  const SafetensorsFile good = *DecodeSafetensors(*ReadFile(saved->path), "good");
  for (const auto& [word, value] : good.metadata) {
    SafetensorsFile bad = good;
    bad.metadata.erase(word);
    const absl::StatusOr<Checkpoint> loaded = LoadCheckpoint(Write(*EncodeSafetensors(bad)));
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(word));
  }
  for (const auto& [word, value] : {std::pair("epoch", "-1"), std::pair("step", "1e3"), std::pair("final", "2"), std::pair("epoch_loss_sum", "nan"),
                                    std::pair("format", "bitstair-checkpoint-9"), std::pair("weight_bits", "33")}) {
    SafetensorsFile bad = good;
    bad.metadata[word] = value;
    EXPECT_THAT(LoadCheckpoint(Write(*EncodeSafetensors(bad))).status().ToString(), HasSubstr(word));
  }
}

}  // namespace
}  // namespace bitstair::core
