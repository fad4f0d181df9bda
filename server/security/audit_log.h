// Who did what, and what was refused: STATE_DIR/audit.log, one JSON object per line.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spdlog {
class logger;
}

namespace bitstair::server {

struct AuditEntry {
  std::string who;     // "alice (tokens/0a1b2c3d4e)"; empty: not known
  std::string role;    // "admin"
  std::string peer;    // "ipv4:10.0.0.7:41234"
  std::string method;  // "CancelJob"; "handshake" for a connection that came to no call
  std::string target;  // what it was about, "jobs/x"; never the content of a request
};

// Thread-safe. Files of at most 32 MiB, the newest 8 of them; readable by the owner alone.
class AuditLog {
 public:
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path);
  ~AuditLog();

  // status: of the call. Its message goes into the entry.
  void Write(const AuditEntry& entry, const absl::Status& status);

 private:
  explicit AuditLog(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {}

  const std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace bitstair::server
