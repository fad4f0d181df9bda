#include "server/security/audit_log.h"

#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace bitstair::server {
namespace {

constexpr size_t kMaxFileBytes = size_t{32} << 20;
constexpr size_t kMaxFiles = 8;

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& path) {
  try {
    spdlog::file_event_handlers handlers;
    handlers.after_open = [](const spdlog::filename_t&, std::FILE* file) { fchmod(fileno(file), 0600); };
    auto sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(path, kMaxFileBytes, kMaxFiles - 1, false, handlers);
    auto logger = std::make_shared<spdlog::logger>("audit", std::move(sink));
    logger->set_pattern("%v");
    logger->set_level(spdlog::level::info);
    logger->flush_on(spdlog::level::info);
    logger->set_error_handler([](const std::string& error) { spdlog::error("the audit log cannot be written: {}", error); });
    return std::unique_ptr<AuditLog>(new AuditLog(std::move(logger)));
  } catch (const spdlog::spdlog_ex& error) {
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", path, ": ", error.what()));
  }
}

AuditLog::~AuditLog() = default;

void AuditLog::Write(const AuditEntry& entry, const absl::Status& status) {
  nlohmann::ordered_json line{{"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone())}};
  const auto put = [&](const char* key, const std::string& value) {
    if (!value.empty()) line[key] = value;
  };
  put("who", entry.who);
  put("role", entry.role);
  put("peer", entry.peer);
  put("method", entry.method);
  put("target", entry.target);
  line["status"] = absl::StatusCodeToString(status.code());
  put("message", std::string(status.message()));
  logger_->info(line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

}  // namespace bitstair::server
