// Signs the certificates by which workers are known. The coordinator is its own authority for that: a key of its own, and nobody else's certificates count.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/daemon/pem.h"

namespace bitstair::server {

// Thread-safe.
class CertificateAuthority {
 public:
  // Loads STATE_DIR/worker-ca.key and worker-ca.crt, or makes both (P-256, 20 years; the key readable by the owner alone). DATA_LOSS names a file that cannot
  // be used, or one that lacks its partner.
  static absl::StatusOr<std::unique_ptr<CertificateAuthority>> Open(const std::string& state_dir, absl::Time now);

  // PEM; what a client's certificate is checked against.
  const std::string& certificate_file() const { return certificate_file_; }

  // A client's certificate for the key in a request (PKCS#10, PEM, signed with that key): subject CN=`common_name` and nothing that the request asks for, in
  // force from 5 minutes before `now` (clocks differ) for `life`. INVALID_ARGUMENT: not a request, or its signature is wrong.
  absl::StatusOr<std::string> Sign(const std::string& request_pem, const std::string& common_name, absl::Duration life, absl::Time now) const;

 private:
  CertificateAuthority(daemon::Key key, daemon::Certificate certificate, std::string file)
      : key_(std::move(key)), certificate_(std::move(certificate)), certificate_file_(std::move(file)) {}

  const daemon::Key key_;
  const daemon::Certificate certificate_;
  const std::string certificate_file_;
};

// SHA-256, hex, of a request's public key. INVALID_ARGUMENT as above.
absl::StatusOr<std::string> PublicKeyDigest(const std::string& request_pem);

}  // namespace bitstair::server
