#include "server/fleet_service.h"

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status.h"
#include "server/call.h"
#include "server/stream_writer.h"

namespace bitstair::server {
namespace {

// A worker gets few messages; this many waiting means that it is stuck. It loses its stream then and says hello again.
constexpr size_t kMaxWaitingMessages = 4096;

class WorkerCall final : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>,
                         public WorkerStream,
                         public std::enable_shared_from_this<WorkerCall> {
 public:
  WorkerCall(Coordinator* coordinator, Metrics* metrics, Gatekeeper* gatekeeper, Caller caller)
      : coordinator_(coordinator),
        gatekeeper_(gatekeeper),
        caller_(std::move(caller)),
        writer_(
            kMaxWaitingMessages, [this](const v1::CoordinatorMessage* message) { StartWrite(message); },
            [this, metrics](const absl::Status& status) {
              metrics->CountRpc("Connect", status);
              gatekeeper_->Ended(caller_, status);
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
    if (const absl::Status status = CheckIdentity(incoming_); !status.ok()) {
      coordinator_->OnWorkerStreamEnded(shared_from_this());
      return writer_.Close(status);
    }
    if (const v1::DatasetResolved& data = incoming_.dataset_resolved(); data.forbidden() && forbidden_.insert(data.token()).second) {
      gatekeeper_->RefusedByWorker(caller_, absl::StrCat("jobs/", data.token()), data.error());
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
  // A certificate speaks for one worker only, and only while it is in force.
  absl::Status CheckIdentity(const v1::WorkerMessage& message) {
    if (caller_.is_revoked()) return absl::UnauthenticatedError("the worker's certificate was revoked");
    if (!message.has_hello() || caller_.token.worker().empty()) return absl::OkStatus();
    const std::string name = absl::StrCat("workers/", message.hello().worker_id());
    if (name == caller_.token.worker()) return absl::OkStatus();
    return absl::PermissionDeniedError(absl::StrCat("this certificate is for ", caller_.token.worker(), ", not for ", name));
  }

  Coordinator* const coordinator_;
  Gatekeeper* const gatekeeper_;
  const Caller caller_;
  StreamWriter<v1::CoordinatorMessage> writer_;
  v1::WorkerMessage incoming_;
  std::set<std::string> forbidden_;   // jobs whose paths this worker refused: it is asked again and again
  std::shared_ptr<WorkerCall> self_;  // until OnDone
};

}  // namespace

grpc::ServerUnaryReactor* FleetService::ListWorkers(grpc::CallbackServerContext* context, const v1::ListWorkersRequest* request,
                                                    v1::ListWorkersResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListWorkers", "", response,
                     [&](const Caller&, Reply<v1::ListWorkersResponse> reply) { coordinator_->ListWorkers(*request, std::move(reply)); });
}

grpc::ServerUnaryReactor* FleetService::ListDatasets(grpc::CallbackServerContext* context, const v1::ListDatasetsRequest* request,
                                                     v1::ListDatasetsResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListDatasets", "", response,
                     [&](const Caller&, Reply<v1::ListDatasetsResponse> reply) { coordinator_->ListDatasets(*request, std::move(reply)); });
}

grpc::ServerUnaryReactor* FleetService::CordonWorker(grpc::CallbackServerContext* context, const v1::CordonWorkerRequest* request, v1::Worker* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "CordonWorker", request->name(), response,
                     [&](const Caller&, Reply<v1::Worker> reply) { coordinator_->CordonWorker(request->name(), true, false, std::move(reply)); });
}

grpc::ServerUnaryReactor* FleetService::UncordonWorker(grpc::CallbackServerContext* context, const v1::UncordonWorkerRequest* request, v1::Worker* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "UncordonWorker", request->name(), response,
                     [&](const Caller&, Reply<v1::Worker> reply) { coordinator_->CordonWorker(request->name(), false, false, std::move(reply)); });
}

grpc::ServerUnaryReactor* FleetService::DrainWorker(grpc::CallbackServerContext* context, const v1::DrainWorkerRequest* request, v1::Worker* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "DrainWorker", request->name(), response,
                     [&](const Caller&, Reply<v1::Worker> reply) { coordinator_->CordonWorker(request->name(), true, true, std::move(reply)); });
}

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* FleetService::Connect(grpc::CallbackServerContext* context) {
  auto caller = gatekeeper_->Admit(*context, "Connect");
  if (!caller.ok()) return RefuseStream<grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>>(metrics_, "Connect", caller.status());
  auto call = std::make_shared<WorkerCall>(coordinator_, metrics_, gatekeeper_, *std::move(caller));
  call->Begin();
  return call.get();
}

}  // namespace bitstair::server
