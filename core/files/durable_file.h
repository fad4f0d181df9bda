// Files that are whole or absent, also after a crash. Free of LibTorch: the server and the worker link it too.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::core {

// Writes `bytes` to `path`: temporary name in the same folder, fsync, rename, fsync of the folder. An existing file is replaced whole.
absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes);

// The last three of those steps for a file that is written already: fsync `temporary`, rename it to `path`, fsync the folder.
absl::Status PublishFile(const std::string& temporary, const std::string& path);

// The whole file. NOT_FOUND or an I/O error names the path; OUT_OF_RANGE if it is longer than max_bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = size_t{1} << 31);

// Makes the folder and its parents (mode 0700 for those it makes). Fails, naming the path, where it cannot be written to.
absl::Status MakeWritableDirectory(const std::string& path);

// Size and free bytes of the file system that `path` is on; zeros where they cannot be told.
struct Disk {
  int64_t size_bytes = 0;
  int64_t free_bytes = 0;
};
Disk DiskOf(const std::string& path);

}  // namespace bitstair::core
