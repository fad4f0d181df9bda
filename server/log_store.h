// What trainers wrote, one file per attempt and rank:  DIR/JOB/STAGE/GENERATION.RANK.log
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::server {

struct LogFile {
  std::string job_id;
  std::string stage;  // "W4A8"
  int generation = 0;
  int rank = 0;
};

// Thread-safe; calls block on the disk. Logs are for people: they are not synced, and a chunk that got lost leaves a gap that Read skips.
class LogStore {
 public:
  static constexpr int64_t kMaxBytes = int64_t{64} << 20;  // per rank and attempt; what comes after is dropped

  // Files and folders are made when the first chunk comes.
  explicit LogStore(std::string directory) : directory_(std::move(directory)) {}

  // Writes `text` at `offset`. A chunk that comes again changes nothing.
  absl::Status Append(const LogFile& file, int64_t offset, absl::string_view text);

  struct Chunk {
    std::string text;         // without gaps
    int64_t next_offset = 0;  // equals the offset asked for at the present end
  };
  // At most max_bytes from `offset`; empty at the end or if there is no such log yet.
  absl::StatusOr<Chunk> Read(const LogFile& file, int64_t offset, size_t max_bytes) const;

 private:
  std::string PathOf(const LogFile& file) const;

  const std::string directory_;
};

}  // namespace bitstair::server
