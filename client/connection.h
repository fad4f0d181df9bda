// Which coordinator, whether with TLS, and as whom: from options, the environment, or a context of the configuration file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace bitstair::client {

// As the command line has them; empty: not given. Options that are not given come from BITSTAIR_COORDINATOR, _CONTEXT, _TLS, _TLS_CA, _TOKEN_FILE, _INSECURE.
struct ConnectionFlags {
  std::string coordinator;  // HOST:PORT
  std::string context;      // name in the configuration file
  std::string tls_ca;
  std::string token_file;
  bool tls = false;
  bool insecure = false;
};

struct Connection {
  std::string address;
  ClientOptions options;
};

inline constexpr char kDefaultCoordinator[] = "127.0.0.1:7420";

// An address given means that address, with what is given beside it; else the context that is named, or the current one, or kDefaultCoordinator. A token is
// sent to nobody but the coordinator of its context or of its flag, and without TLS only to loopback. INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED: says
// which option or file is wrong and what to give; never shows a token.
absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags);

// One line of printable characters, from a file.
absl::StatusOr<std::string> ReadToken(const std::string& file);

}  // namespace bitstair::client
