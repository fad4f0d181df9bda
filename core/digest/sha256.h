// SHA-256 of bytes and files. Free of LibTorch: the server and the worker link it too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::core {

// Incremental SHA-256 (FIPS 180-4). Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(absl::string_view bytes);
  // 64 lower-case hex digits. Ends the computation: neither function may be called afterwards.
  std::string HexDigest();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(absl::string_view bytes);

struct FileDigest {
  std::string sha256;  // 64 lower-case hex digits
  int64_t size_bytes = 0;
};

// Reads the whole file. NOT_FOUND or an I/O error names the path.
absl::StatusOr<FileDigest> Sha256OfFile(const std::string& path);

// True for 64 lower-case hex digits, the only form that is used as a file name or address.
bool IsSha256Hex(absl::string_view text);

}  // namespace bitstair::core
