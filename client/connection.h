// Which coordinator, whether with TLS, and as whom: from options, the environment, or a context of the configuration file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace bitstair::client {

// As the command line has them; empty: not given.
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

// The address or the context that the flags name; where they name neither, BITSTAIR_COORDINATOR, else BITSTAIR_CONTEXT, else the current context, else
// kDefaultCoordinator. An address comes with nothing but what is given beside it, by flags or else by BITSTAIR_TLS, _TLS_CA, _TOKEN_FILE and _INSECURE (any
// text switches the first and the last on); a context with flags alone. A token is sent to nobody but the coordinator of its context or of its flag,
// and without TLS only to loopback. INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED: says which option or file is wrong and what to give; never shows a token.
absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags);

// One line of printable characters, from a file.
absl::StatusOr<std::string> ReadToken(const std::string& file);

}  // namespace bitstair::client
