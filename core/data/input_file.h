// A file read from front to back, decompressed on the way: plain, .gz (zlib), .xz (liblzma), told by the name's end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitstair::core {

// Holds at most 64 KiB of the file and the decompressor's own window (at most 256 MiB for .xz), whatever the file says. Not thread-safe.
class InputFile {
 public:
  // NOT_FOUND or an I/O error names the path.
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(const std::string& path);
  virtual ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Fills out[0, size) or fails. DATA_LOSS names the file and the byte where it ends or is damaged.
  absl::Status Read(void* out, size_t size);

  // True if not one byte is left (and, in a compressed file, its check sums hold).
  absl::StatusOr<bool> AtEnd();

  // Bytes read so far, after decompression.
  uint64_t position() const { return position_; }
  const std::string& path() const { return path_; }
  // On disk.
  uint64_t file_bytes() const { return file_bytes_; }
  // The most that the whole file can hold after decompression; UINT64_MAX: not known beforehand.
  virtual uint64_t max_bytes() const = 0;

  // DATA_LOSS: "PATH: byte N: what". Bytes count after decompression, except where the compressed data itself is damaged.
  absl::Status Fault(uint64_t byte, const std::string& what) const;

 protected:
  explicit InputFile(std::string path);
  // At most `size` bytes; 0 only at the end.
  virtual absl::StatusOr<size_t> ReadSome(unsigned char* out, size_t size) = 0;
  // The next piece of the file as it is on disk; 0 at its end.
  absl::StatusOr<size_t> ReadRaw(unsigned char* out, size_t size);
  // Bytes read from disk.
  uint64_t raw_position() const { return raw_position_; }

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t file_bytes_ = 0;
  uint64_t raw_position_ = 0;
  uint64_t position_ = 0;
  bool peeked_ = false;  // AtEnd has read one byte ahead
  unsigned char peek_ = 0;
};

}  // namespace bitstair::core
