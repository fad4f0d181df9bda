#include "core/data/cifar.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/data/input_file.h"

namespace bitstair::core {
namespace {

constexpr size_t kPixels = 3 * 32 * 32;
constexpr size_t kMaxRecords = 500'000;  // 1.5 GB, ten times the largest known file

struct Records {
  std::vector<uint8_t> pixels;
  std::vector<int64_t> labels;
};

// Appends the records of one file until its end or until `limit` records (0: no limit) are there.
absl::Status AppendRecords(CifarKind kind, const std::string& path, size_t limit, Records& records) {
  absl::StatusOr<std::unique_ptr<InputFile>> opened = InputFile::Open(path);
  if (!opened.ok()) return opened.status();
  InputFile& file = **opened;
  const size_t label_bytes = kind == CifarKind::kCifar10 ? 1 : 2;
  const int classes = kind == CifarKind::kCifar10 ? 10 : 100;
  while (limit == 0 || records.labels.size() < limit) {
    const absl::StatusOr<bool> end = file.AtEnd();
    if (!end.ok()) return end.status();
    if (*end) {
      if (file.position() == 0) return file.Fault(0, "the file holds no records");
      return absl::OkStatus();
    }
    const uint64_t at = file.position();
    if (records.labels.size() == kMaxRecords) return file.Fault(at, absl::StrCat("more than ", kMaxRecords, " records"));
    std::array<unsigned char, 2> label = {};
    if (const absl::Status status = file.Read(label.data(), label_bytes); !status.ok()) return status;
    const int value = label[label_bytes - 1];
    if (value >= classes) return file.Fault(at + label_bytes - 1, absl::StrCat("label ", value, " is not below ", classes));
    if (label_bytes == 2 && label[0] >= 20) return file.Fault(at, absl::StrCat("coarse label ", label[0], " is not below 20"));
    records.labels.push_back(value);
    records.pixels.resize(records.pixels.size() + kPixels);
    if (const absl::Status status = file.Read(records.pixels.data() + records.pixels.size() - kPixels, kPixels); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImageDataset> LoadCifar(CifarKind kind, const std::vector<std::string>& paths, int64_t limit) {
  auto records = std::make_unique<Records>();
  for (const std::string& path : paths) {
    if (limit > 0 && records->labels.size() >= static_cast<size_t>(limit)) break;
    if (const absl::Status status = AppendRecords(kind, path, static_cast<size_t>(std::max<int64_t>(limit, 0)), *records); !status.ok()) return status;
  }
  const int64_t count = static_cast<int64_t>(records->labels.size());
  ImageDataset data;
  data.labels = at::empty({count}, at::kLong);
  std::copy(records->labels.begin(), records->labels.end(), data.labels.mutable_data_ptr<int64_t>());
  // The tensor owns the records from here on.
  Records* owned = records.release();
  data.images = at::from_blob(
      owned->pixels.data(), {count, 3, 32, 32}, [owned](void*) { delete owned; }, at::TensorOptions().dtype(at::kByte));
  if (kind == CifarKind::kCifar10) {
    data.classes = 10;
    data.mean = {0.4914f, 0.4822f, 0.4465f};
    data.std = {0.2470f, 0.2435f, 0.2616f};
  } else {
    data.classes = 100;
    data.mean = {0.5071f, 0.4865f, 0.4409f};
    data.std = {0.2673f, 0.2564f, 0.2762f};
  }
  return data;
}

}  // namespace bitstair::core
