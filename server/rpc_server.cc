#include "server/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/call.h"

namespace bitstair::server {
namespace {
// Room for kMaxRequestBytes to be refused in words and with a line in the audit log.
constexpr int kMaxMessageBytes = 2 * static_cast<int>(kMaxRequestBytes);

// The reflection library adds itself to every server of a program that is linked with it.
class NoReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

}  // namespace

RpcServer::RpcServer(Coordinator* coordinator, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics, Security* security)
    : metrics_(metrics),
      security_(security),
      gatekeeper_(security == nullptr ? &open_ : security->gatekeeper()),
      jobs_(coordinator, logs, metrics, gatekeeper_, &file_threads_),
      fleet_(coordinator, metrics, gatekeeper_),
      artifacts_(coordinator, artifacts, metrics, gatekeeper_, &file_threads_),
      access_(gatekeeper_, security == nullptr ? nullptr : security->credentials(), security == nullptr ? nullptr : security->authority(), metrics,
              &file_threads_),
      unknown_methods_(gatekeeper_, metrics) {}

RpcServer::~RpcServer() {
  Shutdown(absl::ZeroDuration());
  file_threads_.join();
}

absl::StatusOr<daemon::HostPort> RpcServer::Start(daemon::HostPort address, bool reflection) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  if (reflection) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();  // a second time does nothing
  } else {
    builder.SetOption(std::make_unique<NoReflection>());
  }
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error, not a shared port
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  const bool tls = security_ != nullptr && security_->tls().has_value();
  const auto credentials = tls ? daemon::MakeServerCredentials(*security_->tls()) : grpc::InsecureServerCredentials();
  int port = 0;
  builder.AddListeningPort(daemon::ToString(address), credentials, &port);
  builder.RegisterService(&jobs_);
  builder.RegisterService(&fleet_);
  builder.RegisterService(&artifacts_);
  builder.RegisterService(&access_);
  builder.RegisterCallbackGenericService(&unknown_methods_);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<UnreadableRequests>(gatekeeper_, metrics_));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port <= 0) {
    server_.reset();
    return absl::UnavailableError(absl::StrCat("cannot listen on ", daemon::ToString(address), ": the port is in use, or the address is not this machine's"));
  }
  address.port = port;
  return address;
}

void RpcServer::Shutdown(absl::Duration patience) {
  if (server_ == nullptr) return;
  server_->Shutdown(absl::ToChronoTime(absl::Now() + patience));
  server_->Wait();
  server_.reset();
}

}  // namespace bitstair::server
