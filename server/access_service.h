// bitstair.v1.Access: tokens, and workers' certificates.
#pragma once

#include <boost/asio/thread_pool.hpp>

#include "bitstair/v1/access.grpc.pb.h"
#include "server/metrics.h"
#include "server/security/certificate_authority.h"
#include "server/security/credential_store.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

class AccessService final : public v1::Access::CallbackService {
 public:
  // Borrows all; they outlive the gRPC server. `credentials` and `authority` may be null: FAILED_PRECONDITION then. Waits for the disk on `file_threads`.
  AccessService(Gatekeeper* gatekeeper, CredentialStore* credentials, const CertificateAuthority* authority, Metrics* metrics,
                boost::asio::thread_pool* file_threads)
      : gatekeeper_(gatekeeper), credentials_(credentials), authority_(authority), metrics_(metrics), file_threads_(file_threads) {}

  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* context, const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* response) override;
  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* context, const v1::ListTokensRequest* request, v1::ListTokensResponse* response) override;
  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* context, const v1::RevokeTokenRequest* request, v1::Token* response) override;
  grpc::ServerUnaryReactor* IssueWorkerCertificate(grpc::CallbackServerContext* context, const v1::IssueWorkerCertificateRequest* request,
                                                   v1::IssueWorkerCertificateResponse* response) override;

 private:
  absl::StatusOr<v1::CreateTokenResponse> Create(const Caller& caller, const v1::CreateTokenRequest& request) const;
  absl::StatusOr<v1::IssueWorkerCertificateResponse> Issue(const Caller& caller, const v1::IssueWorkerCertificateRequest& request) const;

  Gatekeeper* const gatekeeper_;
  CredentialStore* const credentials_;
  const CertificateAuthority* const authority_;
  Metrics* const metrics_;
  boost::asio::thread_pool* const file_threads_;
};

}  // namespace bitstair::server
