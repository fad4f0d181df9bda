// Calls that no service of ours hears of, for gRPC ends them first: requests that are no message, and methods that do not exist.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/server_interceptor.h>

#include "server/metrics.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

// Sees each call's request on its way to a service; what cannot be read gets into the audit log, and INVALID_ARGUMENT for an answer. Messages within a
// stream are not looked at: there gRPC ends the call as if its peer had gone. Borrows both; thread-safe.
class UnreadableRequests final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  UnreadableRequests(Gatekeeper* gatekeeper, Metrics* metrics) : gatekeeper_(gatekeeper), metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override;

 private:
  Gatekeeper* const gatekeeper_;
  Metrics* const metrics_;
};

// Answers methods that do not exist: UNIMPLEMENTED, and a line in the audit log. Borrows both; thread-safe.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  UnknownMethods(Gatekeeper* gatekeeper, Metrics* metrics) : gatekeeper_(gatekeeper), metrics_(metrics) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override;

 private:
  Gatekeeper* const gatekeeper_;
  Metrics* const metrics_;
};

}  // namespace bitstair::server
