// TLS of gRPC connections, from files that are read again when they change: renewed certificates need no restart.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

namespace bitstair::daemon {

// Files in PEM, checked beforehand (CheckKeyPair). TLS 1.2 or later, as gRPC has it.
struct ServerTls {
  std::string certificate_file;  // with its chain
  std::string key_file;
  // Clients may show a certificate; one that this does not vouch for ends the connection.
  std::string client_authority_file;
};
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const ServerTls& tls);

struct ClientTls {
  std::string authority_file;  // whom to believe about servers; empty: the system's
  // Both or neither: who we are.
  std::string certificate_file;
  std::string key_file;
};
// The server's certificate must be for the host that the channel is opened to.
std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const ClientTls& tls);

}  // namespace bitstair::daemon
