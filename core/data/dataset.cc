#include "core/data/dataset.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/data/cifar.h"
#include "core/data/idx.h"

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

}  // namespace

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
  return absl::NotFoundError(absl::StrCat("no data set in ", folder, ": looked for ", absl::StrJoin(looked_for, ", ")));
}

}  // namespace bitstair::core
