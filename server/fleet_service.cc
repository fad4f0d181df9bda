#include "server/fleet_service.h"

#include <memory>
#include <utility>

#include "proto/status.h"
#include "server/stream_writer.h"
#include "server/unary_reply.h"

namespace bitstair::server {
namespace {

// A worker gets few messages; this many waiting means that it is stuck. It loses its stream then and says hello again.
constexpr size_t kMaxWaitingMessages = 4096;

class WorkerCall final : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>,
                         public WorkerStream,
                         public std::enable_shared_from_this<WorkerCall> {
 public:
  WorkerCall(Coordinator* coordinator, Metrics* metrics)
      : coordinator_(coordinator),
        writer_(
            kMaxWaitingMessages, [this](const v1::CoordinatorMessage* message) { StartWrite(message); },
            [this, metrics](const absl::Status& status) {
              metrics->CountRpc("Connect", status);
              Finish(ToGrpc(status));
            }) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&incoming_);
  }

  void Send(v1::CoordinatorMessage message) override { writer_.Send(std::move(message)); }
  void Close(absl::Status status) override { writer_.Close(std::move(status)); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      coordinator_->OnWorkerStreamEnded(shared_from_this());
      return writer_.Close(absl::OkStatus());
    }
    coordinator_->OnWorkerMessage(shared_from_this(), std::move(incoming_));
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override { writer_.WriteDone(ok); }
  void OnCancel() override { writer_.Close(absl::CancelledError("cancelled")); }
  void OnDone() override {
    coordinator_->OnWorkerStreamEnded(shared_from_this());
    self_.reset();
  }

 private:
  Coordinator* const coordinator_;
  StreamWriter<v1::CoordinatorMessage> writer_;
  v1::WorkerMessage incoming_;
  std::shared_ptr<WorkerCall> self_;  // until OnDone
};

}  // namespace

grpc::ServerUnaryReactor* FleetService::ListWorkers(grpc::CallbackServerContext* context, const v1::ListWorkersRequest* request,
                                                    v1::ListWorkersResponse* response) {
  auto* reactor = context->DefaultReactor();
  coordinator_->ListWorkers(*request, UnaryReply(reactor, response, metrics_, "ListWorkers"));
  return reactor;
}

grpc::ServerUnaryReactor* FleetService::ListDatasets(grpc::CallbackServerContext* context, const v1::ListDatasetsRequest* request,
                                                     v1::ListDatasetsResponse* response) {
  auto* reactor = context->DefaultReactor();
  coordinator_->ListDatasets(*request, UnaryReply(reactor, response, metrics_, "ListDatasets"));
  return reactor;
}

grpc::ServerUnaryReactor* FleetService::CordonWorker(grpc::CallbackServerContext* context, const v1::CordonWorkerRequest* request, v1::Worker* response) {
  auto* reactor = context->DefaultReactor();
  coordinator_->CordonWorker(request->name(), true, false, UnaryReply(reactor, response, metrics_, "CordonWorker"));
  return reactor;
}

grpc::ServerUnaryReactor* FleetService::UncordonWorker(grpc::CallbackServerContext* context, const v1::UncordonWorkerRequest* request, v1::Worker* response) {
  auto* reactor = context->DefaultReactor();
  coordinator_->CordonWorker(request->name(), false, false, UnaryReply(reactor, response, metrics_, "UncordonWorker"));
  return reactor;
}

grpc::ServerUnaryReactor* FleetService::DrainWorker(grpc::CallbackServerContext* context, const v1::DrainWorkerRequest* request, v1::Worker* response) {
  auto* reactor = context->DefaultReactor();
  coordinator_->CordonWorker(request->name(), true, true, UnaryReply(reactor, response, metrics_, "DrainWorker"));
  return reactor;
}

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* FleetService::Connect(grpc::CallbackServerContext*) {
  auto call = std::make_shared<WorkerCall>(coordinator_, metrics_);
  call->Begin();
  return call.get();
}

}  // namespace bitstair::server
