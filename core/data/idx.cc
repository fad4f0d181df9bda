#include "core/data/idx.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/data/input_file.h"

namespace bitstair::core {
namespace {

constexpr uint32_t kImagesMagic = 0x00000803;
constexpr uint32_t kLabelsMagic = 0x00000801;
constexpr int kClasses = 10;
constexpr uint32_t kMaxSide = 1024;
constexpr uint64_t kMaxBytes = uint64_t{2} << 30;

// A big-endian number of the header.
absl::StatusOr<uint32_t> ReadNumber(InputFile& file) {
  unsigned char b[4];
  const absl::Status status = file.Read(b, sizeof b);
  if (!status.ok()) return status;
  return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | b[3];
}

absl::Status ExpectMagic(InputFile& file, uint32_t magic, const char* kind) {
  const absl::StatusOr<uint32_t> got = ReadNumber(file);
  if (!got.ok()) return got.status();
  if (*got != magic) return file.Fault(0, absl::StrFormat("magic number 0x%08x is not that of IDX %s (0x%08x)", *got, kind, magic));
  return absl::OkStatus();
}

// Whether a file can hold as many bytes as its header claims; before any of them is allocated.
absl::Status CheckClaim(const InputFile& file, uint64_t claimed_bytes) {
  if (claimed_bytes > kMaxBytes || claimed_bytes + file.position() > file.max_bytes()) {
    return file.Fault(4, absl::StrCat("the header asks for ", claimed_bytes, " bytes, which the file of ", file.file_bytes(), " bytes cannot hold"));
  }
  return absl::OkStatus();
}

absl::Status ExpectEnd(InputFile& file) {
  const absl::StatusOr<bool> end = file.AtEnd();
  if (!end.ok()) return end.status();
  if (!*end) return file.Fault(file.position(), "more bytes follow than the header says");
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> ReadImages(const std::string& path, int64_t limit, uint32_t* count) {
  absl::StatusOr<std::unique_ptr<InputFile>> opened = InputFile::Open(path);
  if (!opened.ok()) return opened.status();
  InputFile& file = **opened;
  if (const absl::Status status = ExpectMagic(file, kImagesMagic, "images"); !status.ok()) return status;
  uint32_t sizes[3] = {};  // images, rows, columns
  for (uint32_t& size : sizes) {
    const absl::StatusOr<uint32_t> number = ReadNumber(file);
    if (!number.ok()) return number.status();
    size = *number;
  }
  if (sizes[0] == 0) return file.Fault(4, "the file holds no images");
  for (int i = 1; i < 3; ++i) {
    if (sizes[i] == 0 || sizes[i] > kMaxSide) return file.Fault(4 + 4 * i, absl::StrCat("an image side of ", sizes[i], " pixels is outside 1..", kMaxSide));
  }
  if (const absl::Status status = CheckClaim(file, uint64_t{sizes[0]} * sizes[1] * sizes[2]); !status.ok()) return status;
  *count = sizes[0];
  const int64_t wanted = limit > 0 ? std::min<int64_t>(limit, sizes[0]) : sizes[0];
  at::Tensor images = at::empty({wanted, 1, sizes[1], sizes[2]}, at::kByte);
  if (const absl::Status status = file.Read(images.data_ptr(), images.numel()); !status.ok()) return status;
  if (wanted == sizes[0]) {
    if (const absl::Status status = ExpectEnd(file); !status.ok()) return status;
  }
  return images;
}

absl::StatusOr<at::Tensor> ReadLabels(const std::string& path, uint32_t images, int64_t wanted) {
  absl::StatusOr<std::unique_ptr<InputFile>> opened = InputFile::Open(path);
  if (!opened.ok()) return opened.status();
  InputFile& file = **opened;
  if (const absl::Status status = ExpectMagic(file, kLabelsMagic, "labels"); !status.ok()) return status;
  const absl::StatusOr<uint32_t> count = ReadNumber(file);
  if (!count.ok()) return count.status();
  if (*count != images) return file.Fault(4, absl::StrCat(*count, " labels do not fit ", images, " images"));
  if (const absl::Status status = CheckClaim(file, *count); !status.ok()) return status;
  std::vector<unsigned char> bytes(static_cast<size_t>(wanted));
  if (const absl::Status status = file.Read(bytes.data(), bytes.size()); !status.ok()) return status;
  at::Tensor labels = at::empty({wanted}, at::kLong);
  int64_t* out = labels.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < wanted; ++i) {
    if (bytes[i] >= kClasses) return file.Fault(8 + i, absl::StrCat("label ", bytes[i], " of image ", i, " is not below ", kClasses));
    out[i] = bytes[i];
  }
  if (wanted == images) {
    if (const absl::Status status = ExpectEnd(file); !status.ok()) return status;
  }
  return labels;
}

}  // namespace

absl::StatusOr<ImageDataset> LoadIdx(const std::string& images_path, const std::string& labels_path, int64_t limit) {
  uint32_t count = 0;
  absl::StatusOr<at::Tensor> images = ReadImages(images_path, limit, &count);
  if (!images.ok()) return images.status();
  absl::StatusOr<at::Tensor> labels = ReadLabels(labels_path, count, images->size(0));
  if (!labels.ok()) return labels.status();
  ImageDataset data;
  data.images = *std::move(images);
  data.labels = *std::move(labels);
  data.classes = kClasses;
  // Of Fashion-MNIST's training pixels; used for every IDX set, so that no number depends on a folder's name.
  data.mean = {0.2860f};
  data.std = {0.3530f};
  return data;
}

}  // namespace bitstair::core
