#include "core/data/input_file.h"

#include <fcntl.h>
#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

constexpr size_t kBufferBytes = 64 << 10;
constexpr uint64_t kMaxXzMemory = 256 << 20;
// Deflate codes at most 258 bytes with two bits.
constexpr uint64_t kMaxGzipRatio = 1032;

class PlainFile final : public InputFile {
 public:
  explicit PlainFile(std::string path) : InputFile(std::move(path)) {}
  uint64_t max_bytes() const override { return file_bytes(); }

 private:
  absl::StatusOr<size_t> ReadSome(unsigned char* out, size_t size) override { return ReadRaw(out, size); }
};

class GzipFile final : public InputFile {
 public:
  explicit GzipFile(std::string path) : InputFile(std::move(path)) { inflateInit2(&stream_, 15 + 16); }
  ~GzipFile() override { inflateEnd(&stream_); }
  uint64_t max_bytes() const override { return file_bytes() * kMaxGzipRatio; }

 private:
  absl::StatusOr<size_t> ReadSome(unsigned char* out, size_t size) override {
    stream_.next_out = out;
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(size, std::numeric_limits<int>::max()));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (stream_.avail_in == 0) {
        const absl::StatusOr<size_t> got = ReadRaw(buffer_.data(), buffer_.size());
        if (!got.ok()) return got.status();
        if (*got == 0 && between_members_) return size_t{0};
        if (*got == 0) return Fault(raw_position(), "the gzip file is truncated");
        stream_.next_in = buffer_.data();
        stream_.avail_in = static_cast<uInt>(*got);
      }
      if (between_members_) inflateReset(&stream_);
      between_members_ = false;
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {
        between_members_ = true;
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        return Fault(raw_position() - stream_.avail_in, absl::StrCat("damaged gzip data: ", stream_.msg != nullptr ? stream_.msg : zError(code)));
      }
    }
    return wanted - stream_.avail_out;
  }

  z_stream stream_ = {};
  bool between_members_ = false;
  std::array<unsigned char, kBufferBytes> buffer_;
};

class XzFile final : public InputFile {
 public:
  explicit XzFile(std::string path) : InputFile(std::move(path)) { start_ = lzma_stream_decoder(&stream_, kMaxXzMemory, LZMA_CONCATENATED); }
  ~XzFile() override { lzma_end(&stream_); }
  uint64_t max_bytes() const override { return std::numeric_limits<uint64_t>::max(); }

 private:
  absl::StatusOr<size_t> ReadSome(unsigned char* out, size_t size) override {
    if (start_ != LZMA_OK) return absl::ResourceExhaustedError(absl::StrCat("cannot decompress ", path(), ": liblzma error ", start_));
    if (ended_) return size_t{0};
    stream_.next_out = out;
    stream_.avail_out = size;
    while (stream_.avail_out == size) {
      lzma_action action = LZMA_RUN;
      if (stream_.avail_in == 0) {
        const absl::StatusOr<size_t> got = ReadRaw(buffer_.data(), buffer_.size());
        if (!got.ok()) return got.status();
        stream_.next_in = buffer_.data();
        stream_.avail_in = *got;
        if (*got == 0) action = LZMA_FINISH;
      }
      const lzma_ret code = lzma_code(&stream_, action);
      const uint64_t at = raw_position() - stream_.avail_in;
      if (code == LZMA_STREAM_END) {
        ended_ = true;
        break;
      }
      if (code == LZMA_OK) continue;
      if (code == LZMA_BUF_ERROR) return Fault(at, "the xz file is truncated");
      if (code == LZMA_FORMAT_ERROR) return Fault(at, "not an xz file");
      if (code == LZMA_MEMLIMIT_ERROR) return Fault(at, "the xz file needs more than 256 MiB to decompress");
      return Fault(at, absl::StrCat("damaged xz data (liblzma error ", code, ")"));
    }
    return size - stream_.avail_out;
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
  lzma_ret start_ = LZMA_OK;
  bool ended_ = false;
  std::array<unsigned char, kBufferBytes> buffer_;
};

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(const std::string& path) {
  std::unique_ptr<InputFile> file;
  if (absl::EndsWith(path, ".gz")) {
    file = std::make_unique<GzipFile>(path);
  } else if (absl::EndsWith(path, ".xz")) {
    file = std::make_unique<XzFile>(path);
  } else {
    file = std::make_unique<PlainFile>(path);
  }
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  file->fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info = {};
  if (file->fd_ < 0 || fstat(file->fd_, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  if (!S_ISREG(info.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, " is not a file"));
  file->file_bytes_ = static_cast<uint64_t>(info.st_size);
  return file;
}

absl::StatusOr<size_t> InputFile::ReadRaw(unsigned char* out, size_t size) {
  while (true) {
    const ssize_t got = read(fd_, out, size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_));
    raw_position_ += static_cast<uint64_t>(got);
    return static_cast<size_t>(got);
  }
}

absl::Status InputFile::Read(void* out, size_t size) {
  unsigned char* bytes = static_cast<unsigned char*>(out);
  size_t done = 0;
  if (peeked_ && size > 0) {
    bytes[done++] = peek_;
    peeked_ = false;
  }
  while (done < size) {
    const absl::StatusOr<size_t> got = ReadSome(bytes + done, size - done);
    if (!got.ok()) return got.status();
    if (*got == 0) return Fault(position_ + done, "the file is truncated");
    done += *got;
  }
  position_ += size;
  return absl::OkStatus();
}

absl::StatusOr<bool> InputFile::AtEnd() {
  if (peeked_) return false;
  const absl::StatusOr<size_t> got = ReadSome(&peek_, 1);
  if (!got.ok()) return got.status();
  peeked_ = *got == 1;
  return !peeked_;
}

absl::Status InputFile::Fault(uint64_t byte, const std::string& what) const {
  return absl::DataLossError(absl::StrCat(path_, ": byte ", byte, ": ", what));
}

}  // namespace bitstair::core
