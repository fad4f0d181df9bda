#include "server/daemon/transport.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <unistd.h>

namespace bitstair::daemon {
namespace {

namespace tls = grpc::experimental;
constexpr unsigned kLookAgainSeconds = 10;

// Debian's bundle, for a gRPC that was built to look elsewhere.
constexpr char kSystemAuthorities[] = "/etc/ssl/certs/ca-certificates.crt";

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const ServerTls& files) {
  const auto provider =
      std::make_shared<tls::FileWatcherCertificateProvider>(files.key_file, files.certificate_file, files.client_authority_file, kLookAgainSeconds);
  tls::TlsServerCredentialsOptions options(provider);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  return tls::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const ClientTls& files) {
  std::string authorities = files.authority_file;
  if (authorities.empty() && access(kSystemAuthorities, R_OK) == 0) authorities = kSystemAuthorities;
  tls::TlsChannelCredentialsOptions options;
  if (!authorities.empty() || !files.certificate_file.empty()) {
    options.set_certificate_provider(
        std::make_shared<tls::FileWatcherCertificateProvider>(files.key_file, files.certificate_file, authorities, kLookAgainSeconds));
    if (!authorities.empty()) options.watch_root_certs();
    if (!files.certificate_file.empty()) options.watch_identity_key_cert_pairs();
  }
  return tls::TlsCredentials(options);
}

}  // namespace bitstair::daemon
