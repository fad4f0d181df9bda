// Decides for each call who makes it and whether they may, and keeps the audit log.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/security/audit_log.h"
#include "server/security/credential_store.h"

namespace bitstair::server {

// One call, admitted.
struct Caller {
  v1::Token token;                                   // unset where nobody is asked who they are
  std::shared_ptr<const std::atomic<bool>> revoked;  // null: cannot be
  AuditEntry entry;
  bool audited = false;

  bool is_revoked() const { return revoked != nullptr && revoked->load(); }
  // Whether the token is good for jobs of this queue.
  bool MayUse(const std::string& queue) const;
};

// PERMISSION_DENIED for a caller whose token is not good for the queue.
absl::Status MayNotUse(const Caller& caller, const std::string& queue);

// Thread-safe.
class Gatekeeper {
 public:
  enum class Mode {
    kOpen,    // plaintext, on loopback or with --insecure: nobody is asked
    kTokens,  // plaintext on loopback, --require-tokens: people need tokens; workers are not asked
    kTls,     // people need tokens, workers certificates
  };

  // Lets everybody in and keeps no log: for a coordinator that only its own user can reach.
  Gatekeeper() : Gatekeeper(Mode::kOpen, nullptr, nullptr) {}
  // Borrows both; `credentials` may be null in kOpen.
  Gatekeeper(Mode mode, CredentialStore* credentials, AuditLog* audit) : mode_(mode), credentials_(credentials), audit_(audit) {}

  Mode mode() const { return mode_; }

  // UNAUTHENTICATED: no token or certificate, or one that is not in force; or a token that came unencrypted from another machine. PERMISSION_DENIED: the role
  // does not include this method. A refusal is in the audit log when this returns.
  absl::StatusOr<Caller> Admit(const grpc::ServerContextBase& context, const std::string& method, const std::string& target = "");

  // How an admitted call ended: into the audit log where its rule says so, or where it was refused later. The target is added where it was not known before.
  void Ended(Caller caller, const absl::Status& status, const std::string& target = "");

  // A call that nobody admitted, and that was refused for another reason than who made it. The entry names the caller where that is known.
  void Refused(const grpc::ServerContextBase& context, const std::string& method, const absl::Status& status);

  // A worker refuses what `caller`'s stream brought to it: a path that leads out of the folders that it allows.
  void RefusedByWorker(Caller caller, const std::string& target, const std::string& why);

  // A connection that failed before any call, in gRPC's words.
  void HandshakeFailed(const std::string& what);

 private:
  absl::StatusOr<Credential> Identify(const grpc::ServerContextBase& context) const;

  const Mode mode_;
  CredentialStore* const credentials_;
  AuditLog* const audit_;
};

}  // namespace bitstair::server
