#include "core/import/torch_file.h"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

using ::testing::HasSubstr;

std::string Text(const std::string& text) {
  return absl::StrCat("X", std::string{static_cast<char>(text.size()), 0, 0, 0}, text);
}

// A 2x3 tensor of storage "0", which `global` must make.
std::string Tensor(const std::string& global = "torch._utils\n_rebuild_tensor_v2\n", const std::string& sizes = "K\x02K\x03\x86") {
  return absl::StrCat("c", global, "((", Text("storage"), "ctorch\nFloatStorage\n", Text("0"), Text("cpu"), "K\x06tQ", absl::string_view("K\0", 2), sizes,
                      "K\x03K\x01\x86\x89", "ccollections\nOrderedDict\n)RtR");
}

std::string DictOf(const std::string& tensor) {
  return absl::StrCat("\x80\x02}", Text("w"), tensor, "s", Text("epoch"), "K\x07s.");
}

std::string Storage() {
  const at::Tensor values = at::arange(6, at::kFloat);
  return std::string(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
}

std::string Legacy(const std::string& object) {
  return absl::StrCat(absl::string_view("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15), "\x80\x02M\xe9\x03.\x80\x02}", Text("little_endian"),
                      "\x88s.", object, "\x80\x02]", Text("0"), "a.", std::string{6, 0, 0, 0, 0, 0, 0, 0}, Storage());
}

std::string Zip(const std::string& object) {
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter writer([&bytes](const void* data, size_t size) {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  });
  const std::string storage = Storage();
  writer.writeRecord("data.pkl", object.data(), object.size());
  writer.writeRecord("data/0", storage.data(), storage.size());
  writer.writeEndOfFile();
  return bytes;
}

TEST(TorchFileTest, BothFormatsGiveTheTensors) {
  for (const std::string& bytes : {Zip(DictOf(Tensor())), Legacy(DictOf(Tensor()))}) {
    ASSERT_TRUE(IsTorchFile(bytes));
    const auto tensors = DecodeTorchFile(bytes, "f");
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    ASSERT_EQ(tensors->size(), 1u) << "the number beside it is passed over";
    EXPECT_TRUE(tensors->at("w").equal(at::arange(6, at::kFloat).view({2, 3})));
  }
}

TEST(TorchFileTest, CodeIsRefusedByName) {
  for (const std::string& bytes : {Zip(DictOf(Tensor("posix\nsystem\n"))), Legacy(DictOf(Tensor("posix\nsystem\n")))}) {
    const absl::Status status = DecodeTorchFile(bytes, "f").status();
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("posix.system"));
  }
}

TEST(TorchFileTest, ATensorBeyondItsStorageIsRefusedByName) {
  const absl::Status status = DecodeTorchFile(Legacy(DictOf(Tensor("torch._utils\n_rebuild_tensor_v2\n", "K\x03K\x03\x86"))), "f").status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor w reaches beyond its storage"));
}

TEST(TorchFileTest, NoTruncationAndNoFlippedByteCrashes) {
  for (const std::string& bytes : {Zip(DictOf(Tensor())), Legacy(DictOf(Tensor()))}) {
    for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(DecodeTorchFile(absl::string_view(bytes).substr(0, size), "f").ok()) << size;
    int refused = 0;
    for (uint32_t i = 0; i < 4000; ++i) {
      const auto random = Philox4x32(1, {99, i, 0, 0});
      std::string damaged = bytes;
      for (uint32_t flips = 0; flips <= random[0] % 3; ++flips) damaged[random[1 + flips] % damaged.size()] = static_cast<char>(random[0] >> (8 * flips + 8));
      const auto tensors = DecodeTorchFile(damaged, "f");
      refused += tensors.ok() ? 0 : 1;
      const std::string message = tensors.ok() ? "f: " : std::string(tensors.status().message());
      EXPECT_THAT(message, testing::StartsWith("f: "));
    }
    EXPECT_GT(refused, 0);
  }
}

}  // namespace
}  // namespace bitstair::core
