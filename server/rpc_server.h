// The gRPC server: our services, health and reflection, on one address.
#pragma once

#include <grpcpp/server.h>

#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/access_service.h"
#include "server/artifacts_service.h"
#include "server/daemon/daemon.h"
#include "server/daemon/transport.h"
#include "server/fleet_service.h"
#include "server/jobs_service.h"

namespace bitstair::server {

class RpcServer {
 public:
  // Who may call. By default everybody, without TLS.
  struct Security {
    Gatekeeper* gatekeeper = nullptr;
    CredentialStore* credentials = nullptr;
    const CertificateAuthority* authority = nullptr;
    std::optional<daemon::ServerTls> tls;
  };

  // Borrows all; they outlive it.
  RpcServer(Coordinator* coordinator, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics)
      : RpcServer(coordinator, artifacts, logs, metrics, Security()) {}
  RpcServer(Coordinator* coordinator, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics, Security security);
  ~RpcServer();

  // Listens and serves. Port 0: any free one. Returns the address in use. UNAVAILABLE if it cannot be had, also where another process listens there with
  // SO_REUSEPORT.
  absl::StatusOr<daemon::HostPort> Start(daemon::HostPort address, bool reflection);

  // Calls under way get `patience`, then they are cancelled. Returns when all are over. The coordinator must still run.
  void Shutdown(absl::Duration patience);

 private:
  boost::asio::thread_pool file_threads_{2};
  Gatekeeper open_;
  const Security security_;
  JobsService jobs_;
  FleetService fleet_;
  ArtifactsService artifacts_;
  AccessService access_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace bitstair::server
