#include "server/security/gatekeeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/security/policy.h"

namespace bitstair::server {
namespace {

std::string CommonNameOf(const grpc::ServerContextBase& context) {
  const auto auth = context.auth_context();
  if (auth == nullptr) return "";
  const auto names = auth->FindPropertyValues("x509_common_name");
  return names.empty() ? "" : std::string(names[0].data(), names[0].size());
}

// The secret of "authorization: Bearer SECRET"; empty if there is none.
absl::string_view BearerOf(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  if (found == metadata.end()) return "";
  absl::string_view value(found->second.data(), found->second.size());
  if (value.size() < 7 || !absl::EqualsIgnoreCase(value.substr(0, 7), "bearer ")) return value;
  return value.substr(7);
}

bool IsOnLoopback(const std::string& peer) {
  return absl::StartsWith(peer, "ipv4:127.") || absl::StartsWith(peer, "ipv6:[::1]") || absl::StartsWith(peer, "ipv6:%5B::1%5D") ||
         absl::StartsWith(peer, "unix:");
}

std::string WhoIs(const v1::Token& token) {
  return token.display_name().empty() ? token.name() : absl::StrCat(token.display_name(), " (", token.name(), ")");
}

absl::Status CheckRole(const v1::Token& token, const Rule& rule, const std::string& method) {
  if (token.role() == v1::ROLE_WORKER ? rule.workers : Includes(token.role(), rule.least)) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("the role ", RoleWord(token.role()), " does not include ", method, "; it is for ",
                                                  rule.least == v1::ROLE_UNSPECIFIED ? "workers" : absl::StrCat("the role ", RoleWord(rule.least))));
}

}  // namespace

bool Caller::MayUse(const std::string& queue) const {
  return token.queues().empty() || std::find(token.queues().begin(), token.queues().end(), queue) != token.queues().end();
}

absl::Status MayNotUse(const Caller& caller, const std::string& queue) {
  return absl::PermissionDeniedError(absl::StrCat("this token is for the queues ", absl::StrJoin(caller.token.queues(), ", "), ", not for ", queue));
}

absl::StatusOr<Credential> Gatekeeper::Identify(const grpc::ServerContextBase& context) const {
  if (const std::string id = CommonNameOf(context); !id.empty()) return credentials_->FindWorker(id, absl::Now());
  const absl::string_view secret = BearerOf(context);
  if (secret.empty()) return absl::UnauthenticatedError("this coordinator needs a token: --token-file or BITSTAIR_TOKEN_FILE, or a context (bitstair config)");
  auto credential = credentials_->Verify(secret, absl::Now());
  if (credential.ok() && credential->token.role() == v1::ROLE_JOIN) return absl::UnauthenticatedError("a join token is good for bitstair-worker alone");
  return credential;
}

absl::StatusOr<Caller> Gatekeeper::Admit(const grpc::ServerContextBase& context, const std::string& method, const std::string& target) {
  const Rule rule = RuleOf(method);
  Caller caller;
  caller.audited = rule.audited;
  caller.entry.peer = context.peer();
  caller.entry.method = method;
  caller.entry.target = target;
  const auto refuse = [&](const absl::Status& status) {
    if (audit_ != nullptr) audit_->Write(caller.entry, status);
    return status;
  };
  if (mode_ != Mode::kTls && !BearerOf(context).empty() && !IsOnLoopback(caller.entry.peer)) {
    return refuse(absl::UnauthenticatedError("a token came without TLS from another machine. It is refused, and should be revoked: others may have read it"));
  }
  if (mode_ == Mode::kOpen || (mode_ == Mode::kTokens && rule.workers && BearerOf(context).empty())) return caller;
  auto credential = Identify(context);
  if (!credential.ok()) {
    if (rule.anybody) return caller;
    return refuse(credential.status());
  }
  caller.token = std::move(credential->token);
  caller.revoked = std::move(credential->revoked);
  caller.entry.who = WhoIs(caller.token);
  caller.entry.role = RoleWord(caller.token.role());
  if (rule.anybody) return caller;
  if (auto s = CheckRole(caller.token, rule, method); !s.ok()) return refuse(s);
  return caller;
}

void Gatekeeper::Ended(Caller caller, const absl::Status& status, const std::string& target) {
  const bool refused = absl::IsPermissionDenied(status) || absl::IsUnauthenticated(status);
  if (audit_ == nullptr || !(caller.audited || refused)) return;
  if (!target.empty()) caller.entry.target = target;
  audit_->Write(caller.entry, status);
}

void Gatekeeper::Refused(const grpc::ServerContextBase& context, const std::string& method, const absl::Status& status) {
  if (audit_ == nullptr) return;
  AuditEntry entry;
  entry.peer = context.peer();
  entry.method = method;
  if (mode_ != Mode::kOpen) {
    if (const auto credential = Identify(context); credential.ok()) {
      entry.who = WhoIs(credential->token);
      entry.role = RoleWord(credential->token.role());
    }
  }
  audit_->Write(entry, status);
}

void Gatekeeper::RefusedByWorker(Caller caller, const std::string& target, const std::string& why) {
  if (audit_ == nullptr) return;
  caller.entry.method = "ResolveDataset";
  caller.entry.target = target;
  audit_->Write(caller.entry, absl::PermissionDeniedError(why));
}

void Gatekeeper::HandshakeFailed(const std::string& what) {
  if (audit_ == nullptr) return;
  AuditEntry entry;
  entry.method = "handshake";
  audit_->Write(entry, absl::UnauthenticatedError(what));
}

}  // namespace bitstair::server
