#include "server/jobs_service.h"

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <utility>

#include "proto/status.h"
#include "server/call.h"
#include "server/stream_writer.h"

namespace bitstair::server {
namespace {

// Changes that may wait for a slow watcher; the newest picture of the job and of each stage's progress count once.
constexpr size_t kMaxWaitingChanges = 4096;
constexpr size_t kLogChunkBytes = 64 << 10;
constexpr auto kLogPoll = std::chrono::milliseconds(200);

class WatchCall final : public grpc::ServerWriteReactor<v1::WatchJobResponse>, public JobWatcher, public std::enable_shared_from_this<WatchCall> {
 public:
  WatchCall(Coordinator* coordinator, Metrics* metrics, Caller caller)
      : coordinator_(coordinator),
        caller_(std::move(caller)),
        writer_(
            kMaxWaitingChanges, [this](const v1::WatchJobResponse* change) { StartWrite(change); },
            [this, metrics](const absl::Status& status) {
              metrics->CountRpc("WatchJob", status);
              Finish(ToGrpc(status));
            }) {}

  void Begin(const v1::WatchJobRequest& request) {
    self_ = shared_from_this();
    coordinator_->Watch(request, self_);
  }

  void Send(v1::WatchJobResponse change) override {
    if (caller_.is_revoked()) return writer_.Close(absl::UnauthenticatedError("the token was revoked"));
    const std::string topic = change.has_job() ? "job" : change.has_progress() ? change.progress().name() : "";
    writer_.Send(std::move(change), topic);
  }
  void Close(absl::Status status) override { writer_.Close(std::move(status)); }

  void OnWriteDone(bool ok) override { writer_.WriteDone(ok); }
  void OnCancel() override { writer_.Close(absl::CancelledError("cancelled")); }
  void OnDone() override {
    coordinator_->Unwatch(self_);
    self_.reset();
  }

 private:
  Coordinator* const coordinator_;
  const Caller caller_;
  StreamWriter<v1::WatchJobResponse> writer_;
  std::shared_ptr<WatchCall> self_;  // until OnDone
};

// One step at a time: where is the log now -> read some -> write it -> again. With `follow` it waits and looks again until the stage has ended.
class LogCall final : public grpc::ServerWriteReactor<v1::StreamLogsResponse>, public std::enable_shared_from_this<LogCall> {
 public:
  LogCall(Coordinator* coordinator, LogStore* logs, Metrics* metrics, Caller caller, boost::asio::thread_pool* threads, v1::StreamLogsRequest request)
      : coordinator_(coordinator),
        logs_(logs),
        metrics_(metrics),
        caller_(std::move(caller)),
        threads_(threads),
        timer_(threads->get_executor()),
        request_(std::move(request)) {}

  void Begin() {
    self_ = shared_from_this();
    Locate();
  }

  void OnWriteDone(bool ok) override { ok ? ReadMore() : End(absl::CancelledError("the peer is gone")); }
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { self_.reset(); }

 private:
  void Locate() {
    coordinator_->LocateLog(request_, [self = shared_from_this()](absl::StatusOr<Coordinator::LogPosition> position) {
      if (!position.ok()) return self->End(position.status());
      // Another attempt has begun, and this one's log was read to its end.
      if (position->file.generation != self->position_.file.generation) self->offset_ = 0;
      self->position_ = *std::move(position);
      self->ReadMore();
    });
  }

  void ReadMore() {
    boost::asio::post(*threads_, [self = shared_from_this()] {
      if (self->cancelled_) return self->End(absl::CancelledError("cancelled"));
      if (self->caller_.is_revoked()) return self->End(absl::UnauthenticatedError("the token was revoked"));
      auto chunk = self->logs_->Read(self->position_.file, self->offset_, kLogChunkBytes);
      if (!chunk.ok()) return self->End(chunk.status());
      self->offset_ = chunk->next_offset;
      if (!chunk->text.empty()) {
        self->response_.set_text(std::move(chunk->text));
        self->response_.set_generation(self->position_.file.generation);
        self->at_end_ = false;
        return self->StartWrite(&self->response_);
      }
      // The last chunks may arrive just after the stage's end: look once more before leaving.
      if (!self->request_.follow() || (self->position_.ended && self->at_end_)) return self->End(absl::OkStatus());
      self->at_end_ = self->position_.ended;
      self->timer_.expires_after(kLogPoll);
      self->timer_.async_wait([self](const boost::system::error_code&) { self->Locate(); });
    });
  }

  void End(const absl::Status& status) {
    metrics_->CountRpc("StreamLogs", status);
    Finish(ToGrpc(status));
  }

  Coordinator* const coordinator_;
  LogStore* const logs_;
  Metrics* const metrics_;
  const Caller caller_;
  boost::asio::thread_pool* const threads_;
  boost::asio::steady_timer timer_;
  const v1::StreamLogsRequest request_;
  Coordinator::LogPosition position_;
  int64_t offset_ = 0;
  bool at_end_ = false;
  std::atomic<bool> cancelled_ = false;
  v1::StreamLogsResponse response_;
  std::shared_ptr<LogCall> self_;  // until OnDone
};

}  // namespace

grpc::ServerUnaryReactor* JobsService::CreateJob(grpc::CallbackServerContext* context, const v1::CreateJobRequest* request, v1::Job* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "CreateJob", "", response, [&](const Caller& caller, Reply<v1::Job> reply) {
    const std::string queue = request->spec().has_queue() ? request->spec().queue() : "default";
    if (!caller.MayUse(queue)) return reply(MayNotUse(caller, queue));
    coordinator_->CreateJob(*request, std::move(reply));
  });
}

// A change of a job: the caller's token must be good for its queue, too.
template <typename Request, typename Change>
grpc::ServerUnaryReactor* JobsService::ChangeJob(grpc::CallbackServerContext* context, const std::string& method, const Request& request, v1::Job* response,
                                                 Change change) {
  return AnswerUnary(gatekeeper_, metrics_, context, request, method, request.name(), response, [&](const Caller& caller, Reply<v1::Job> reply) {
    if (caller.token.queues().empty()) return change(std::move(reply));
    coordinator_->GetJob(request.name(), [caller, change, reply = std::move(reply)](const absl::StatusOr<v1::Job>& job) {
      if (!job.ok()) return reply(job.status());
      if (!caller.MayUse(job->spec().queue())) return reply(MayNotUse(caller, job->spec().queue()));
      change(reply);
    });
  });
}

grpc::ServerUnaryReactor* JobsService::GetJob(grpc::CallbackServerContext* context, const v1::GetJobRequest* request, v1::Job* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "GetJob", request->name(), response,
                     [&](const Caller&, Reply<v1::Job> reply) { coordinator_->GetJob(request->name(), std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::ListJobs(grpc::CallbackServerContext* context, const v1::ListJobsRequest* request, v1::ListJobsResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListJobs", "", response,
                     [&](const Caller&, Reply<v1::ListJobsResponse> reply) { coordinator_->ListJobs(*request, std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::CancelJob(grpc::CallbackServerContext* context, const v1::CancelJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "CancelJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->CancelJob(request->name(), std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::PauseJob(grpc::CallbackServerContext* context, const v1::PauseJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "PauseJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->PauseJob(request->name(), std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::ResumeJob(grpc::CallbackServerContext* context, const v1::ResumeJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "ResumeJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->ResumeJob(request->name(), std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::RetryJob(grpc::CallbackServerContext* context, const v1::RetryJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "RetryJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->RetryJob(request->name(), std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::PrioritizeJob(grpc::CallbackServerContext* context, const v1::PrioritizeJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "PrioritizeJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->PrioritizeJob(*request, std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::PinJob(grpc::CallbackServerContext* context, const v1::PinJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "PinJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->PinJob(request->name(), true, std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::UnpinJob(grpc::CallbackServerContext* context, const v1::UnpinJobRequest* request, v1::Job* response) {
  return ChangeJob(context, "UnpinJob", *request, response,
                   [this, request](Reply<v1::Job> reply) { coordinator_->PinJob(request->name(), false, std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::ListStages(grpc::CallbackServerContext* context, const v1::ListStagesRequest* request,
                                                  v1::ListStagesResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListStages", "", response,
                     [&](const Caller&, Reply<v1::ListStagesResponse> reply) { coordinator_->ListStages(*request, std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::ListEvents(grpc::CallbackServerContext* context, const v1::ListEventsRequest* request,
                                                  v1::ListEventsResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListEvents", "", response,
                     [&](const Caller&, Reply<v1::ListEventsResponse> reply) { coordinator_->ListEvents(*request, std::move(reply)); });
}

grpc::ServerUnaryReactor* JobsService::ListMetrics(grpc::CallbackServerContext* context, const v1::ListMetricsRequest* request,
                                                   v1::ListMetricsResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "ListMetrics", "", response,
                     [&](const Caller&, Reply<v1::ListMetricsResponse> reply) { coordinator_->ListMetrics(*request, std::move(reply)); });
}

grpc::ServerWriteReactor<v1::StreamLogsResponse>* JobsService::StreamLogs(grpc::CallbackServerContext* context, const v1::StreamLogsRequest* request) {
  auto caller = gatekeeper_->Admit(*context, "StreamLogs", request->name());
  if (!caller.ok()) return RefuseStream<grpc::ServerWriteReactor<v1::StreamLogsResponse>>(metrics_, "StreamLogs", caller.status());
  auto call = std::make_shared<LogCall>(coordinator_, logs_, metrics_, *std::move(caller), file_threads_, *request);
  call->Begin();
  return call.get();
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobsService::WatchJob(grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  auto caller = gatekeeper_->Admit(*context, "WatchJob", request->name());
  if (!caller.ok()) return RefuseStream<grpc::ServerWriteReactor<v1::WatchJobResponse>>(metrics_, "WatchJob", caller.status());
  auto call = std::make_shared<WatchCall>(coordinator_, metrics_, *std::move(caller));
  call->Begin(*request);
  return call.get();
}

}  // namespace bitstair::server
