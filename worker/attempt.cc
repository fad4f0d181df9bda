#include "worker/attempt.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"
#include "worker/trainer_environment.h"

namespace bitstair::worker {
namespace {

namespace asio = boost::asio;

// How long the report of a broken rank 0 waits for its last checkpoint: a retry may start from it.
constexpr std::chrono::seconds kUploadGrace{5};

std::string Name(const v1::AttemptId& id) {
  return absl::StrCat(id.stage(), " generation ", id.generation());
}

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

}  // namespace

Attempt::Attempt(AttemptHost& host, v1::AssignAttempt assignment)
    : host_(host), assignment_(std::move(assignment)), folder_(FolderPath()), upload_grace_(host.io) {
  for (const v1::RankAssignment& rank : assignment_.ranks()) ranks_[rank.rank()].slot = rank.slot();
}

Attempt::~Attempt() {
  if (fetch_.has_value()) host_.artifacts.Cancel(*fetch_);
  if (upload_.has_value()) host_.artifacts.Cancel(*upload_);
  for (auto& [number, rank] : ranks_) {
    if (rank.process != nullptr) rank.process->Abandon();
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

// Stage names come from outside: the folder is named by a digest of them.
std::string Attempt::FolderPath() const {
  return absl::StrCat(host_.attempts_dir, "/", core::Sha256Hex(absl::StrCat(id().stage(), "#", id().generation())).substr(0, 16));
}

std::vector<int> Attempt::ranks() const {
  std::vector<int> result;
  for (const auto& entry : ranks_) result.push_back(entry.first);
  return result;
}

int Attempt::busy_slots() const {
  return static_cast<int>(std::count_if(ranks_.begin(), ranks_.end(), [](const auto& entry) { return entry.second.process != nullptr; }));
}

void Attempt::Start() {
  spdlog::info("{}: starting {} of {} ranks here", Name(id()), ranks_.size(), assignment_.world_size());
  if (ranks_.empty()) {
    ended_ = true;
    return;
  }
  for (const auto& [number, rank] : ranks_) {
    if (rank.slot < 0 || rank.slot >= static_cast<int>(host_.slots.size())) {
      return FailAll(v1::EXIT_CAUSE_NOT_STARTED, absl::StrCat("this worker has no slot ", rank.slot));
    }
  }
  if (const absl::Status made = core::MakeWritableDirectory(absl::StrCat(folder_, "/checkpoints")); !made.ok()) {
    return FailAll(v1::EXIT_CAUSE_NOT_STARTED, Message(made));
  }
  asio::post(host_.disk, [weak = weak_from_this(), &io = host_.io, &datasets = host_.datasets, data = assignment_.spec().data()] {
    absl::StatusOr<ResolvedDataset> resolved = datasets.Resolve(data);
    asio::post(io, [weak, resolved = std::move(resolved)] {
      const std::shared_ptr<Attempt> self = weak.lock();
      if (self == nullptr || self->ended_ || self->stop_requested_) return;
      const std::string& planned = self->assignment_.spec().data_digest();  // empty: any
      if (!self->IsAsPlanned("data", resolved, planned.empty() && resolved.ok() ? resolved->digest : planned)) return;
      self->data_path_ = resolved->path;
      self->FindWeights();
    });
  });
}

// False, and all ranks have failed, if there is no such file or folder here or it is not what the job was planned with. what: "data".
bool Attempt::IsAsPlanned(const char* what, const absl::StatusOr<ResolvedDataset>& resolved, const std::string& digest) {
  if (!resolved.ok()) {
    const bool offered = !absl::IsUnavailable(resolved.status());
    FailAll(offered ? v1::EXIT_CAUSE_BAD_DATA : v1::EXIT_CAUSE_NOT_STARTED, Message(resolved.status()));
    return false;
  }
  if (resolved->digest == digest) return true;
  FailAll(v1::EXIT_CAUSE_BAD_DATA,
          absl::StrCat(resolved->path, ", the job's ", what, ", has changed since the job was planned: its digest is ", resolved->digest, ", not ", digest));
  return false;
}

// The file of initial weights, unless a checkpoint of the stage's own is there to go on from.
void Attempt::FindWeights() {
  if (!assignment_.spec().has_initial_weights() || !assignment_.resume_from().sha256().empty()) return FetchCheckpoints();
  asio::post(host_.disk, [weak = weak_from_this(), &io = host_.io, &datasets = host_.datasets, path = assignment_.spec().initial_weights().path()] {
    absl::StatusOr<ResolvedDataset> resolved = datasets.ResolveWeights(path);
    asio::post(io, [weak, resolved = std::move(resolved)] {
      const std::shared_ptr<Attempt> self = weak.lock();
      if (self == nullptr || self->ended_ || self->stop_requested_) return;
      if (!self->IsAsPlanned("weights", resolved, self->assignment_.spec().initial_weights_digest())) return;
      self->weights_path_ = resolved->path;
      self->FetchCheckpoints();
    });
  });
}

// Resume point first, then the parent's checkpoint, then the trainers.
void Attempt::FetchCheckpoints() {
  for (const auto& [checkpoint, path] : {std::pair{&assignment_.resume_from(), &resume_path_}, std::pair{&assignment_.parent_checkpoint(), &parent_path_}}) {
    if (checkpoint->sha256().empty() || !path->empty()) continue;
    if (!core::IsSha256Hex(checkpoint->sha256()) || checkpoint->size_bytes() <= 0) {
      return FailAll(v1::EXIT_CAUSE_BAD_CHECKPOINT,
                     absl::StrCat("the assignment names a checkpoint \"", checkpoint->sha256(), "\" of ", checkpoint->size_bytes(), " bytes"));
    }
    fetch_ = host_.artifacts.Fetch(checkpoint->sha256(), checkpoint->size_bytes(),
                                   [weak = weak_from_this(), path = path](const absl::StatusOr<std::string>& fetched) {
                                     const std::shared_ptr<Attempt> self = weak.lock();
                                     if (self == nullptr || self->ended_ || self->stop_requested_) return;
                                     self->fetch_.reset();
                                     if (!fetched.ok()) {
                                       const bool damaged = absl::IsDataLoss(fetched.status()) || absl::IsNotFound(fetched.status());
                                       return self->FailAll(damaged ? v1::EXIT_CAUSE_BAD_CHECKPOINT : v1::EXIT_CAUSE_NOT_STARTED,
                                                            absl::StrCat("cannot fetch the checkpoint to start from: ", fetched.status().message()));
                                     }
                                     // A name of the attempt's own: the cache may drop its own at any time.
                                     const std::string own = absl::StrCat(self->folder_, path == &self->resume_path_ ? "/resume" : "/parent", ".safetensors");
                                     if (link(fetched->c_str(), own.c_str()) != 0 && errno != EEXIST) {
                                       return self->FailAll(v1::EXIT_CAUSE_NOT_STARTED, Message(absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", own))));
                                     }
                                     *path = own;
                                     self->FetchCheckpoints();
                                   });
    return;
  }
  StartTrainers();
}

void Attempt::StartTrainers() {
  trainers_started_ = true;
  for (auto& [number, rank] : ranks_) {
    const absl::Status started = StartRank(number, rank);
    if (started.ok()) continue;
    OnExit(number, {v1::EXIT_CAUSE_NOT_STARTED, Message(started)});
    break;  // OnExit has ended the gang
  }
  host_.changed();
}

absl::Status Attempt::StartRank(int number, Rank& rank) {
  const v1::Slot& slot = host_.slots[static_cast<size_t>(rank.slot)];
  const auto& recipe = assignment_.spec().environment();
  absl::StatusOr<std::vector<std::string>> environment = TrainerEnvironment({recipe.begin(), recipe.end()}, slot.threads());
  if (!environment.ok()) return environment.status();
  TrainerCommand command;
  command.program = host_.trainer_program;
  command.arguments = host_.trainer_arguments;
  command.environment = *std::move(environment);
  command.log_path = absl::StrCat(folder_, "/rank-", number, ".log");
  command.timing = host_.timing;
  const std::weak_ptr<Attempt> weak = weak_from_this();
  TrainerProcess::Callbacks callbacks;
  callbacks.on_message = [weak, number](const v1::FromTrainer& message) {
    if (const auto self = weak.lock()) self->OnMessage(number, message);
  };
  callbacks.on_log = [weak, number, path = command.log_path](int64_t size) {
    if (const auto self = weak.lock()) {
      self->host_.outbox.LogGrew(self->id(), number, path, size);
      self->host_.changed();
    }
  };
  callbacks.on_exit = [weak, number](const TrainerExit& exit) {
    if (const auto self = weak.lock()) self->OnExit(number, exit);
  };
  callbacks.on_starved = [weak](std::chrono::duration<double> time) {
    const auto self = weak.lock();
    if (self == nullptr) return;
    for (auto& [peer, other] : self->ranks_) {
      if (other.process != nullptr) other.process->Excuse(time);
    }
  };
  absl::StatusOr<std::shared_ptr<TrainerProcess>> process = TrainerProcess::Start(host_.io, command, std::move(callbacks));
  if (!process.ok()) return process.status();
  rank.process = *std::move(process);
  host_.metrics.TrainerStarted();
  spdlog::info("{}: rank {} is process {}", Name(id()), number, rank.process->pid());

  v1::ToTrainer message;
  v1::StartTrainer& start = *message.mutable_start();
  *start.mutable_attempt() = id();
  *start.mutable_spec() = assignment_.spec();
  start.set_stage_key(assignment_.stage_key());
  start.set_rank(number);
  start.set_world_size(assignment_.world_size());
  start.set_rendezvous_token(assignment_.rendezvous_token());
  start.set_data_address(host_.data_address);
  *start.mutable_slot() = slot;
  start.set_data_path(data_path_);
  start.set_resume_path(resume_path_);
  start.set_parent_path(parent_path_);
  start.set_weights_path(weights_path_);
  start.set_checkpoint_dir(absl::StrCat(folder_, "/checkpoints"));
  rank.process->Send(message);
  if (number != 0 && !rendezvous_address_.empty()) {
    v1::ToTrainer rendezvous;
    *rendezvous.mutable_rendezvous()->mutable_attempt() = id();
    rendezvous.mutable_rendezvous()->set_address(rendezvous_address_);
    rank.process->Send(rendezvous);
  }
  return absl::OkStatus();
}

void Attempt::OnRendezvous(const std::string& address) {
  if (rendezvous_address_ == address) return;
  rendezvous_address_ = address;
  v1::ToTrainer message;
  *message.mutable_rendezvous()->mutable_attempt() = id();
  message.mutable_rendezvous()->set_address(address);
  for (auto& [number, rank] : ranks_) {
    if (number != 0 && rank.process != nullptr) rank.process->Send(message);
  }
}

void Attempt::OnMessage(int number, const v1::FromTrainer& message) {
  v1::WorkerMessage out;
  switch (message.kind_case()) {
    case v1::FromTrainer::kRendezvousReady:
      if (number != 0) return;
      *out.mutable_rendezvous_ready()->mutable_attempt() = id();
      out.mutable_rendezvous_ready()->set_address(message.rendezvous_ready().address());
      SendEvent(std::move(out));
      OnRendezvous(message.rendezvous_ready().address());
      return;
    case v1::FromTrainer::kRunning:
      *out.mutable_rank_running()->mutable_attempt() = id();
      out.mutable_rank_running()->set_rank(number);
      out.mutable_rank_running()->set_pid(ranks_[number].process != nullptr ? ranks_[number].process->pid() : message.running().pid());
      SendEvent(std::move(out));
      return;
    case v1::FromTrainer::kProgress:
      if (number != 0) return;
      host_.outbox.SetProgress(id(), message.progress());
      host_.metrics.SetProgress(id().stage(), message.progress());
      host_.changed();
      return;
    case v1::FromTrainer::kEpoch:
      if (number != 0) return;
      *out.mutable_epoch_done()->mutable_attempt() = id();
      *out.mutable_epoch_done()->mutable_result() = message.epoch();
      SendEvent(std::move(out));
      return;
    case v1::FromTrainer::kCheckpoint:
      if (number == 0) QueueUpload(message.checkpoint());
      return;
    default:
      return;  // phases, beats and the result are the process's business
  }
}

void Attempt::QueueUpload(const v1::TrainerCheckpoint& message) {
  const v1::Checkpoint& checkpoint = message.checkpoint();
  if (!core::IsSha256Hex(checkpoint.sha256()) || checkpoint.size_bytes() <= 0 || !absl::StartsWith(message.path(), folder_ + "/")) {
    spdlog::error("{}: the trainer names an impossible checkpoint: {} ({})", Name(id()), message.path(), checkpoint.sha256());
    return;
  }
  host_.metrics.ObserveCheckpoint(message.seconds());
  if (next_upload_.has_value()) unlink(next_upload_->path.c_str());  // never begun, and older
  next_upload_ = PendingUpload{message.path(), checkpoint};
  next_upload_->checkpoint.set_generation(id().generation());
  if (!upload_.has_value()) StartUpload();
}

void Attempt::StartUpload() {
  uploading_ = *std::exchange(next_upload_, std::nullopt);
  const v1::Checkpoint& checkpoint = uploading_.checkpoint;
  upload_ = host_.artifacts.Upload(uploading_.path, checkpoint.sha256(), checkpoint.size_bytes(), [weak = weak_from_this()](const absl::Status& status) {
    const std::shared_ptr<Attempt> self = weak.lock();
    if (self == nullptr || self->ended_) return;
    self->upload_.reset();
    if (status.ok()) {
      v1::WorkerMessage out;
      *out.mutable_checkpoint_uploaded()->mutable_attempt() = self->id();
      *out.mutable_checkpoint_uploaded()->mutable_checkpoint() = self->uploading_.checkpoint;
      self->SendEvent(std::move(out));
    } else {
      spdlog::error("{}: cannot upload checkpoint {}: {}", Name(self->id()), self->uploading_.checkpoint.sha256(), Message(status));
      // A stage whose last checkpoint cannot be had is not done.
      Rank& first = self->ranks_[0];
      if (self->uploading_.checkpoint.final() && first.exit.has_value() && first.exit->cause == v1::EXIT_CAUSE_FINISHED) {
        *first.exit = {v1::EXIT_CAUSE_FAILED, absl::StrCat("cannot upload the final checkpoint: ", status.message())};
      }
    }
    unlink(self->uploading_.path.c_str());
    if (self->next_upload_.has_value()) self->StartUpload();
    self->ReportExits();
  });
}

void Attempt::OnExit(int number, const TrainerExit& exit) {
  Rank& rank = ranks_[number];
  rank.process.reset();
  rank.exit = exit;
  spdlog::log(exit.cause == v1::EXIT_CAUSE_FINISHED || exit.cause == v1::EXIT_CAUSE_STOPPED ? spdlog::level::info : spdlog::level::warn,
              "{}: rank {} ended: {} {}", Name(id()), number, CauseName(exit.cause), exit.message);
  const bool as_asked = exit.cause == v1::EXIT_CAUSE_FINISHED || (exit.cause == v1::EXIT_CAUSE_STOPPED && stop_requested_);
  if (!as_asked) EndGang(absl::StrCat("rank ", number, " ended (", CauseName(exit.cause), ")"));
  ReportExits();
  host_.changed();
}

void Attempt::EndGang(const std::string& why) {
  if (gang_broken_) return;
  gang_broken_ = true;
  for (auto& [number, rank] : ranks_) {
    if (rank.process != nullptr) {
      // One that is gone by itself, unseen so far, tells its own story; perhaps it is what broke the gang.
      if (!rank.process->HasEnded()) rank.process->Kill(v1::EXIT_CAUSE_PEER_LOST, why);
    } else if (!rank.exit.has_value()) {
      rank.exit = TrainerExit{v1::EXIT_CAUSE_PEER_LOST, absl::StrCat("not started: ", why)};
    }
  }
}

void Attempt::FailAll(v1::ExitCause cause, const std::string& message) {
  gang_broken_ = true;
  spdlog::warn("{}: {}: {}", Name(id()), CauseName(cause), message);
  for (auto& [number, rank] : ranks_) {
    if (!rank.exit.has_value()) rank.exit = TrainerExit{cause, message};
  }
  ReportExits();
  host_.changed();
}

void Attempt::Stop(bool graceful, const std::string& reason) {
  if (ended_) return;
  stop_requested_ = true;
  stop_reason_ = reason;
  if (!trainers_started_) return FailAll(v1::EXIT_CAUSE_STOPPED, reason);
  for (auto& [number, rank] : ranks_) {
    if (rank.process == nullptr) continue;
    if (graceful) {
      rank.process->RequestStop();
    } else {
      rank.process->Kill(v1::EXIT_CAUSE_STOPPED, reason);
    }
  }
}

void Attempt::ReportExits() {
  if (ended_) return;
  bool all = true;
  for (auto& [number, rank] : ranks_) {
    if (rank.reported) continue;
    if (!rank.exit.has_value()) {
      all = false;
      continue;
    }
    if (number == 0 && upload_.has_value()) {
      const bool well = rank.exit->cause == v1::EXIT_CAUSE_FINISHED || rank.exit->cause == v1::EXIT_CAUSE_STOPPED;
      if (!well && !upload_grace_running_) {
        upload_grace_running_ = true;
        upload_grace_.expires_after(kUploadGrace);
        upload_grace_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
          const auto self = weak.lock();
          if (error || self == nullptr) return;
          self->upload_grace_over_ = true;
          self->ReportExits();
        });
      }
      if (!upload_grace_over_) {
        all = false;
        continue;
      }
    }
    rank.reported = true;
    host_.metrics.TrainerExited(rank.exit->cause);
    v1::WorkerMessage out;
    v1::RankExited& exited = *out.mutable_rank_exited();
    *exited.mutable_attempt() = id();
    exited.set_rank(number);
    exited.set_cause(rank.exit->cause);
    exited.set_message(rank.exit->message);
    SendEvent(std::move(out));
  }
  if (!all) return;
  ended_ = true;
  if (fetch_.has_value()) host_.artifacts.Cancel(*std::exchange(fetch_, std::nullopt));
  if (upload_.has_value()) host_.artifacts.Cancel(*std::exchange(upload_, std::nullopt));
  host_.metrics.RemoveStage(id().stage());
  host_.outbox.AttemptEnded(KeyOf(id()));
  host_.changed();
}

void Attempt::Abandon() {
  ended_ = true;
  if (fetch_.has_value()) host_.artifacts.Cancel(*std::exchange(fetch_, std::nullopt));
  if (upload_.has_value()) host_.artifacts.Cancel(*std::exchange(upload_, std::nullopt));
  for (auto& [number, rank] : ranks_) {
    if (rank.process == nullptr) continue;
    spdlog::warn("{}: rank {} is killed: the coordinator does not know this attempt any more", Name(id()), number);
    rank.process->Abandon();
    host_.metrics.TrainerExited(v1::EXIT_CAUSE_STOPPED);
    rank.process.reset();
  }
  host_.metrics.RemoveStage(id().stage());
}

void Attempt::SendEvent(v1::WorkerMessage message) {
  host_.outbox.PushEvent(std::move(message));
  host_.changed();
}

}  // namespace bitstair::worker
