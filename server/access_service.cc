#include "server/access_service.h"

#include <google/protobuf/util/time_util.h>

#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/call.h"

namespace bitstair::server {
namespace {

constexpr size_t kMaxHostBytes = 256;

absl::Status NoTokens() {
  return absl::FailedPreconditionError("this coordinator asks nobody who they are; tokens need --tls-cert and --tls-key, or on loopback --require-tokens");
}

bool IsWorkerId(const std::string& id) {
  return !id.empty() && id.size() <= 64 && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

grpc::ServerUnaryReactor* AccessService::CreateToken(grpc::CallbackServerContext* context, const v1::CreateTokenRequest* request,
                                                     v1::CreateTokenResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "CreateToken", "", response, [&](const Caller& caller, Reply<v1::CreateTokenResponse> reply) {
    boost::asio::post(*file_threads_, [this, caller, request = *request, reply = std::move(reply)] { reply(Create(caller, request)); });
  });
}

absl::StatusOr<v1::CreateTokenResponse> AccessService::Create(const Caller& caller, const v1::CreateTokenRequest& request) const {
  if (credentials_ == nullptr) return NoTokens();
  absl::Duration life = request.token().role() == v1::ROLE_JOIN ? CredentialStore::kDefaultJoinLife : CredentialStore::kDefaultLife;
  if (request.has_ttl()) {
    life = absl::Milliseconds(google::protobuf::util::TimeUtil::DurationToMilliseconds(request.ttl()));
    if (life == absl::ZeroDuration()) life = absl::InfiniteDuration();
  }
  v1::Token wanted = request.token();
  wanted.set_creator(caller.entry.who);
  return credentials_->Create(wanted, life, absl::Now());
}

grpc::ServerUnaryReactor* AccessService::ListTokens(grpc::CallbackServerContext* context, const v1::ListTokensRequest* request,
                                                    v1::ListTokensResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListTokens", "", response, [&](const Caller&, const Reply<v1::ListTokensResponse>& reply) {
    if (credentials_ == nullptr) return reply(NoTokens());
    v1::ListTokensResponse list;
    for (v1::Token& token : credentials_->List()) *list.add_tokens() = std::move(token);
    reply(std::move(list));
  });
}

grpc::ServerUnaryReactor* AccessService::RevokeToken(grpc::CallbackServerContext* context, const v1::RevokeTokenRequest* request, v1::Token* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "RevokeToken", request->name(), response, [&](const Caller&, Reply<v1::Token> reply) {
    if (credentials_ == nullptr) return reply(NoTokens());
    boost::asio::post(*file_threads_, [this, name = request->name(), reply = std::move(reply)] { reply(credentials_->Revoke(name, absl::Now())); });
  });
}

grpc::ServerUnaryReactor* AccessService::IssueWorkerCertificate(grpc::CallbackServerContext* context, const v1::IssueWorkerCertificateRequest* request,
                                                                v1::IssueWorkerCertificateResponse* response) {
  const std::string target = IsWorkerId(request->worker_id()) ? absl::StrCat("workers/", request->worker_id()) : "";
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "IssueWorkerCertificate", target, response,
                     [&](const Caller& caller, Reply<v1::IssueWorkerCertificateResponse> reply) {
                       boost::asio::post(*file_threads_, [this, caller, request = *request, reply = std::move(reply)] { reply(Issue(caller, request)); });
                     });
}

absl::StatusOr<v1::IssueWorkerCertificateResponse> AccessService::Issue(const Caller& caller, const v1::IssueWorkerCertificateRequest& request) const {
  if (credentials_ == nullptr || authority_ == nullptr) {
    return absl::FailedPreconditionError("this coordinator has no TLS, so workers need no certificate: start them without --tls, --tls-ca and a join token");
  }
  std::vector<FieldViolation> faults;
  if (!IsWorkerId(request.worker_id())) faults.push_back({"worker_id", "must be 1 to 64 lower-case hex digits"});
  if (request.host().size() > kMaxHostBytes) faults.push_back({"host", absl::StrCat("must be at most ", kMaxHostBytes, " bytes")});
  if (!faults.empty()) return InvalidFields(faults);
  const auto public_key = PublicKeyDigest(request.certificate_request());
  if (!public_key.ok()) return public_key.status();
  const absl::Time now = absl::Now();
  v1::Token token = caller.token;
  if (request.join_token().empty()) {
    if (token.role() != v1::ROLE_WORKER) return absl::UnauthenticatedError("neither a join token nor a worker's certificate was shown");
    if (token.worker() != absl::StrCat("workers/", request.worker_id()))
      return absl::PermissionDeniedError(absl::StrCat("this certificate is for ", token.worker()));
    if (auto s = credentials_->Renew(token.name(), now); !s.ok()) return s;
  } else {
    const auto joined = credentials_->Join(request.join_token(), *public_key, request.worker_id(), request.host(), now);
    if (!joined.ok()) return joined.status();
    token = joined->token;
  }
  const auto certificate =
      authority_->Sign(request.certificate_request(), std::string(absl::StripPrefix(token.name(), "tokens/")), CredentialStore::kWorkerLife, now);
  if (!certificate.ok()) return certificate.status();
  v1::IssueWorkerCertificateResponse response;
  response.set_certificate(*certificate);
  return response;
}

}  // namespace bitstair::server
