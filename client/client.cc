#include "client/client.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/digest/sha256.h"
#include "core/random/secure_random.h"
#include "proto/status.h"
#include "server/daemon/transport.h"

namespace bitstair::client {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A watch is renewed at least this often: a peer that vanished without a word is noticed, and every call has a deadline.
constexpr milliseconds kStreamDeadline{120'000};
constexpr milliseconds kReconnectPause{250};
constexpr int kServing = 1;  // HealthCheckResponse.ServingStatus

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // in fact how long one attempt may take; a busy machine needs it
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh client tries at once, whatever an older one saw
  arguments.SetMaxReceiveMessageSize(64 << 20);
  const auto credentials = options.tls ? daemon::MakeChannelCredentials({options.tls_ca, "", ""}) : grpc::InsecureChannelCredentials();
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

absl::Status Stopped() {
  return absl::CancelledError("stopped");
}

}  // namespace

std::string JobName(const std::string& job) {
  return absl::StartsWith(job, "jobs/") ? job : absl::StrCat("jobs/", job);
}

std::string WorkerName(const std::string& worker) {
  return absl::StartsWith(worker, "workers/") ? worker : absl::StrCat("workers/", worker);
}

std::string StageName(const std::string& job, const std::string& stage) {
  return absl::StartsWith(stage, "jobs/") ? stage : absl::StrCat(JobName(job), "/stages/", stage);
}

std::string ShortName(const std::string& name) {
  return name.substr(name.rfind('/') + 1);
}

bool IsEnded(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}

class Client::Call {
 public:
  Call(Client& client, milliseconds deadline) : client_(client) {
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
    if (!client_.options_.token.empty()) context_.AddMetadata("authorization", "Bearer " + client_.options_.token);
    const absl::MutexLock lock(&client_.mutex_);
    client_.in_flight_.push_back(&context_);
    if (client_.stopped_) context_.TryCancel();
  }
  ~Call() {
    const absl::MutexLock lock(&client_.mutex_);
    client_.in_flight_.erase(std::find(client_.in_flight_.begin(), client_.in_flight_.end(), &context_));
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }

 private:
  Client& client_;
  grpc::ClientContext context_;
};

// Decides for a stream that broke whether to try again.
class Client::Contact {
 public:
  explicit Contact(Client& client) : client_(client) {}

  void Met() {
    met_ = true;
    last_ = Clock::now();
  }

  // OK, after a short pause, if the stream is worth another try; else why not.
  absl::Status WaitAfter(const absl::Status& status) {
    if (client_.stopped()) return Stopped();
    // A stream that was quiet until its deadline may be healthy: ask.
    if (absl::IsDeadlineExceeded(status) && client_.IsServing().ok()) Met();
    if (!met_ || !(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status))) return status;
    const auto silence = Clock::now() - last_;
    if (silence > client_.options_.max_silence) {
      return absl::UnavailableError(
          absl::StrCat("no contact for ", std::chrono::duration_cast<std::chrono::seconds>(silence).count(), " s: ", status.message()));
    }
    return client_.Pause(kReconnectPause) ? absl::OkStatus() : Stopped();
  }

 private:
  Client& client_;
  bool met_ = false;
  Clock::time_point last_ = Clock::now();
};

Client::Client(const std::string& address, ClientOptions options)
    : address_(address),
      options_(std::move(options)),
      channel_(MakeChannel(address, options_)),
      jobs_(v1::Jobs::NewStub(channel_)),
      fleet_(v1::Fleet::NewStub(channel_)),
      artifacts_(v1::Artifacts::NewStub(channel_)),
      access_(v1::Access::NewStub(channel_)) {}

Client::~Client() = default;

void Client::Stop() {
  const absl::MutexLock lock(&mutex_);
  stopped_ = true;
  for (grpc::ClientContext* context : in_flight_) context->TryCancel();
}

bool Client::stopped() const {
  const absl::MutexLock lock(&mutex_);
  return stopped_;
}

bool Client::Pause(milliseconds time) {
  const absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopped_), absl::FromChrono(time));
}

template <typename Request, typename Response, typename Method>
absl::StatusOr<Response> Client::Unary(Method method, const Request& request) {
  Call call(*this, options_.call_deadline);
  Response response;
  const absl::Status status = FromGrpc(method(call.context(), request, &response));
  if (stopped()) return Stopped();
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Job> Client::CreateJob(v1::CreateJobRequest request) {
  if (request.request_id().empty()) request.set_request_id(core::SecureRandomHex(16));
  const auto method = [this](grpc::ClientContext* context, const auto& in, auto* out) { return jobs_->CreateJob(context, in, out); };
  for (int attempt = 1;; ++attempt) {
    auto job = Unary<v1::CreateJobRequest, v1::Job>(method, request);
    if (job.ok() || !absl::IsUnavailable(job.status()) || attempt == 3 || !Pause(kReconnectPause)) return job;
  }
}

absl::StatusOr<v1::Job> Client::GetJob(const std::string& job) {
  v1::GetJobRequest request;
  request.set_name(JobName(job));
  return Unary<v1::GetJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->GetJob(context, in, out); }, request);
}

absl::StatusOr<v1::Job> Client::CancelJob(const std::string& job) {
  v1::CancelJobRequest request;
  request.set_name(JobName(job));
  return Unary<v1::CancelJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->CancelJob(context, in, out); }, request);
}

absl::StatusOr<v1::Job> Client::PauseJob(const std::string& job) {
  v1::PauseJobRequest request;
  request.set_name(JobName(job));
  return Unary<v1::PauseJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->PauseJob(context, in, out); }, request);
}

absl::StatusOr<v1::Job> Client::ResumeJob(const std::string& job) {
  v1::ResumeJobRequest request;
  request.set_name(JobName(job));
  return Unary<v1::ResumeJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->ResumeJob(context, in, out); }, request);
}

absl::StatusOr<v1::Job> Client::PinJob(const std::string& job, bool pinned) {
  if (pinned) {
    v1::PinJobRequest request;
    request.set_name(JobName(job));
    return Unary<v1::PinJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->PinJob(context, in, out); }, request);
  }
  v1::UnpinJobRequest request;
  request.set_name(JobName(job));
  return Unary<v1::UnpinJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->UnpinJob(context, in, out); }, request);
}

absl::StatusOr<v1::CollectGarbageResponse> Client::CollectGarbage(const v1::CollectGarbageRequest& request) {
  return Unary<v1::CollectGarbageRequest, v1::CollectGarbageResponse>(
      [this](auto* context, const auto& in, auto* out) { return artifacts_->CollectGarbage(context, in, out); }, request);
}

absl::StatusOr<v1::Job> Client::RetryJob(const std::string& job) {
  v1::RetryJobRequest request;
  request.set_name(JobName(job));
  return Unary<v1::RetryJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->RetryJob(context, in, out); }, request);
}

absl::StatusOr<v1::Job> Client::PrioritizeJob(const std::string& job, v1::PriorityClass priority) {
  v1::PrioritizeJobRequest request;
  request.set_name(JobName(job));
  request.set_priority(priority);
  return Unary<v1::PrioritizeJobRequest, v1::Job>([this](auto* context, const auto& in, auto* out) { return jobs_->PrioritizeJob(context, in, out); }, request);
}

absl::StatusOr<v1::Worker> Client::CordonWorker(const std::string& worker) {
  v1::CordonWorkerRequest request;
  request.set_name(WorkerName(worker));
  return Unary<v1::CordonWorkerRequest, v1::Worker>([this](auto* context, const auto& in, auto* out) { return fleet_->CordonWorker(context, in, out); },
                                                    request);
}

absl::StatusOr<v1::Worker> Client::UncordonWorker(const std::string& worker) {
  v1::UncordonWorkerRequest request;
  request.set_name(WorkerName(worker));
  return Unary<v1::UncordonWorkerRequest, v1::Worker>([this](auto* context, const auto& in, auto* out) { return fleet_->UncordonWorker(context, in, out); },
                                                      request);
}

absl::StatusOr<v1::Worker> Client::DrainWorker(const std::string& worker) {
  v1::DrainWorkerRequest request;
  request.set_name(WorkerName(worker));
  return Unary<v1::DrainWorkerRequest, v1::Worker>([this](auto* context, const auto& in, auto* out) { return fleet_->DrainWorker(context, in, out); }, request);
}

absl::StatusOr<std::vector<v1::Job>> Client::ListJobs(const std::string& filter, int limit) {
  std::vector<v1::Job> jobs;
  v1::ListJobsRequest request;
  request.set_filter(filter);
  do {
    if (limit > 0) request.set_page_size(std::min(1000, limit - static_cast<int>(jobs.size())));
    auto page = Unary<v1::ListJobsRequest, v1::ListJobsResponse>([this](auto* context, const auto& in, auto* out) { return jobs_->ListJobs(context, in, out); },
                                                                 request);
    if (!page.ok()) return page.status();
    for (v1::Job& job : *page->mutable_jobs()) jobs.push_back(std::move(job));
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || static_cast<int>(jobs.size()) < limit));
  return jobs;
}

absl::StatusOr<std::vector<v1::Event>> Client::ListEvents(const std::string& job) {
  std::vector<v1::Event> events;
  v1::ListEventsRequest request;
  request.set_parent(JobName(job));
  request.set_page_size(1000);
  do {
    auto page = Unary<v1::ListEventsRequest, v1::ListEventsResponse>(
        [this](auto* context, const auto& in, auto* out) { return jobs_->ListEvents(context, in, out); }, request);
    if (!page.ok()) return page.status();
    for (v1::Event& event : *page->mutable_events()) events.push_back(std::move(event));
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return events;
}

absl::StatusOr<std::vector<v1::StageMetrics>> Client::ListMetrics(const std::string& job) {
  std::vector<v1::StageMetrics> stages;
  v1::ListMetricsRequest request;
  request.set_parent(JobName(job));
  request.set_page_size(1000);
  do {
    auto page = Unary<v1::ListMetricsRequest, v1::ListMetricsResponse>(
        [this](auto* context, const auto& in, auto* out) { return jobs_->ListMetrics(context, in, out); }, request);
    if (!page.ok()) return page.status();
    for (v1::StageMetrics& stage : *page->mutable_stages()) {
      if (stages.empty() || stages.back().stage() != stage.stage()) {
        stages.push_back(std::move(stage));
      } else {
        stages.back().mutable_epochs()->MergeFrom(stage.epochs());
      }
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return stages;
}

absl::StatusOr<std::vector<v1::Worker>> Client::ListWorkers() {
  std::vector<v1::Worker> workers;
  v1::ListWorkersRequest request;
  do {
    auto page = Unary<v1::ListWorkersRequest, v1::ListWorkersResponse>(
        [this](auto* context, const auto& in, auto* out) { return fleet_->ListWorkers(context, in, out); }, request);
    if (!page.ok()) return page.status();
    for (v1::Worker& worker : *page->mutable_workers()) workers.push_back(std::move(worker));
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return workers;
}

absl::StatusOr<v1::CreateTokenResponse> Client::CreateToken(const v1::Token& token, std::chrono::seconds ttl) {
  v1::CreateTokenRequest request;
  *request.mutable_token() = token;
  if (ttl.count() >= 0) request.mutable_ttl()->set_seconds(ttl.count());
  return Unary<v1::CreateTokenRequest, v1::CreateTokenResponse>(
      [this](auto* context, const auto& in, auto* out) { return access_->CreateToken(context, in, out); }, request);
}

absl::StatusOr<std::vector<v1::Token>> Client::ListTokens() {
  const auto list = Unary<v1::ListTokensRequest, v1::ListTokensResponse>(
      [this](auto* context, const auto& in, auto* out) { return access_->ListTokens(context, in, out); }, v1::ListTokensRequest());
  if (!list.ok()) return list.status();
  return std::vector<v1::Token>(list->tokens().begin(), list->tokens().end());
}

absl::StatusOr<v1::Token> Client::RevokeToken(const std::string& token) {
  v1::RevokeTokenRequest request;
  request.set_name(absl::StartsWith(token, "tokens/") ? token : absl::StrCat("tokens/", token));
  return Unary<v1::RevokeTokenRequest, v1::Token>([this](auto* context, const auto& in, auto* out) { return access_->RevokeToken(context, in, out); }, request);
}

absl::StatusOr<bool> Client::IsServing() {
  // HealthCheckRequest { string service = 1 } and HealthCheckResponse { enum status = 1 } have the wire format of these wrappers; gRPC's packages hold no
  // generated code for them.
  const grpc::internal::RpcMethod check("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC);
  const auto answer = Unary<google::protobuf::StringValue, google::protobuf::Int32Value>(
      [&](grpc::ClientContext* context, const google::protobuf::StringValue& in, google::protobuf::Int32Value* out) {
        return grpc::internal::BlockingUnaryCall(channel_.get(), check, context, in, out);
      },
      google::protobuf::StringValue());
  if (!answer.ok()) return answer.status();
  return answer->value() == kServing;
}

absl::StatusOr<v1::Job> Client::WatchJob(const std::string& job, const std::function<void(const v1::WatchJobResponse&)>& on_change) {
  v1::WatchJobRequest request;
  request.set_name(JobName(job));
  Contact contact(*this);
  while (true) {
    Call call(*this, kStreamDeadline);
    const auto reader = jobs_->WatchJob(call.context(), request);
    v1::WatchJobResponse change;
    while (reader->Read(&change)) {
      contact.Met();
      if (change.revision() > 0) request.set_from_revision(std::max(request.from_revision(), change.revision()));
      on_change(change);
      if (!change.has_job() || !IsEnded(change.job().state())) continue;
      call.context()->TryCancel();
      reader->Finish();
      return change.job();
    }
    absl::Status status = FromGrpc(reader->Finish());
    if (absl::IsOutOfRange(status)) request.set_from_revision(0);  // compacted: start from the present state
    if (status.ok() || absl::IsOutOfRange(status)) status = absl::UnavailableError("the coordinator ended the watch");
    if (status = contact.WaitAfter(status); !status.ok()) return status;
  }
}

absl::Status Client::StreamLogs(const v1::StreamLogsRequest& request, const std::function<void(const std::string&)>& on_text) {
  v1::StreamLogsRequest wanted = request;
  int64_t seen = 0;  // bytes of this generation handed on; a repeated call starts the log afresh, so these are skipped then
  Contact contact(*this);
  while (true) {
    Call call(*this, request.follow() ? kStreamDeadline : options_.call_deadline * 6);
    const auto reader = jobs_->StreamLogs(call.context(), wanted);
    v1::StreamLogsResponse piece;
    int64_t offset = 0;
    while (reader->Read(&piece)) {
      contact.Met();
      if (wanted.generation() == 0 && piece.generation() > 0) wanted.set_generation(piece.generation());
      const int64_t skip = std::clamp<int64_t>(seen - offset, 0, static_cast<int64_t>(piece.text().size()));
      offset += static_cast<int64_t>(piece.text().size());
      if (offset > seen) on_text(piece.text().substr(static_cast<size_t>(skip)));
      seen = std::max(seen, offset);
    }
    absl::Status status = FromGrpc(reader->Finish());
    if (status.ok() || !request.follow()) return stopped() ? Stopped() : status;
    if (status = contact.WaitAfter(status); !status.ok()) return status;
  }
}

absl::Status Client::DownloadArtifact(const std::string& sha256, const std::function<absl::Status(const std::string&)>& on_chunk) {
  v1::DownloadArtifactRequest request;
  request.set_sha256(sha256);
  core::Sha256 digest;
  int64_t received = 0;
  Contact contact(*this);
  while (true) {
    request.set_offset(received);
    Call call(*this, kStreamDeadline);
    const auto reader = artifacts_->DownloadArtifact(call.context(), request);
    v1::DownloadArtifactResponse piece;
    while (reader->Read(&piece)) {
      contact.Met();
      digest.Update(piece.chunk());
      received += static_cast<int64_t>(piece.chunk().size());
      if (absl::Status status = on_chunk(piece.chunk()); !status.ok()) {
        call.context()->TryCancel();
        return status;
      }
    }
    absl::Status status = FromGrpc(reader->Finish());
    if (status.ok()) break;
    if (status = contact.WaitAfter(status); !status.ok()) return status;
  }
  if (const std::string got = digest.HexDigest(); got != sha256) return absl::DataLossError(absl::StrCat("artifact ", sha256, " arrived with digest ", got));
  return absl::OkStatus();
}

}  // namespace bitstair::client
