// The user's configuration file: coordinators by name. $BITSTAIR_CONFIG, else $XDG_CONFIG_HOME/bitstair/config.yaml, else ~/.config/bitstair/config.yaml.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitstair::client {

struct Context {
  std::string coordinator;  // HOST:PORT
  std::string tls_ca;       // absolute path
  std::string token_file;   // absolute path; tokens themselves are not in the file
  bool tls = false;
  bool insecure = false;
};

struct Contexts {
  std::string current;  // empty: none
  std::map<std::string, Context> by_name;
};

// Where the file is or would be. Empty where neither variable nor home folder is set.
std::string ContextsFile();

// Empty if there is no file. INVALID_ARGUMENT: "FILE:LINE:COLUMN: what is wrong".
absl::StatusOr<Contexts> LoadContexts(const std::string& file);
// Replaces the file whole; readable by the owner alone.
absl::Status SaveContexts(const std::string& file, const Contexts& contexts);

// 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'.
bool IsContextName(const std::string& name);

}  // namespace bitstair::client
