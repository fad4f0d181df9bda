// From the coordinator's answer to a unary call's end.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <string>
#include <utility>

#include "proto/status.h"
#include "server/coordinator.h"

namespace bitstair::server {

// A reply that fills `response` and finishes `reactor`, and counts and times the call under `method`.
template <typename Response>
Reply<Response> UnaryReply(grpc::ServerUnaryReactor* reactor, Response* response, Metrics* metrics, std::string method) {
  return [reactor, response, metrics, method = std::move(method), begin = std::chrono::steady_clock::now()](absl::StatusOr<Response> answer) {
    const absl::Status status = answer.status();
    metrics->CountRpc(method, status);
    metrics->ObserveRpc(method, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (status.ok()) *response = *std::move(answer);
    reactor->Finish(ToGrpc(status));
  };
}

}  // namespace bitstair::server
