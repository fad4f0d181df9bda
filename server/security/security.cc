#include "server/security/security.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "core/files/durable_file.h"
#include "server/sqlite_job_store.h"

namespace bitstair::server {
namespace {

absl::Status MakeFirstAdmin(CredentialStore* credentials, const std::string& path, absl::Time now) {
  if (credentials->HasAdmin(now)) return absl::OkStatus();
  v1::Token wanted;
  wanted.set_display_name("first admin");
  wanted.set_role(v1::ROLE_ADMIN);
  wanted.set_creator("bitstair-server");
  const auto made = credentials->Create(wanted, absl::InfiniteDuration(), now);
  if (!made.ok()) return made.status();
  if (auto s = core::WriteFileDurably(path, made->secret() + "\n"); !s.ok()) return s;
  spdlog::info("no admin's token was in force: a new one ({}) is in {}", made->token().name(), path);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSecurityFlags(const SecurityFlags& flags, const daemon::HostPort& address, absl::Time now) {
  if (flags.tls_certificate.empty() != flags.tls_key.empty()) return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  const bool tls = !flags.tls_certificate.empty();
  if (tls) {
    if (auto s = daemon::CheckKeyPair(flags.tls_certificate, flags.tls_key, now); !s.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--tls-cert, --tls-key: ", s.message()));
    }
    return absl::OkStatus();
  }
  if (daemon::IsLoopback(address)) return absl::OkStatus();
  if (flags.require_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--require-tokens: tokens would cross the network unencrypted at ", daemon::ToString(address), "; give --tls-cert and --tls-key"));
  }
  return daemon::CheckListenAddress(address, flags.insecure, "--tls-cert and --tls-key");
}

absl::StatusOr<std::unique_ptr<Security>> Security::Open(const std::string& state_dir, const SecurityFlags& flags, absl::Time now) {
  std::unique_ptr<Security> security(new Security);
  auto audit = AuditLog::Open(state_dir + "/audit.log");
  if (!audit.ok()) return audit.status();
  security->audit_ = *std::move(audit);
  const bool tls = !flags.tls_certificate.empty();
  const Gatekeeper::Mode mode = tls ? Gatekeeper::Mode::kTls : flags.require_tokens ? Gatekeeper::Mode::kTokens : Gatekeeper::Mode::kOpen;
  if (mode != Gatekeeper::Mode::kOpen) {
    auto store = SqliteJobStore::Open(state_dir + "/tokens.db", {});
    if (!store.ok()) return store.status();
    security->store_ = *std::move(store);
    auto credentials = CredentialStore::Open(security->store_.get());
    if (!credentials.ok()) return credentials.status();
    security->credentials_ = *std::move(credentials);
    if (auto s = MakeFirstAdmin(security->credentials_.get(), state_dir + "/admin.token", now); !s.ok()) return s;
  }
  if (tls) {
    auto authority = CertificateAuthority::Open(state_dir, now);
    if (!authority.ok()) return authority.status();
    security->authority_ = *std::move(authority);
    security->tls_ = daemon::ServerTls{flags.tls_certificate, flags.tls_key, security->authority_->certificate_file()};
  }
  security->gatekeeper_ = std::make_unique<Gatekeeper>(mode, security->credentials_.get(), security->audit_.get());
  return security;
}

}  // namespace bitstair::server
