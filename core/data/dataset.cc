#include "core/data/dataset.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/data/cifar.h"
#include "core/data/idx.h"
#include "core/data/image_folder.h"
#include "core/data/sample_range.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

// FOLDER/name, or with the suffix of its compressed form; nothing if neither is there.
std::optional<std::string> FindFile(const std::string& folder, const std::string& name, const char* compressed_suffix) {
  for (const std::string& candidate : {absl::StrCat(folder, "/", name), absl::StrCat(folder, "/", name, compressed_suffix)}) {
    std::error_code error;
    if (std::filesystem::exists(candidate, error)) return candidate;
  }
  return std::nullopt;
}

// All of `names`, or NOT_FOUND naming the one that is missing.
absl::StatusOr<std::vector<std::string>> FindFiles(const std::string& folder, const std::vector<std::string>& names, const char* compressed_suffix) {
  std::vector<std::string> paths;
  for (const std::string& name : names) {
    std::optional<std::string> path = FindFile(folder, name, compressed_suffix);
    if (!path.has_value()) return absl::NotFoundError(absl::StrCat(folder, " has no file ", name, "[", compressed_suffix, "]"));
    paths.push_back(*std::move(path));
  }
  return paths;
}

struct Format {
  const char* compressed_suffix;
  std::vector<std::string> train;
  std::vector<std::string> test;
  absl::StatusOr<ImageDataset> (*load)(const std::vector<std::string>& paths, int64_t limit);
};

const std::vector<Format>& Formats() {
  static const auto* const formats = new std::vector<Format>{
      {".gz",
       {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
       {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"},
       [](const std::vector<std::string>& paths, int64_t limit) { return LoadIdx(paths[0], paths[1], limit); }},
      {".xz",
       {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
       {"test_batch.bin"},
       [](const std::vector<std::string>& paths, int64_t limit) { return LoadCifar(CifarKind::kCifar10, paths, limit); }},
      {".xz", {"train.bin"}, {"test.bin"}, [](const std::vector<std::string>& paths, int64_t limit) { return LoadCifar(CifarKind::kCifar100, paths, limit); }},
  };
  return *formats;
}

// Where ImageNet's layout has the split.
std::string ClassFolders(const std::string& folder, Split split) {
  return absl::StrCat(folder, split == Split::kTrain ? "/train" : "/val");
}

bool IsDirectory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

}  // namespace

ImageShape ImageDataset::shape() const {
  return {static_cast<int>(images.size(1)), static_cast<int>(images.size(2)), static_cast<int>(images.size(3))};
}

absl::Status ImageDataset::Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const {
  const ImageShape s = shape();
  const uint8_t* in = images.const_data_ptr<uint8_t>() + index * s.size();
  if (key == nullptr) {
    std::copy(in, in + s.size(), pixels);
    return absl::OkStatus();
  }
  const int pad = s.height == 28 && s.width == 28 ? 2 : 4;
  const uint32_t choices = static_cast<uint32_t>(2 * pad + 1), image = static_cast<uint32_t>(index);
  // Of the crop, in the coordinates of the unpadded image.
  const int top = static_cast<int>(UniformInteger(key->seed, Purpose::kCrop, key->epoch, image, 0, choices)) - pad;
  const int left = static_cast<int>(UniformInteger(key->seed, Purpose::kCrop, key->epoch, image, 1, choices)) - pad;
  const bool flip = (Philox4x32(key->seed, Purpose::kFlip, key->epoch, image, 0)[0] & 1) != 0;
  for (int c = 0; c < s.channels; ++c) {
    const uint8_t* plane = in + int64_t{c} * s.height * s.width;
    for (int y = 0; y < s.height; ++y) {
      const int from_y = y + top;
      for (int x = 0; x < s.width; ++x) {
        const int from_x = (flip ? s.width - 1 - x : x) + left;
        const bool inside = from_y >= 0 && from_y < s.height && from_x >= 0 && from_x < s.width;
        *pixels++ = inside ? plane[from_y * s.width + from_x] : 0;
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ImageDataset> LoadDataset(const std::string& folder, Split split, int64_t limit) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(
        absl::StrCat("data folder ", folder, error && error != std::errc::no_such_file_or_directory ? ": " + error.message() : " does not exist"));
  }
  std::vector<std::string> looked_for;
  for (const Format& format : Formats()) {
    const std::vector<std::string>& names = split == Split::kTrain ? format.train : format.test;
    // The first file tells the format.
    if (!FindFile(folder, names.front(), format.compressed_suffix).has_value()) {
      looked_for.push_back(absl::StrCat(names.front(), "[", format.compressed_suffix, "]"));
      continue;
    }
    const absl::StatusOr<std::vector<std::string>> paths = FindFiles(folder, names, format.compressed_suffix);
    if (!paths.ok()) return paths.status();
    try {
      return format.load(*paths, limit);
    } catch (const std::exception& failure) {  // allocation
      return absl::ResourceExhaustedError(absl::StrCat("cannot hold the images of ", folder, " in memory: ", failure.what()));
    }
  }
  return absl::NotFoundError(absl::StrCat("no data set in ", folder, ": looked for ", absl::StrJoin(looked_for, ", "), ", train/CLASS/*.JPEG"));
}

absl::StatusOr<std::unique_ptr<SampleSource>> OpenDataset(const std::string& folder, Split split, int64_t limit, int64_t held_back) {
  if (held_back > 0) {
    absl::StatusOr<std::unique_ptr<SampleSource>> whole = OpenDataset(folder, Split::kTrain);
    if (!whole.ok()) return whole.status();
    const int64_t kept = (*whole)->size() - held_back;
    if (kept <= 0) return absl::InvalidArgumentError(absl::StrCat(folder, ": of ", (*whole)->size(), " training images ", held_back, " cannot be held back"));
    const int64_t first = split == Split::kTrain ? 0 : kept, count = split == Split::kTrain ? kept : held_back;
    return std::make_unique<SampleRange>(*std::move(whole), first, limit > 0 ? std::min(limit, count) : count);
  }
  absl::StatusOr<ImageDataset> in_memory = LoadDataset(folder, split, limit);
  if (in_memory.ok()) return std::make_unique<ImageDataset>(*std::move(in_memory));
  if (!absl::IsNotFound(in_memory.status())) return in_memory.status();
  if (!IsDirectory(ClassFolders(folder, Split::kTrain)) && !IsDirectory(ClassFolders(folder, Split::kTest))) return in_memory.status();
  absl::StatusOr<std::unique_ptr<ImageFolder>> images = ImageFolder::Open(ClassFolders(folder, split), limit);
  if (!images.ok()) return images.status();
  return *std::move(images);
}

}  // namespace bitstair::core
