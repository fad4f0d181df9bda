#include "server/unheard_calls.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace bitstair::server {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::ServerRpcInfo;

// "CreateJob" of "/bitstair.v1.Jobs/CreateJob"; other services' methods whole, of which no more than a line's worth.
std::string MethodOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string((absl::StartsWith(path, "/bitstair.v1.") && slash != path.npos ? path.substr(slash + 1) : path).substr(0, 200));
}

class RequestReader final : public grpc::experimental::Interceptor {
 public:
  RequestReader(Gatekeeper* gatekeeper, Metrics* metrics, ServerRpcInfo* info) : gatekeeper_(gatekeeper), metrics_(metrics), info_(info) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) && methods->GetRecvMessage() == nullptr) {
      unreadable_ = true;
      metrics_->CountRpc(MethodOf(info_->method()), Unreadable());
      gatekeeper_->Refused(*info_->server_context(), MethodOf(info_->method()), Unreadable());
    }
    if (unreadable_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) methods->ModifySendStatus(ToGrpc(Unreadable()));
    methods->Proceed();
  }

 private:
  static absl::Status Unreadable() { return absl::InvalidArgumentError("the request is no message of this method"); }

  Gatekeeper* const gatekeeper_;
  Metrics* const metrics_;
  ServerRpcInfo* const info_;
  bool unreadable_ = false;
};

}  // namespace

grpc::experimental::Interceptor* UnreadableRequests::CreateServerInterceptor(ServerRpcInfo* info) {
  const bool one_request = info->type() == ServerRpcInfo::Type::UNARY || info->type() == ServerRpcInfo::Type::SERVER_STREAMING;
  return one_request ? new RequestReader(gatekeeper_, metrics_, info) : nullptr;
}

grpc::ServerGenericBidiReactor* UnknownMethods::CreateReactor(grpc::GenericCallbackServerContext* context) {
  class Unknown final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Unknown(const absl::Status& why) { Finish(ToGrpc(why)); }
    void OnDone() override { delete this; }
  };
  const absl::Status status = absl::UnimplementedError("this coordinator has no such method");
  metrics_->CountRpc("unknown", status);  // not by its name: anybody can think of another
  gatekeeper_->Refused(*context, MethodOf(context->method()), status);
  return new Unknown(status);
}

}  // namespace bitstair::server
