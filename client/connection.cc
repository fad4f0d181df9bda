#include "client/connection.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/contexts.h"
#include "core/files/durable_file.h"
#include "server/daemon/daemon.h"
#include "server/daemon/pem.h"

namespace bitstair::client {
namespace {

constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxPemBytes = 4 << 20;

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// What the context says, or the flags where they name a coordinator themselves.
absl::StatusOr<Context> Choose(ConnectionFlags flags) {
  if (!flags.coordinator.empty() && !flags.context.empty()) {
    return absl::InvalidArgumentError("--coordinator and --context name two coordinators; give one of them");
  }
  if (flags.coordinator.empty() && flags.context.empty()) {
    flags.coordinator = Variable("BITSTAIR_COORDINATOR");
    if (flags.coordinator.empty()) flags.context = Variable("BITSTAIR_CONTEXT");
  }
  Context chosen;
  bool from_file = false;
  if (!flags.coordinator.empty()) {
    chosen.coordinator = flags.coordinator;
  } else {
    const std::string file = ContextsFile();
    const auto contexts = LoadContexts(file);
    if (!contexts.ok()) return contexts.status();
    const std::string& name = flags.context.empty() ? contexts->current : flags.context;
    if (const auto found = contexts->by_name.find(name); found != contexts->by_name.end()) {
      chosen = found->second;
      from_file = true;
    } else if (!name.empty()) {
      return absl::NotFoundError(absl::StrCat("there is no context \"", name, "\" in ", file, "; bitstair config list shows them"));
    } else {
      chosen.coordinator = kDefaultCoordinator;
    }
  }
  // The environment speaks of no context's coordinator: its token would go to the wrong one.
  if (!from_file) {
    chosen.tls_ca = Variable("BITSTAIR_TLS_CA");
    chosen.token_file = Variable("BITSTAIR_TOKEN_FILE");
    chosen.tls = !Variable("BITSTAIR_TLS").empty();
    chosen.insecure = !Variable("BITSTAIR_INSECURE").empty();
  }
  if (!flags.tls_ca.empty()) chosen.tls_ca = flags.tls_ca;
  if (!flags.token_file.empty()) chosen.token_file = flags.token_file;
  chosen.tls = chosen.tls || flags.tls || !chosen.tls_ca.empty();
  chosen.insecure = chosen.insecure || flags.insecure;
  return chosen;
}

absl::Status CheckAuthorities(const std::string& file) {
  const auto pem = core::ReadFile(file, kMaxPemBytes);
  if (!pem.ok()) return pem.status();
  const auto certificate = daemon::ReadCertificate(*pem);
  return certificate.ok() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(file, " ", certificate.status().message()));
}

}  // namespace

absl::StatusOr<std::string> ReadToken(const std::string& file) {
  const auto text = core::ReadFile(file, kMaxTokenBytes);
  if (!text.ok()) return text.status();
  const std::string token(absl::StripAsciiWhitespace(*text));
  if (token.empty() || !std::all_of(token.begin(), token.end(), [](unsigned char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(absl::StrCat(file, " does not hold a token: one line of letters, digits and '_'"));
  }
  return token;
}

absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags) {
  const auto chosen = Choose(flags);
  if (!chosen.ok()) return chosen.status();
  const auto address = daemon::ParseHostPort(chosen->coordinator);
  if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat("coordinator: ", address.status().message()));
  if (address->port == 0) return absl::InvalidArgumentError("coordinator: port 0 is no address to connect to");
  const bool loopback = daemon::IsLoopback(*address);
  if (!chosen->tls && !loopback && !chosen->insecure) {
    return absl::PermissionDeniedError(
        absl::StrCat("refusing to talk to ", chosen->coordinator,
                     " without encryption; give --tls-ca FILE (or --tls, where the system knows its authority), or --insecure on a network you trust"));
  }
  Connection connection;
  connection.address = chosen->coordinator;
  connection.options.tls = chosen->tls;
  connection.options.tls_ca = chosen->tls_ca;
  if (!chosen->tls_ca.empty()) {
    if (auto s = CheckAuthorities(chosen->tls_ca); !s.ok()) return absl::Status(s.code(), absl::StrCat("--tls-ca: ", s.message()));
  }
  if (!chosen->token_file.empty()) {
    auto token = ReadToken(chosen->token_file);
    if (!token.ok()) return absl::Status(token.status().code(), absl::StrCat("--token-file: ", token.status().message()));
    if (!chosen->tls && !loopback) {
      return absl::PermissionDeniedError(absl::StrCat("refusing to send a token to ", chosen->coordinator, " without encryption; give --tls-ca FILE or --tls"));
    }
    connection.options.token = *std::move(token);
  }
  return connection;
}

}  // namespace bitstair::client
