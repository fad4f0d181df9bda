// The C++ client library of a Bitstair coordinator: typed calls, each with a deadline.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "bitstair/v1/access.grpc.pb.h"
#include "bitstair/v1/artifacts.grpc.pb.h"
#include "bitstair/v1/fleet.grpc.pb.h"
#include "bitstair/v1/jobs.grpc.pb.h"

namespace bitstair::client {

struct ClientOptions {
  // Of each call that answers at once.
  std::chrono::milliseconds call_deadline{10'000};
  // A watch or a followed log gives up with UNAVAILABLE after so long without any contact.
  std::chrono::milliseconds max_silence{60'000};
  // TLS; whom to believe about the coordinator's certificate: the authorities in this file (PEM), or, where it is empty, the system's.
  bool tls = false;
  std::string tls_ca;
  // Sent with every call (docs/security.md). Empty: none. Not without TLS, except to loopback: the coordinator refuses it then.
  std::string token;
};

// "jobs/x" for "x" and "jobs/x".
std::string JobName(const std::string& job);
// "jobs/x/stages/W4A8" for ("x", "W4A8"); a full stage name stays as it is.
std::string StageName(const std::string& job, const std::string& stage);
// The part after the last '/'.
std::string ShortName(const std::string& name);
// True once the job will not change any more.
bool IsEnded(v1::JobState state);

// Calls of one coordinator over one channel. Every function blocks until it has an answer, its deadline passes or Stop is called.
// Errors are those of the server with their details (proto/status.h); UNAVAILABLE or DEADLINE_EXCEEDED when it cannot be reached; CANCELLED after Stop.
// Thread-safe.
class Client {
 public:
  // address: HOST:PORT. Does not connect yet.
  explicit Client(const std::string& address, ClientOptions options = {});
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const std::string& address() const { return address_; }

  // Repeats on UNAVAILABLE, at most twice: the request id (made here if empty) makes that safe.
  absl::StatusOr<v1::Job> CreateJob(v1::CreateJobRequest request);
  absl::StatusOr<v1::Job> GetJob(const std::string& job);
  // All pages, newest first, at most `limit` jobs (0: all).
  absl::StatusOr<std::vector<v1::Job>> ListJobs(const std::string& filter, int limit = 0);
  absl::StatusOr<v1::Job> CancelJob(const std::string& job);
  absl::StatusOr<v1::Job> PauseJob(const std::string& job);
  absl::StatusOr<v1::Job> ResumeJob(const std::string& job);
  absl::StatusOr<v1::Job> RetryJob(const std::string& job);
  absl::StatusOr<v1::Job> PrioritizeJob(const std::string& job, v1::PriorityClass priority);
  // Keeps its checkpoints from garbage collection, or no longer.
  absl::StatusOr<v1::Job> PinJob(const std::string& job, bool pinned);
  absl::StatusOr<v1::CollectGarbageResponse> CollectGarbage(const v1::CollectGarbageRequest& request);
  absl::StatusOr<std::vector<v1::Event>> ListEvents(const std::string& job);
  // All epochs of all stages, with the telemetry of their layers; stages without epochs are left out.
  absl::StatusOr<std::vector<v1::StageMetrics>> ListMetrics(const std::string& job);
  absl::StatusOr<std::vector<v1::Worker>> ListWorkers();
  // worker: by id or by the name that people gave it, with or without "workers/".
  absl::StatusOr<v1::Worker> CordonWorker(const std::string& worker);
  absl::StatusOr<v1::Worker> UncordonWorker(const std::string& worker);
  absl::StatusOr<v1::Worker> DrainWorker(const std::string& worker);
  // For admins. ttl: 0 never expires, below 0 the coordinator's default.
  absl::StatusOr<v1::CreateTokenResponse> CreateToken(const v1::Token& token, std::chrono::seconds ttl);
  absl::StatusOr<std::vector<v1::Token>> ListTokens();
  // token: with or without "tokens/".
  absl::StatusOr<v1::Token> RevokeToken(const std::string& token);
  // Whether the coordinator's health service (grpc.health.v1) answers SERVING.
  absl::StatusOr<bool> IsServing();

  // Calls `on_change` for the job as it is and for each change until it ends; goes on from the last revision seen over broken connections and coordinator
  // restarts. Returns the job as it ended. on_change runs on the caller's thread.
  absl::StatusOr<v1::Job> WatchJob(const std::string& job, const std::function<void(const v1::WatchJobResponse&)>& on_change);

  // Calls `on_text` for each piece of a rank's log. generation 0: the last attempt. follow: until the stage ends.
  absl::Status StreamLogs(const v1::StreamLogsRequest& request, const std::function<void(const std::string&)>& on_text);

  // Writes the artifact with this digest to `on_chunk`, piece by piece, and checks the digest at the end (DATA_LOSS).
  absl::Status DownloadArtifact(const std::string& sha256, const std::function<absl::Status(const std::string&)>& on_chunk);

  // Ends the calls in flight and all later ones with CANCELLED. From any thread.
  void Stop();

 private:
  // A context that Stop can reach, alive for one call.
  class Call;
  class Contact;

  template <typename Request, typename Response, typename Method>
  absl::StatusOr<Response> Unary(Method method, const Request& request);
  bool stopped() const;
  // Sleeps unless stopped; false when stopped.
  bool Pause(std::chrono::milliseconds time);

  const std::string address_;
  const ClientOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Jobs::Stub> jobs_;
  std::unique_ptr<v1::Fleet::Stub> fleet_;
  std::unique_ptr<v1::Artifacts::Stub> artifacts_;
  std::unique_ptr<v1::Access::Stub> access_;
  mutable absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<grpc::ClientContext*> in_flight_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitstair::client

// Users of the installed library (bitstair/client.h) find it under its short name.
namespace bitstair {
using client::Client;
using client::ClientOptions;
}  // namespace bitstair
