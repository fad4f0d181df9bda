#include "worker/agent.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cmath>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/files/durable_file.h"
#include "core/random/secure_random.h"
#include "worker/identity.h"

namespace bitstair::worker {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

constexpr int kProtocolVersion = 1;
constexpr char kLeavingReason[] = "the worker is leaving";
// Bytes that nobody acknowledges for so long mean that the way to the coordinator is broken. gRPC takes it as the kernel's TCP_USER_TIMEOUT, which heartbeats
// then run into; its own pings are not needed for that.
constexpr int kUnacknowledgedMs = 6'000;
constexpr int kPingMs = 600'000;

// Sorts by start time.
std::string NewIncarnation() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return absl::StrCat(absl::Hex(std::chrono::duration_cast<std::chrono::microseconds>(now).count(), absl::kZeroPad16), "-", core::SecureRandomHex(4));
}

std::chrono::milliseconds FromSeconds(double seconds, std::chrono::milliseconds fallback) {
  if (!std::isfinite(seconds) || seconds <= 0 || seconds > 1e6) return fallback;
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Agent>> Agent::Create(asio::io_context& io, AgentOptions options, WorkerMetrics* metrics) {
  absl::StatusOr<std::string> id = StableWorkerId(options.state_dir);
  if (!id.ok()) return id.status();
  std::error_code error;
  fs::remove_all(options.state_dir + "/attempts", error);  // of an earlier life: its trainers are gone
  for (const char* folder : {"/attempts", "/artifacts"}) {
    if (const absl::Status made = core::MakeWritableDirectory(options.state_dir + folder); !made.ok()) return made;
  }
  options.datasets.cache_file = options.state_dir + "/dataset_digests";
  return std::unique_ptr<Agent>(new Agent(io, std::move(options), metrics, *std::move(id)));
}

Agent::Agent(asio::io_context& io, AgentOptions options, WorkerMetrics* metrics, std::string worker_id)
    : io_(io),
      options_(std::move(options)),
      metrics_(*metrics),
      worker_id_(std::move(worker_id)),
      incarnation_(NewIncarnation()),
      datasets_(options_.datasets),
      backoff_(options_.first_backoff),
      connect_timer_(io),
      heartbeat_timer_(io),
      alone_timer_(io),
      leave_timer_(io),
      alive_(std::make_shared<Agent*>(this)) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(options_.first_backoff.count()));
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(options_.first_backoff.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(options_.last_backoff.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kUnacknowledgedMs);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  channel_ =
      grpc::CreateCustomChannel(options_.coordinator, options_.credentials == nullptr ? grpc::InsecureChannelCredentials() : options_.credentials, arguments);
  stub_ = v1::Fleet::NewStub(channel_);
  ArtifactClient::Options artifact_options;
  artifact_options.cache_dir = options_.state_dir + "/artifacts";
  artifacts_ = std::make_unique<ArtifactClient>(io_, channel_, artifact_options, &metrics_);
  host_.reset(new AttemptHost{io_,
                              disk_,
                              datasets_,
                              *artifacts_,
                              metrics_,
                              outbox_,
                              options_.state_dir + "/attempts",
                              options_.trainer_program,
                              {"--log-level", options_.log_level},
                              options_.data_address,
                              options_.slots,
                              options_.trainer_timing,
                              [this] { Changed(); }});
  metrics_.SetSlots(static_cast<int>(options_.slots.size()), 0);
}

Agent::~Agent() {
  alive_.reset();
  datasets_.Cancel();
  disk_.stop();
  if (stream_ != nullptr) {
    stream_->Cancel();
    stream_->WaitUntilDone();  // gRPC's threads post to the io_context until then
  }
  attempts_.clear();
  artifacts_.reset();
  disk_.join();
}

void Agent::Start(std::function<void(int)> left) {
  left_ = std::move(left);
  Connect();
}

void Agent::Connect() {
  if (leaving_ == Leaving::kLeft) return;
  const std::weak_ptr<Agent*> alive = alive_;
  CoordinatorStream::Events events;
  events.on_message = [alive](const v1::CoordinatorMessage& message) {
    if (const auto self = alive.lock()) (*self)->OnMessage(message);
  };
  events.on_writable = [alive] {
    if (const auto self = alive.lock()) (*self)->Pump();
  };
  events.on_closed = [alive](const grpc::Status& status) {
    if (const auto self = alive.lock()) (*self)->OnClosed(status);
  };
  stream_ = CoordinatorStream::Open(io_, *stub_, Hello(), std::move(events));
  connect_timer_.expires_after(options_.welcome_timeout);
  connect_timer_.async_wait([alive](const boost::system::error_code& error) {
    const auto self = alive.lock();
    if (error || self == nullptr || (*self)->welcomed_ || (*self)->stream_ == nullptr) return;
    spdlog::warn("no welcome from {} yet; connecting again", (*self)->options_.coordinator);
    (*self)->stream_->Cancel();
  });
}

// An attempt is listed while anything about it is untold: a coordinator that starts again must not take its ranks for lost before it has heard their end.
v1::WorkerMessage Agent::Hello() const {
  v1::WorkerMessage message;
  v1::WorkerHello& hello = *message.mutable_hello();
  hello.set_worker_id(worker_id_);
  hello.set_incarnation(incarnation_);
  hello.set_protocol_version(kProtocolVersion);
  hello.set_host(options_.name);
  hello.set_version(BITSTAIR_VERSION);
  hello.set_numeric_profile(options_.numeric_profile);
  for (const v1::Slot& slot : options_.slots) *hello.add_slots() = slot;
  for (const std::string& name : datasets_.names()) hello.add_datasets(name);
  hello.set_data_address(options_.data_address);
  hello.set_hostname(options_.hostname);
  hello.set_subnet(options_.subnet);
  hello.mutable_labels()->insert(options_.labels.begin(), options_.labels.end());
  hello.set_metrics_address(options_.metrics_address);
  for (const auto& [key, attempt] : attempts_) {
    v1::RunningAttempt& running = *hello.add_running();
    *running.mutable_attempt() = attempt->id();
    for (const int rank : attempt->ranks()) running.add_ranks(rank);
  }
  return message;
}

void Agent::OnMessage(const v1::CoordinatorMessage& message) {
  if (message.has_welcome()) return OnWelcome(message.welcome());
  if (!welcomed_ && !message.has_goodbye()) return;
  switch (message.kind_case()) {
    case v1::CoordinatorMessage::kResolveDataset:
      return OnResolve(message.resolve_dataset());
    case v1::CoordinatorMessage::kAssign:
      return OnAssign(message.assign());
    case v1::CoordinatorMessage::kRendezvous:
      if (const auto attempt = Find(message.rendezvous().attempt())) attempt->OnRendezvous(message.rendezvous().address());
      return;
    case v1::CoordinatorMessage::kStop:
      return OnStop(message.stop());
    case v1::CoordinatorMessage::kCheckpointCommitted:
      outbox_.CheckpointCommitted(KeyOf(message.checkpoint_committed().attempt()), message.checkpoint_committed().sha256());
      return Changed();
    case v1::CoordinatorMessage::kGoodbye:
      if (options_.embedded) return Leave("the coordinator leaves");
      for (const auto& [key, attempt] : attempts_) attempt->Stop(true, "the coordinator leaves");
      return;
    default:
      spdlog::warn("a message from the coordinator that this version does not know");
  }
}

void Agent::OnWelcome(const v1::WorkerWelcome& welcome) {
  if (welcome.protocol_version() != kProtocolVersion) {
    spdlog::error("the coordinator speaks protocol {}, this worker {}; they cannot work together", welcome.protocol_version(), kProtocolVersion);
    stream_->Cancel();
    return;
  }
  spdlog::info("connected to the coordinator at {}", options_.coordinator);
  welcomed_ = true;
  last_error_.clear();
  backoff_ = options_.first_backoff;
  lease_ = FromSeconds(welcome.lease_seconds(), lease_);
  grace_ = FromSeconds(welcome.grace_seconds(), grace_);
  connect_timer_.cancel();
  alone_timer_.cancel();
  metrics_.SetConnected(true);
  for (const v1::AttemptId& id : welcome.fenced()) {
    const auto attempt = Find(id);
    if (attempt == nullptr) continue;
    attempt->Abandon();
    outbox_.Forget(KeyOf(id));
    attempts_.erase(KeyOf(id));
  }
  Heartbeat();
  Changed();
}

void Agent::OnClosed(const grpc::Status& status) {
  stream_.reset();
  if (leaving_ == Leaving::kLeft) return;
  connect_timer_.cancel();
  heartbeat_timer_.cancel();
  outbox_.OnDisconnected();
  const bool was_welcomed = std::exchange(welcomed_, false);
  if (was_welcomed) {
    metrics_.SetConnected(false);
    alone_timer_.expires_after(lease_ + grace_);
    alone_timer_.async_wait([alive = std::weak_ptr<Agent*>(alive_)](const boost::system::error_code& error) {
      const auto self = alive.lock();
      if (error || self == nullptr) return;
      (*self)->KillAll("the worker could not reach the coordinator within lease and grace, and so stopped its trainers");
    });
  }
  if (leaving_ == Leaving::kSaidGoodbye) return Finish(0);
  if (leaving_ == Leaving::kStopping) KillAll("the coordinator went away while the worker was leaving");
  if (status.error_code() == grpc::StatusCode::ALREADY_EXISTS) {
    spdlog::error("leaving, since another process took over this worker's identity: {}", status.error_message());
    replaced_ = true;
    leaving_ = Leaving::kStopping;
    KillAll("the worker was replaced");
    return LeaveStep();
  }
  const std::string error = status.ok() ? "it ended the stream" : status.error_message();
  if (error != last_error_) {
    spdlog::log(was_welcomed || last_error_.empty() ? spdlog::level::warn : spdlog::level::info, "no connection to the coordinator at {}: {}; trying on",
                options_.coordinator, error);
    last_error_ = error;
  }
  // Asking again soon would only fill the coordinator's audit log.
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED || status.error_code() == grpc::StatusCode::PERMISSION_DENIED)
    backoff_ = options_.refused_backoff;
  // A broken connection is tried again at once; what fails at the first try waits longer each time.
  connect_timer_.expires_after(backoff_);
  backoff_ = std::min(2 * backoff_, options_.last_backoff);
  connect_timer_.async_wait([alive = std::weak_ptr<Agent*>(alive_)](const boost::system::error_code& timer_error) {
    const auto self = alive.lock();
    if (!timer_error && self != nullptr) (*self)->Connect();
  });
  Changed();
}

void Agent::OnResolve(const v1::ResolveDataset& request) {
  asio::post(disk_, [this, alive = std::weak_ptr<Agent*>(alive_), request, &io = io_] {
    // The one file first: it is the quicker one to refuse.
    absl::StatusOr<ResolvedDataset> weights = ResolvedDataset{};
    if (!request.weights_path().empty()) weights = datasets_.ResolveWeights(request.weights_path());
    const absl::StatusOr<ResolvedDataset> resolved = weights.ok() ? datasets_.Resolve(request.data()) : weights;
    v1::WorkerMessage message;
    v1::DatasetResolved& answer = *message.mutable_dataset_resolved();
    answer.set_token(request.token());
    if (resolved.ok()) {
      answer.set_digest(resolved->digest);
      answer.set_weights_digest(weights->digest);
    } else if (absl::IsUnavailable(resolved.status())) {
      answer.set_not_offered(true);
      answer.set_error(std::string(resolved.status().message()));  // why, for the job's reason
      spdlog::info("not offered: {}", std::string(resolved.status().message()));
    } else {
      answer.set_error(std::string(resolved.status().message()));
    }
    const bool by_path = !weights.ok() || request.data().name().empty();
    answer.set_forbidden(absl::IsPermissionDenied(resolved.status()) || (absl::IsUnavailable(resolved.status()) && by_path));
    asio::post(io, [alive, message] {
      const auto self = alive.lock();
      if (self == nullptr || !(*self)->welcomed_) return;  // the next coordinator asks again
      (*self)->outbox_.PushOnce(message);
      (*self)->Changed();
    });
  });
}

void Agent::OnAssign(const v1::AssignAttempt& assignment) {
  const v1::AttemptId& id = assignment.attempt();
  if (Find(id) != nullptr) return;  // told twice
  int32_t& newest = newest_generation_[id.stage()];
  const bool old = id.generation() <= newest;
  newest = std::max(newest, id.generation());
  // Never two generations side by side, whatever was said before.
  for (const auto& [key, other] : attempts_) {
    if (key.first == id.stage() && key.second < id.generation()) other->Stop(false, absl::StrCat("superseded by generation ", id.generation()));
  }
  if (old) {
    spdlog::warn("{} generation {} is not started: generation {} was here already", id.stage(), id.generation(), newest);
    return;
  }
  const auto attempt = std::make_shared<Attempt>(*host_, assignment);
  attempts_[KeyOf(id)] = attempt;
  if (leaving_ != Leaving::kNo) return attempt->Stop(false, kLeavingReason);
  attempt->Start();
}

void Agent::OnStop(const v1::StopAttempt& stop) {
  if (const auto attempt = Find(stop.attempt())) attempt->Stop(stop.graceful(), "stopped by the coordinator");
}

void Agent::Heartbeat() {
  v1::WorkerMessage message;
  message.mutable_heartbeat();
  outbox_.PushOnce(std::move(message));
  outbox_.Expire(std::chrono::steady_clock::now() - options_.keep_sent);
  const core::Disk disk = core::DiskOf(options_.state_dir);
  metrics_.SetDisk(disk.size_bytes, disk.free_bytes);
  Changed();
  heartbeat_timer_.expires_after(lease_ / 4);
  heartbeat_timer_.async_wait([alive = std::weak_ptr<Agent*>(alive_)](const boost::system::error_code& error) {
    const auto self = alive.lock();
    if (!error && self != nullptr && (*self)->welcomed_) (*self)->Heartbeat();
  });
}

// Many things may change in one turn of the loop; they are looked at once, with no attempt's function on the stack.
void Agent::Changed() {
  if (pump_posted_) return;
  pump_posted_ = true;
  asio::post(io_, [alive = std::weak_ptr<Agent*>(alive_)] {
    const auto self = alive.lock();
    if (self == nullptr) return;
    (*self)->pump_posted_ = false;
    (*self)->Collect();
    (*self)->Pump();
  });
}

void Agent::Pump() {
  if (leaving_ == Leaving::kSaidGoodbye) {
    if (stream_ != nullptr && stream_->writable()) stream_->FinishWriting();
    return;
  }
  if (welcomed_ && stream_ != nullptr && stream_->writable()) {
    if (std::optional<v1::WorkerMessage> message = outbox_.Next(std::chrono::steady_clock::now())) stream_->Write(*std::move(message));
  }
  LeaveStep();
}

// Lets go of attempts that have ended and have nothing left to tell.
void Agent::Collect() {
  int busy = 0;
  for (auto entry = attempts_.begin(); entry != attempts_.end();) {
    busy += entry->second->busy_slots();
    if (entry->second->ended() && outbox_.Done(entry->first)) {
      outbox_.Forget(entry->first);
      entry = attempts_.erase(entry);
    } else {
      ++entry;
    }
  }
  metrics_.SetSlots(static_cast<int>(options_.slots.size()), busy);
}

void Agent::Leave(const std::string& reason) {
  if (leaving_ != Leaving::kNo) {
    if (leaving_ == Leaving::kStopping) KillAll(kLeavingReason);
    return;
  }
  spdlog::info("leaving: {}", reason);
  leaving_ = Leaving::kStopping;
  for (const auto& [key, attempt] : attempts_) attempt->Stop(welcomed_, kLeavingReason);
  leave_timer_.expires_after(options_.leave_timeout);
  leave_timer_.async_wait([alive = std::weak_ptr<Agent*>(alive_)](const boost::system::error_code& error) {
    const auto self = alive.lock();
    if (error || self == nullptr) return;
    spdlog::warn("leaving without having told the coordinator everything");
    (*self)->KillAll(kLeavingReason);
    (*self)->Finish((*self)->replaced_ ? 1 : 0);
  });
  LeaveStep();
}

void Agent::LeaveStep() {
  if (leaving_ != Leaving::kStopping) return;
  if (!welcomed_) {
    // Nobody to report to; only the trainers' ends are waited for.
    const bool running = std::any_of(attempts_.begin(), attempts_.end(), [](const auto& entry) { return entry.second->busy_slots() > 0; });
    if (!running) Finish(replaced_ ? 1 : 0);
    return;
  }
  if (!AllEnded() || !outbox_.Flushed() || stream_ == nullptr || !stream_->writable()) return;
  leaving_ = Leaving::kSaidGoodbye;
  heartbeat_timer_.cancel();
  v1::WorkerMessage message;
  message.mutable_goodbye();
  stream_->Write(std::move(message));
  leave_timer_.expires_after(std::chrono::seconds(2));
  leave_timer_.async_wait([alive = std::weak_ptr<Agent*>(alive_)](const boost::system::error_code& error) {
    const auto self = alive.lock();
    if (!error && self != nullptr) (*self)->Finish(0);
  });
}

void Agent::Finish(int status) {
  if (leaving_ == Leaving::kLeft) return;
  leaving_ = Leaving::kLeft;
  for (boost::asio::steady_timer* timer : {&connect_timer_, &heartbeat_timer_, &alone_timer_, &leave_timer_}) timer->cancel();
  if (stream_ != nullptr) stream_->Cancel();
  metrics_.SetConnected(false);
  asio::post(io_, [alive = std::weak_ptr<Agent*>(alive_), status, left = left_] {
    if (alive.lock() != nullptr && left) left(status);
  });
}

void Agent::KillAll(const std::string& reason) {
  for (const auto& [key, attempt] : attempts_) attempt->Stop(false, reason);
}

bool Agent::AllEnded() const {
  return std::all_of(attempts_.begin(), attempts_.end(), [](const auto& entry) { return entry.second->ended(); });
}

std::shared_ptr<Attempt> Agent::Find(const v1::AttemptId& id) const {
  const auto found = attempts_.find(KeyOf(id));
  return found == attempts_.end() ? nullptr : found->second;
}

}  // namespace bitstair::worker
