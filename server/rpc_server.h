// The gRPC server: our services, health and reflection, on one address.
#pragma once

#include <grpcpp/server.h>

#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/access_service.h"
#include "server/artifacts_service.h"
#include "server/daemon/daemon.h"
#include "server/fleet_service.h"
#include "server/jobs_service.h"
#include "server/security/security.h"
#include "server/unheard_calls.h"

namespace bitstair::server {

class RpcServer {
 public:
  // Borrows all; they outlive it. security: null lets everybody call, without TLS.
  RpcServer(Coordinator* coordinator, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics, Security* security = nullptr);
  ~RpcServer();

  // Listens and serves. Port 0: any free one. Returns the address in use. UNAVAILABLE if it cannot be had, also where another process listens there with
  // SO_REUSEPORT.
  absl::StatusOr<daemon::HostPort> Start(daemon::HostPort address, bool reflection);

  // Calls under way get `patience`, then they are cancelled. Returns when all are over. The coordinator must still run.
  void Shutdown(absl::Duration patience);

 private:
  boost::asio::thread_pool file_threads_{2};
  Metrics* const metrics_;
  Gatekeeper open_;
  Security* const security_;
  Gatekeeper* const gatekeeper_;
  JobsService jobs_;
  FleetService fleet_;
  ArtifactsService artifacts_;
  AccessService access_;
  UnknownMethods unknown_methods_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace bitstair::server
