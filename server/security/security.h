// All of a coordinator's security, set up from its flags and its state folder.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/daemon/daemon.h"
#include "server/daemon/transport.h"
#include "server/security/audit_log.h"
#include "server/security/certificate_authority.h"
#include "server/security/credential_store.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

struct SecurityFlags {
  std::string tls_certificate;
  std::string tls_key;
  bool require_tokens = false;
  bool insecure = false;
};

// Whether the flags allow listening at `address`: loopback, TLS, or `insecure`. INVALID_ARGUMENT or PERMISSION_DENIED says what to give.
absl::Status CheckSecurityFlags(const SecurityFlags& flags, const daemon::HostPort& address, absl::Time now);

class Security {
 public:
  // Makes what is missing in the state folder: audit.log, and where people need tokens tokens.db, and with TLS the workers' authority. If no admin's token is
  // in force, one is made, and its secret written to STATE_DIR/admin.token, readable by the owner alone.
  static absl::StatusOr<std::unique_ptr<Security>> Open(const std::string& state_dir, const SecurityFlags& flags, absl::Time now);

  Gatekeeper* gatekeeper() { return gatekeeper_.get(); }
  CredentialStore* credentials() { return credentials_.get(); }               // null in Mode::kOpen
  const CertificateAuthority* authority() const { return authority_.get(); }  // null without TLS
  const std::optional<daemon::ServerTls>& tls() const { return tls_; }

 private:
  Security() = default;

  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<CredentialStore> credentials_;
  std::unique_ptr<CertificateAuthority> authority_;
  std::optional<daemon::ServerTls> tls_;
  std::unique_ptr<Gatekeeper> gatekeeper_;
};

}  // namespace bitstair::server
