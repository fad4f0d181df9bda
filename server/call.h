// How every call begins and ends: admitted, answered, counted, and in the audit log.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status.h"
#include "server/coordinator.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

// What an answer is about, for the audit log: its name, where it has one.
template <typename Response>
std::string TargetOf(const Response& response) {
  if constexpr (requires { response.name(); }) {
    return response.name();
  } else if constexpr (requires { response.token().name(); }) {
    return response.token().name();
  } else {
    return "";
  }
}

// What a request may take. gRPC itself ends a call at twice as much, before any of our code hears of it (rpc_server.cc).
inline constexpr size_t kMaxRequestBytes = size_t{4} << 20;

// Begins a unary call: `begin(caller, reply)` if it is admitted; the reply fills `response`, may come from any thread, and ends the call.
template <typename Request, typename Response, typename Begin>
grpc::ServerUnaryReactor* AnswerUnary(Gatekeeper* gatekeeper, Metrics* metrics, grpc::CallbackServerContext* context, const Request& request,
                                      const std::string& method, const std::string& target, Response* response, Begin begin) {
  auto* reactor = context->DefaultReactor();
  const bool too_large = request.ByteSizeLong() > kMaxRequestBytes;
  auto caller = gatekeeper->Admit(*context, method, too_large ? "" : target);
  if (caller.ok() && too_large) {
    caller = absl::ResourceExhaustedError(absl::StrCat("the request has ", request.ByteSizeLong(), " bytes; this coordinator takes ", kMaxRequestBytes));
    gatekeeper->Refused(*context, method, caller.status());
  }
  if (!caller.ok()) {
    metrics->CountRpc(method, caller.status());
    reactor->Finish(ToGrpc(caller.status()));
    return reactor;
  }
  begin(*caller, Reply<Response>([gatekeeper, metrics, reactor, response, method, caller = *caller,
                                  started = std::chrono::steady_clock::now()](absl::StatusOr<Response> answer) {
    const absl::Status status = answer.status();
    metrics->CountRpc(method, status);
    metrics->ObserveRpc(method, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    gatekeeper->Ended(caller, status, status.ok() ? TargetOf(*answer) : "");
    if (status.ok()) *response = *std::move(answer);
    reactor->Finish(ToGrpc(status));
  }));
  return reactor;
}

// A stream that ends at once with an error, as a reactor of any kind.
template <typename Reactor>
Reactor* RefuseStream(Metrics* metrics, const std::string& method, const absl::Status& status) {
  class Refused final : public Reactor {
   public:
    explicit Refused(const absl::Status& why) { this->Finish(ToGrpc(why)); }
    void OnDone() override { delete this; }
  };
  metrics->CountRpc(method, status);
  return new Refused(status);
}

}  // namespace bitstair::server
