// bitstair.v1.Fleet: the workers' streams and lists of what they offer.
#pragma once

#include "bitstair/v1/fleet.grpc.pb.h"
#include "server/coordinator.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

class FleetService final : public v1::Fleet::CallbackService {
 public:
  // Borrows all; they outlive the gRPC server.
  FleetService(Coordinator* coordinator, Metrics* metrics, Gatekeeper* gatekeeper) : coordinator_(coordinator), metrics_(metrics), gatekeeper_(gatekeeper) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context, const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* ListDatasets(grpc::CallbackServerContext* context, const v1::ListDatasetsRequest* request,
                                         v1::ListDatasetsResponse* response) override;
  grpc::ServerUnaryReactor* CordonWorker(grpc::CallbackServerContext* context, const v1::CordonWorkerRequest* request, v1::Worker* response) override;
  grpc::ServerUnaryReactor* UncordonWorker(grpc::CallbackServerContext* context, const v1::UncordonWorkerRequest* request, v1::Worker* response) override;
  grpc::ServerUnaryReactor* DrainWorker(grpc::CallbackServerContext* context, const v1::DrainWorkerRequest* request, v1::Worker* response) override;
  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Connect(grpc::CallbackServerContext* context) override;

 private:
  Coordinator* const coordinator_;
  Metrics* const metrics_;
  Gatekeeper* const gatekeeper_;
};

}  // namespace bitstair::server
