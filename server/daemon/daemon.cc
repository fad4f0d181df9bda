#include "server/daemon/daemon.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bitstair::daemon {

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  HostPort result;
  if (colon == absl::string_view::npos || colon == 0 || !absl::SimpleAtoi(text.substr(colon + 1), &result.port) || result.port < 0 || result.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not HOST:PORT (port 0 to 65535)"));
  }
  absl::string_view host = text.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) {
    if (!absl::ConsumeSuffix(&host, "]")) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" lacks a ]"));
    if (host.empty()) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" has no host"));
  } else if (host.find(':') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": write an IPv6 address in brackets"));
  }
  result.host = std::string(host);
  return result;
}

std::string ToString(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return absl::StrCat(v6 ? "[" : "", address.host, v6 ? "]" : "", ":", address.port);
}

bool IsLoopback(const HostPort& address) {
  if (address.host == "localhost" || address.host == "::1") return true;
  in_addr parsed{};
  return inet_pton(AF_INET, address.host.c_str(), &parsed) == 1 && (ntohl(parsed.s_addr) >> 24) == 127;
}

absl::Status CheckListenAddress(const HostPort& address, bool insecure, const std::string& remedy) {
  if (IsLoopback(address) || insecure) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("refusing to listen on ", ToString(address), " without encryption; use a loopback address, ",
                                                  remedy.empty() ? "" : absl::StrCat(remedy, ", "), "or --insecure on a network you trust"));
}

void SignalReady(int fd, const std::string& json_line) {
  if (fd < 0) return;
  const std::string line = json_line + "\n";
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t put = write(fd, line.data() + done, line.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) break;
    done += static_cast<size_t>(put);
  }
  close(fd);
}

absl::Status SetUpLogging(const std::string& program, const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") {
    return absl::InvalidArgumentError(absl::StrCat("log level \"", level, "\" is none of trace, debug, info, warn, error, off"));
  }
  auto logger = std::make_shared<spdlog::logger>(program, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %-7l %n  %v", spdlog::pattern_time_type::utc);
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

absl::StatusOr<DirectoryLock> DirectoryLock::Take(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/lock");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd);
    if (error == EWOULDBLOCK) return absl::FailedPreconditionError(absl::StrCat(directory, " is in use by another process (it holds ", path, ")"));
    return absl::ErrnoToStatus(error, absl::StrCat("cannot lock ", path));
  }
  return DirectoryLock(fd);
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace bitstair::daemon
