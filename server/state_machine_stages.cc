// Stages: attempts, their gangs and what becomes of them.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/state_machine_impl.h"

namespace bitstair::server {

namespace {

// The root of a broken gang: a crash explains the peers it left behind, not the other way round.
int Weight(v1::ExitCause cause) {
  switch (cause) {
    case v1::EXIT_CAUSE_BAD_DATA:
      return 9;
    case v1::EXIT_CAUSE_CRASHED:
      return 8;
    case v1::EXIT_CAUSE_FAILED:
      return 7;
    case v1::EXIT_CAUSE_BAD_CHECKPOINT:
      return 6;
    case v1::EXIT_CAUSE_NOT_STARTED:
      return 5;
    case v1::EXIT_CAUSE_STALLED:
      return 4;
    case v1::EXIT_CAUSE_PEER_LOST:
      return 3;
    case v1::EXIT_CAUSE_STOPPED:
    case v1::EXIT_CAUSE_FINISHED:
      return 0;
    default:
      return 1;
  }
}
bool IsBad(v1::ExitCause cause) {
  return Weight(cause) > 0;
}

std::string ShownName(const std::string& name, const std::string& id) {
  return name.empty() ? id : name;
}
std::string Describe(const AttemptRank& rank) {
  return absl::StrCat(CauseLabel(rank.cause), rank.message.empty() ? "" : ": ", rank.message);
}

std::string GoesOnFrom(const Stage& stage) {
  if (!stage.record.has_checkpoint()) return "starts again";
  return absl::StrCat("goes on from epoch ", stage.record.checkpoint().epoch(),
                      stage.record.checkpoint().step() > 0 ? absl::StrCat(" step ", stage.record.checkpoint().step()) : "");
}

std::set<std::string> WorkersOf(const Attempt& attempt) {
  std::set<std::string> workers;
  for (const auto& rank : attempt.ranks) workers.insert(rank.worker_id);
  return workers;
}

v1::AttemptId IdOf(const Stage& stage) {
  v1::AttemptId id;
  id.set_stage(StageName(stage));
  id.set_generation(stage.record.generation());
  return id;
}

}  // namespace

void Machine::On(const Placed& e) {
  Stage* const found = Find(e.stage);
  if (found == nullptr || found->record.state() != v1::STAGE_STATE_PENDING || !IsWanted(state_, *found)) return;
  Stage& stage = *found;
  auto& record = stage.record;
  record.set_generation(record.generation() + 1);
  record.set_attempts(record.attempts() + 1);
  record.clear_ranks();
  for (const auto& rank : e.ranks) *record.add_ranks() = rank;
  // Epochs after the checkpoint will be trained again.
  record.set_resumed_epoch(record.checkpoint().epoch());
  record.set_resumed_step(record.checkpoint().step());
  if (static_cast<int>(stage.epochs.size()) > record.resumed_epoch()) stage.epochs.resize(record.resumed_epoch());
  if (record.numeric_profile().empty() || !record.has_checkpoint()) {
    record.set_numeric_profile(e.numeric_profile);
  } else if (record.numeric_profile() != e.numeric_profile) {
    record.set_bit_exact(false);
    record.set_numeric_profile(e.numeric_profile);
  }
  if (!record.has_start_time()) SetTime(now_, record.mutable_start_time());
  Attempt attempt;
  for (const auto& rank : e.ranks)
    attempt.ranks.push_back({.rank = rank.rank(), .worker_id = rank.worker_id(), .worker_name = rank.worker_name(), .slot = rank.slot()});
  attempt.rendezvous_token = e.rendezvous_token;
  attempt.start = now_;
  attempt.seconds_before = record.seconds();
  stage.attempt = std::move(attempt);
  stage.progress.reset();
  state_.live.insert(e.stage);
  SetStage(&stage, v1::STAGE_STATE_STARTING, "trainers are starting");
  for (const auto& id : stage.jobs) StartJob(FindJob(id));  // not of those that are paused
  std::set<std::string> workers, names;
  for (const auto& rank : e.ranks) {
    workers.insert(rank.worker_id());
    names.insert(ShownName(rank.worker_name(), rank.worker_id()));
  }
  AddEvent(stage, "AttemptStarted",
           absl::StrCat("generation ", record.generation(), ", try ", record.attempts(), " of ", MaxAttempts(stage), ", on ", absl::StrJoin(names, ", "),
                        IsElastic(record.spec()) ? absl::StrCat(", with ", e.ranks.size(), e.ranks.size() == 1 ? " rank" : " ranks") : "",
                        record.has_checkpoint() ? absl::StrCat(", from epoch ", record.resumed_epoch(), " step ", record.resumed_step()) : ""));
  for (const auto& worker : workers) SendAssignment(stage, worker);
}

void Machine::On(const RankRan& e) {
  AttemptRank* rank = FindRank(e.stage, e.generation, e.rank);
  if (rank == nullptr || rank->exited) return;
  Stage* stage = Find(e.stage);
  rank->pid = e.pid;
  const auto& ranks = stage->attempt->ranks;
  const bool all = std::all_of(ranks.begin(), ranks.end(), [](const AttemptRank& r) { return r.pid != 0; });
  if (all && stage->record.state() == v1::STAGE_STATE_STARTING) {
    SetStage(stage, v1::STAGE_STATE_RUNNING, "");
    AddEvent(*stage, "AttemptRunning", absl::StrCat("generation ", e.generation));
  }
}

void Machine::On(const RendezvousOpened& e) {
  Stage* stage = Current(e.stage, e.generation);
  if (stage == nullptr) return;
  Attempt& attempt = *stage->attempt;
  if (attempt.stopping || attempt.ranks.empty() || attempt.ranks[0].worker_id != e.worker_id) return;
  attempt.rendezvous_address = e.address;
  for (const auto& worker : WorkersOf(attempt)) {
    if (worker != e.worker_id) SendRendezvous(*stage, worker);
  }
}

void Machine::On(const EpochFinished& e) {
  Stage* const found = Current(e.stage, e.generation);
  if (found == nullptr) return;
  Stage& stage = *found;
  const int epoch = e.result.epoch();
  // In order: a gap would mean a lost message, which the next attempt would repair; an older one is a repeat.
  if (epoch < 1 || epoch > stage.record.spec().epochs() || epoch > static_cast<int>(stage.epochs.size()) + 1) return;
  // Workers report again what may have been lost with a connection.
  if (epoch <= static_cast<int>(stage.epochs.size()) && stage.epochs[epoch - 1].SerializeAsString() == e.result.SerializeAsString()) return;
  stage.epochs.resize(std::max(static_cast<int>(stage.epochs.size()), epoch));
  stage.epochs[epoch - 1] = e.result;
  stage.record.set_seconds(stage.attempt->seconds_before + absl::ToDoubleSeconds(now_ - stage.attempt->start));
  outcome_.epochs_changed.emplace_back(e.stage, epoch);
  outcome_.stages_changed.insert(e.stage);
}

void Machine::On(const CheckpointStored& e) {
  // Also of an attempt that was given up: until the next one starts, its generation is the current one.
  Stage* const found = Find(e.stage);
  if (found == nullptr || found->record.generation() != e.generation || IsEnded(found->record.state())) return;
  Stage& stage = *found;
  v1::CoordinatorMessage message;
  *message.mutable_checkpoint_committed()->mutable_attempt() = IdOf(stage);
  message.mutable_checkpoint_committed()->set_sha256(e.checkpoint.sha256());
  const std::string rank0 = stage.record.ranks().empty() ? "" : stage.record.ranks(0).worker_id();
  const auto position = [](const v1::Checkpoint& c) { return std::make_tuple(c.final(), c.epoch(), c.step()); };
  const v1::Checkpoint old = stage.record.checkpoint();
  const bool newer = !stage.record.has_checkpoint() || position(e.checkpoint) > position(old) ||
                     (position(e.checkpoint) == position(old) && e.checkpoint.sha256() != old.sha256());
  // Uploads overlap, so an older one may arrive later; a repeat is answered again.
  if (newer || e.checkpoint.sha256() == old.sha256()) {
    v1::Checkpoint checkpoint = e.checkpoint;
    checkpoint.set_generation(e.generation);
    SetTime(now_, checkpoint.mutable_create_time());
    *stage.record.mutable_checkpoint() = std::move(checkpoint);
    outcome_.stages_changed.insert(e.stage);
    if (newer && (e.checkpoint.step() == 0 || e.checkpoint.final())) {
      AddEvent(stage, "CheckpointCommitted", absl::StrCat(e.checkpoint.final() ? "final, " : "", "epoch ", e.checkpoint.epoch(), ", ", e.checkpoint.sha256()));
    }
    if (newer && !old.sha256().empty() && old.sha256() != e.checkpoint.sha256()) outcome_.actions.push_back(DropCheckpoint{old.sha256()});
  } else {
    outcome_.actions.push_back(DropCheckpoint{e.checkpoint.sha256()});
  }
  outcome_.actions.push_back(SendToWorker{rank0, std::move(message)});
  if (stage.attempt.has_value()) return SettleStage(&stage);
  if (stage.record.checkpoint().final()) {
    EndStage(&stage, v1::STAGE_STATE_SUCCEEDED, "");
    AddEvent(stage, "StageSucceeded", "");
    SettleJobs(&stage);
  }
}

void Machine::On(const RankEnded& e) {
  AttemptRank* rank = FindRank(e.stage, e.generation, e.rank);
  if (rank == nullptr || rank->exited) return;
  Stage* stage = Find(e.stage);
  Attempt& attempt = *stage->attempt;
  rank->exited = true;
  rank->cause = e.cause;
  rank->message = e.message;
  if (e.excused && e.cause != v1::EXIT_CAUSE_FINISHED && e.cause != v1::EXIT_CAUSE_BAD_DATA) {
    rank->cause = v1::EXIT_CAUSE_STOPPED;
    attempt.left = true;
  }
  if (rank->cause == v1::EXIT_CAUSE_STOPPED && !attempt.stopping) attempt.left = true;
  if (rank->cause == v1::EXIT_CAUSE_UNSPECIFIED) rank->cause = v1::EXIT_CAUSE_FAILED;
  const bool asked = attempt.stopping && (!attempt.graceful || rank->cause == v1::EXIT_CAUSE_STOPPED);
  if (!asked && rank->cause != v1::EXIT_CAUSE_FINISHED) StopGang(stage, absl::StrCat("rank ", e.rank, " ended: ", Describe(*rank)));
  SettleStage(stage);
}

void Machine::On(const WorkerUnreachable& e) {
  const std::set<std::string> names = state_.live;
  for (const auto& name : names) {
    Stage* stage = Find(name);
    if (!stage->attempt.has_value()) continue;
    bool here = false;
    for (auto& rank : stage->attempt->ranks) {
      if (rank.worker_id == e.worker_id && !rank.exited) here = rank.unreachable = true;
    }
    if (here) SettleStage(stage);
  }
}

void Machine::On(const WorkerBack& e) {
  const std::set<std::string> names = state_.live;
  for (const auto& name : names) {
    Stage* stage = Find(name);
    if (!stage->attempt.has_value()) continue;
    Attempt& attempt = *stage->attempt;
    const auto found = e.running.find(name);
    const bool known = found != e.running.end() && found->second.first == stage->record.generation();
    bool here = false;
    for (auto& rank : attempt.ranks) {
      if (rank.worker_id != e.worker_id || rank.exited) continue;
      rank.unreachable = false;
      if (known && found->second.second.count(rank.rank) > 0) {
        rank.lost_after = absl::InfiniteFuture();
        here = true;
      } else {
        // The report of its end may have been on the way when the stream broke; a new incarnation has no trainers of the old one.
        rank.lost_after = now_ + (e.same_incarnation ? e.patience : absl::ZeroDuration());
      }
    }
    const bool confirmed = std::all_of(attempt.ranks.begin(), attempt.ranks.end(), [](const AttemptRank& r) { return r.lost_after == absl::InfiniteFuture(); });
    // Its RankRunning messages may have gone to the coordinator's predecessor.
    if (here && confirmed && stage->record.state() == v1::STAGE_STATE_STARTING) SetStage(stage, v1::STAGE_STATE_RUNNING, "");
    if (here && attempt.stopping) SendStop(*stage, e.worker_id, attempt.graceful);
    // It may have missed the first one; a trainer that has it already ignores it.
    if (here && !attempt.stopping && !attempt.rendezvous_address.empty() && attempt.ranks[0].worker_id != e.worker_id) SendRendezvous(*stage, e.worker_id);
  }
  On(Ticked{});
}

void Machine::On(const WorkerLost& e) {
  const std::set<std::string> names = state_.live;
  for (const auto& name : names) {
    LoseRanks(
        Find(name), e.message, [&](const AttemptRank& rank) { return rank.worker_id == e.worker_id; }, e.left);
  }
}

void Machine::On(const Ticked&) {
  const std::set<std::string> names = state_.live;
  for (const auto& name : names) {
    Stage* stage = Find(name);
    LoseRanks(stage, "the worker no longer has it", [&](const AttemptRank& rank) { return rank.lost_after <= now_; });
    if (!stage->attempt.has_value() || stage->attempt->deadline > now_) continue;
    // No checkpoint in time: what was asked for goes on without one.
    if (stage->attempt->graceful) {
      StopGang(stage, stage->record.reason());
      continue;
    }
    LoseRanks(stage, "did not stop in time", [](const AttemptRank&) { return true; });
    if (stage->attempt.has_value()) FailAttempt(stage, v1::EXIT_CAUSE_STALLED, "the last checkpoint was not uploaded in time");
  }
}

Stage* Machine::Current(const std::string& name, int generation) {
  Stage* stage = Find(name);
  return stage != nullptr && stage->attempt.has_value() && stage->record.generation() == generation ? stage : nullptr;
}

AttemptRank* Machine::FindRank(const std::string& name, int generation, int number) {
  Stage* stage = Current(name, generation);
  if (stage == nullptr) return nullptr;
  for (auto& rank : stage->attempt->ranks) {
    if (rank.rank == number) return &rank;
  }
  return nullptr;
}

void Machine::EndStage(Stage* stage, v1::StageState state, const std::string& reason) {
  SetStage(stage, state, reason);
  SetTime(now_, stage->record.mutable_end_time());
  stage->waits_for.clear();
  stage->progress.reset();
}

// Where this worker has the stage's data and initial weights: as one of the stage's jobs names them, for which it answered with the digests of the stage.
void Machine::NameDataFor(const std::string& worker, const Stage& stage, v1::StageSpec* spec) const {
  for (const auto& id : stage.jobs) {
    const Job& job = state_.jobs.at(id);
    const auto answer = job.data.find(worker);
    if (answer == job.data.end() || !HasDataOf(*spec, answer->second)) continue;
    spec->mutable_data()->set_name(job.record.spec().data().name());
    spec->mutable_data()->set_path(job.record.spec().data().path());
    if (spec->has_initial_weights()) spec->mutable_initial_weights()->set_path(job.record.spec().initial_weights().path());
    return;
  }
}

void Machine::SendAssignment(const Stage& stage, const std::string& worker) {
  v1::CoordinatorMessage message;
  auto* assign = message.mutable_assign();
  *assign->mutable_attempt() = IdOf(stage);
  *assign->mutable_spec() = stage.record.spec();
  NameDataFor(worker, stage, assign->mutable_spec());
  // In the checkpoints: those of a training that is not shared have the same bytes.
  assign->set_stage_key(stage.record.content_key().empty() ? stage.record.key() : stage.record.content_key());
  assign->set_world_size(static_cast<int>(stage.attempt->ranks.size()));
  assign->set_rendezvous_token(stage.attempt->rendezvous_token);
  for (const auto& rank : stage.attempt->ranks) {
    if (rank.worker_id != worker) continue;
    assign->add_ranks()->set_rank(rank.rank);
    assign->mutable_ranks(assign->ranks_size() - 1)->set_slot(rank.slot);
  }
  if (stage.record.has_checkpoint()) *assign->mutable_resume_from() = stage.record.checkpoint();
  if (const Stage* parent = Find(stage.record.parent_stage())) *assign->mutable_parent_checkpoint() = parent->record.checkpoint();
  outcome_.actions.push_back(SendToWorker{worker, std::move(message)});
}

void Machine::SendRendezvous(const Stage& stage, const std::string& worker) {
  v1::CoordinatorMessage message;
  *message.mutable_rendezvous()->mutable_attempt() = IdOf(stage);
  message.mutable_rendezvous()->set_address(stage.attempt->rendezvous_address);
  outcome_.actions.push_back(SendToWorker{worker, std::move(message)});
}

void Machine::SendStop(const Stage& stage, const std::string& worker, bool graceful) {
  v1::CoordinatorMessage message;
  *message.mutable_stop()->mutable_attempt() = IdOf(stage);
  message.mutable_stop()->set_graceful(graceful);
  outcome_.actions.push_back(SendToWorker{worker, std::move(message)});
}

void Machine::StopGang(Stage* stage, const std::string& reason, bool graceful) {
  Attempt& attempt = *stage->attempt;
  if (attempt.stopping && (graceful || !attempt.graceful)) {
    if (!graceful) SetStage(stage, v1::STAGE_STATE_STOPPING, reason);
    return;
  }
  SetStage(stage, v1::STAGE_STATE_STOPPING, reason);
  attempt.stopping = true;
  attempt.graceful = graceful;
  attempt.deadline = now_ + (graceful ? kCheckpointPatience : kKillPatience);
  std::set<std::string> workers;
  for (const auto& rank : attempt.ranks) {
    if (!rank.exited) workers.insert(rank.worker_id);
  }
  for (const auto& worker : workers) SendStop(*stage, worker, graceful);
}

void Machine::On(const StopRequested& e) {
  Stage* stage = Find(e.stage);
  if (stage == nullptr || !stage->attempt.has_value() || stage->attempt->stopping) return;
  AddEvent(*stage, "AttemptStopping", e.reason);
  StopGang(stage, e.reason, /*graceful=*/true);
}

template <typename Which>
void Machine::LoseRanks(Stage* stage, const std::string& why, Which which, bool excused) {
  const int generation = stage->record.generation();
  for (size_t k = 0; stage->attempt.has_value() && k < stage->attempt->ranks.size(); ++k) {
    AttemptRank& rank = stage->attempt->ranks[k];
    if (rank.exited || !which(rank)) continue;
    On(RankEnded{StageName(*stage), generation, rank.rank, v1::EXIT_CAUSE_PEER_LOST,
                 absl::StrCat("rank ", rank.rank, " on ", ShownName(rank.worker_name, rank.worker_id), " was lost: ", why),
                 excused || stage->attempt->reloaded});
  }
}

void Machine::SettleStage(Stage* stage) {
  Attempt& attempt = *stage->attempt;
  const bool waiting =
      std::any_of(attempt.ranks.begin(), attempt.ranks.end(), [&](const AttemptRank& r) { return !r.exited && !(attempt.stopping && r.unreachable); });
  if (waiting) return;
  const bool complete = stage->record.has_checkpoint() && stage->record.checkpoint().final();
  const bool all_finished =
      std::all_of(attempt.ranks.begin(), attempt.ranks.end(), [](const AttemptRank& r) { return r.exited && r.cause == v1::EXIT_CAUSE_FINISHED; });
  // With the final checkpoint committed there is nothing left to lose, however the ranks ended.
  if (complete) {
    EndAttempt(stage);
    EndStage(stage, v1::STAGE_STATE_SUCCEEDED, "");
    AddEvent(*stage, "StageSucceeded", stage->epochs.empty() ? "" : absl::StrCat("top-1 ", stage->epochs.back().test_top1(), " %"));
    return SettleJobs(stage);
  }
  if (stage->jobs.empty()) {
    const std::string reason = stage->record.reason();
    EndAttempt(stage);
    EndStage(stage, v1::STAGE_STATE_CANCELLED, reason);
    return SettleJobs(stage);
  }
  if (all_finished) {
    if (attempt.deadline == absl::InfiniteFuture()) attempt.deadline = now_ + kUploadPatience;
    return SetStage(stage, stage->record.state(), "waits for the upload of the last checkpoint");
  }
  const AttemptRank* root = &attempt.ranks[0];
  for (const auto& rank : attempt.ranks) {
    if (Weight(rank.cause) > Weight(root->cause)) root = &rank;
  }
  if (!IsBad(root->cause) || (attempt.left && root->cause == v1::EXIT_CAUSE_PEER_LOST)) {
    EndAttempt(stage);
    stage->record.set_attempts(stage->record.attempts() - 1);
    SetStage(stage, v1::STAGE_STATE_PENDING, absl::StrCat("stopped; ", GoesOnFrom(*stage)));
    AddEvent(*stage, "AttemptStopped", absl::StrCat("generation ", stage->record.generation()));
    return SettleJobs(stage);
  }
  if (root->cause != v1::EXIT_CAUSE_PEER_LOST) stage->failed_on.insert(root->worker_id);
  FailAttempt(stage, root->cause, absl::StrCat("rank ", root->rank, " on ", ShownName(root->worker_name, root->worker_id), " ", Describe(*root)));
}

void Machine::FailAttempt(Stage* stage, v1::ExitCause cause, const std::string& message) {
  EndAttempt(stage);
  outcome_.actions.push_back(CountFailure{cause});
  AddEvent(*stage, "AttemptFailed", absl::StrCat("generation ", stage->record.generation(), ": ", message));
  const int attempts = stage->record.attempts(), most = MaxAttempts(*stage);
  if (stage->jobs.empty()) {
    EndStage(stage, v1::STAGE_STATE_CANCELLED, message);
  } else if (cause != v1::EXIT_CAUSE_BAD_DATA && attempts < most) {
    stage->retry_after = now_ + RetryDelay(attempts);
    SetStage(stage, v1::STAGE_STATE_PENDING, absl::StrCat("try ", attempts, " of ", most, " failed (", message, "); ", GoesOnFrom(*stage)));
  } else {
    EndStage(stage, v1::STAGE_STATE_FAILED, message);
    AddEvent(*stage, "StageFailed", message);
  }
  SettleJobs(stage);
}

void Machine::EndAttempt(Stage* stage) {
  for (const auto& rank : stage->attempt->ranks) {
    if (!rank.exited) outcome_.actions.push_back(ReserveSlot{rank.worker_id, IdOf(*stage), rank.rank, rank.slot});
  }
  stage->record.set_seconds(stage->attempt->seconds_before + absl::ToDoubleSeconds(now_ - stage->attempt->start));
  stage->attempt.reset();
  stage->progress.reset();
  state_.live.erase(StageName(*stage));
  outcome_.stages_changed.insert(StageName(*stage));
}

std::string JobName(const std::string& job_id) {
  return absl::StrCat("jobs/", job_id);
}
std::string StageName(const std::string& job_id, const std::string& stage) {
  return absl::StrCat("jobs/", job_id, "/stages/", stage);
}
std::string StageName(const Stage& stage) {
  return StageName(stage.record.job_id(), stage.record.spec().name());
}

absl::Duration RetryDelay(int attempts) {
  return absl::Seconds(std::min(30, 1 << std::clamp(attempts - 1, 0, 5)));
}

std::string CauseLabel(v1::ExitCause cause) {
  if (!v1::ExitCause_IsValid(cause)) return "unspecified";
  return absl::AsciiStrToLower(absl::StripPrefix(v1::ExitCause_Name(cause), "EXIT_CAUSE_"));
}

Outcome Apply(State* state, const Event& event, absl::Time now) {
  Machine machine(state, now);
  std::visit([&](const auto& e) { machine.On(e); }, event);
  return machine.Take();
}

}  // namespace bitstair::server
