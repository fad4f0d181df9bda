#include "worker/named_folders.h"

#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace bitstair::worker {
namespace {

namespace fs = std::filesystem;

constexpr char kDebianFashionMnist[] = "/usr/share/datasets/fashion-mnist";

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> NamedFolders(const std::vector<std::string>& entries) {
  std::map<std::string, std::string> folders;
  std::error_code error;
  for (const std::string& entry : entries) {
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    if (equals == std::string::npos || name.empty() || equals + 1 == entry.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--data ", entry, ": write NAME=PATH"));
    }
    const fs::path folder = fs::absolute(entry.substr(equals + 1), error);
    if (error) return absl::InvalidArgumentError(absl::StrCat("--data ", entry, ": ", error.message()));
    if (!folders.emplace(name, folder.string()).second) return absl::InvalidArgumentError(absl::StrCat("--data: the name ", name, " is given twice"));
  }
  if (fs::is_directory(kDebianFashionMnist, error)) folders.emplace("fashion_mnist", kDebianFashionMnist);
  return folders;
}

}  // namespace bitstair::worker
