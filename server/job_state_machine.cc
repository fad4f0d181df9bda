#include "server/job_state_machine.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/planner.h"
#include "server/stage_key.h"

namespace bitstair::server {
namespace {

void SetTime(absl::Time time, google::protobuf::Timestamp* stamp) {
  const int64_t nanos = absl::ToUnixNanos(time);
  stamp->set_seconds(nanos / 1'000'000'000);
  stamp->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

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

class Machine {
 public:
  Machine(Job* job, absl::Time now) : job_(*job), now_(now) {}
  Outcome Take() { return std::move(outcome_); }

  void On(const DataResolved& e) {
    if (job_.record.state() != v1::JOB_STATE_RESOLVING) return;
    job_.record.set_data_digest(e.digest);
    job_.record.set_initial_weights_digest(e.weights_digest);
    job_.stages.clear();
    job_.record.clear_stages();
    std::map<std::string, std::string> keys;
    for (auto& spec : PlanStages(job_.record.spec(), e.digest, e.weights_digest)) {
      Stage stage;
      stage.record.set_job_id(job_.record.job_id());
      stage.record.set_key(StageKey(spec, spec.parent().empty() ? "" : keys[spec.parent()]));
      stage.record.set_state(spec.parent().empty() ? v1::STAGE_STATE_PENDING : v1::STAGE_STATE_BLOCKED);
      stage.record.set_reason(spec.parent().empty() ? "waits for the scheduler" : absl::StrCat("waits for ", spec.parent()));
      stage.record.set_bit_exact(true);
      keys[spec.name()] = stage.record.key();
      job_.record.add_stages(spec.name());
      *stage.record.mutable_spec() = std::move(spec);
      job_.stages.push_back(std::move(stage));
      outcome_.stages_changed.insert(static_cast<int>(job_.stages.size()) - 1);
    }
    SetJob(v1::JOB_STATE_PENDING, "");
    AddEvent(-1, "JobPlanned",
             absl::StrCat(job_.stages.size(), " stages; data set digest ", e.digest,
                          e.weights_digest.empty() ? "" : absl::StrCat("; initial weights digest ", e.weights_digest)));
  }

  void On(const DataRejected& e) {
    if (job_.record.state() != v1::JOB_STATE_RESOLVING) return;
    AddEvent(-1, "JobFailed", e.message);
    SetJob(v1::JOB_STATE_FAILED, e.message);
  }

  void On(const CancelRequested&) {
    if (IsEnded(job_.record.state()) || job_.record.state() == v1::JOB_STATE_CANCELLING) return;
    AddEvent(-1, "JobCancelRequested", "");
    SetJob(v1::JOB_STATE_CANCELLING, "cancelled on request; trainers are being stopped");
    for (int i = 0; i < Count(); ++i) {
      if (At(i).attempt.has_value()) {
        StopGang(i, "the job is being cancelled");
        SettleStage(i);
      } else if (!IsEnded(At(i).record.state())) {
        EndStage(i, v1::STAGE_STATE_CANCELLED, "the job was cancelled");
      }
    }
    SettleJob();
  }

  void On(const Placed& e) {
    Stage& stage = At(e.stage);
    if (stage.record.state() != v1::STAGE_STATE_PENDING || IsEnded(job_.record.state()) || job_.record.state() == v1::JOB_STATE_CANCELLING) return;
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
    SetStage(e.stage, v1::STAGE_STATE_STARTING, "trainers are starting");
    if (job_.record.state() == v1::JOB_STATE_PENDING) {
      SetJob(v1::JOB_STATE_RUNNING, "");
      AddEvent(-1, "JobStarted", "");
    }
    std::set<std::string> workers, names;
    for (const auto& rank : e.ranks) {
      workers.insert(rank.worker_id());
      names.insert(ShownName(rank.worker_name(), rank.worker_id()));
    }
    AddEvent(e.stage, "AttemptStarted",
             absl::StrCat("generation ", record.generation(), ", try ", record.attempts(), " of ", job_.record.spec().max_attempts(), ", on ",
                          absl::StrJoin(names, ", "),
                          record.has_checkpoint() ? absl::StrCat(", from epoch ", record.resumed_epoch(), " step ", record.resumed_step()) : ""));
    for (const auto& worker : workers) SendAssignment(e.stage, worker);
  }

  void On(const RankRan& e) {
    AttemptRank* rank = Find(e.stage, e.generation, e.rank);
    if (rank == nullptr || rank->exited) return;
    rank->pid = e.pid;
    rank->lost_after = absl::InfiniteFuture();
    const auto& ranks = At(e.stage).attempt->ranks;
    const bool all = std::all_of(ranks.begin(), ranks.end(), [](const AttemptRank& r) { return r.pid != 0; });
    if (all && At(e.stage).record.state() == v1::STAGE_STATE_STARTING) {
      SetStage(e.stage, v1::STAGE_STATE_RUNNING, "");
      AddEvent(e.stage, "AttemptRunning", absl::StrCat("generation ", e.generation));
    }
  }

  void On(const RendezvousOpened& e) {
    if (!IsCurrent(e.stage, e.generation)) return;
    Attempt& attempt = *At(e.stage).attempt;
    if (attempt.stopping || attempt.ranks.empty() || attempt.ranks[0].worker_id != e.worker_id) return;
    attempt.rendezvous_address = e.address;
    for (const auto& worker : WorkersOf(attempt)) {
      if (worker == e.worker_id) continue;
      v1::CoordinatorMessage message;
      *message.mutable_rendezvous()->mutable_attempt() = Id(e.stage);
      message.mutable_rendezvous()->set_address(e.address);
      outcome_.actions.push_back(SendToWorker{worker, std::move(message)});
    }
  }

  void On(const EpochFinished& e) {
    if (!IsCurrent(e.stage, e.generation)) return;
    Stage& stage = At(e.stage);
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

  void On(const CheckpointStored& e) {
    // Also of an attempt that was given up: until the next one starts, its generation is the current one.
    if (e.stage < 0 || e.stage >= Count() || At(e.stage).record.generation() != e.generation || IsEnded(At(e.stage).record.state())) return;
    Stage& stage = At(e.stage);
    v1::CoordinatorMessage message;
    *message.mutable_checkpoint_committed()->mutable_attempt() = Id(e.stage);
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
        AddEvent(e.stage, "CheckpointCommitted",
                 absl::StrCat(e.checkpoint.final() ? "final, " : "", "epoch ", e.checkpoint.epoch(), ", ", e.checkpoint.sha256()));
      }
      if (newer && !old.sha256().empty() && old.sha256() != e.checkpoint.sha256()) outcome_.actions.push_back(DropCheckpoint{old.sha256()});
    } else {
      outcome_.actions.push_back(DropCheckpoint{e.checkpoint.sha256()});
    }
    outcome_.actions.push_back(SendToWorker{rank0, std::move(message)});
    if (stage.attempt.has_value()) return SettleStage(e.stage);
    if (stage.record.checkpoint().final()) {
      EndStage(e.stage, v1::STAGE_STATE_SUCCEEDED, "");
      AddEvent(e.stage, "StageSucceeded", "");
      SettleJob();
    }
  }

  void On(const RankEnded& e) {
    AttemptRank* rank = Find(e.stage, e.generation, e.rank);
    if (rank == nullptr || rank->exited) return;
    Attempt& attempt = *At(e.stage).attempt;
    rank->exited = true;
    rank->cause = e.cause;
    rank->message = e.message;
    if (e.excused && e.cause != v1::EXIT_CAUSE_FINISHED && e.cause != v1::EXIT_CAUSE_BAD_DATA) {
      rank->cause = v1::EXIT_CAUSE_STOPPED;
      attempt.left = true;
    }
    if (rank->cause == v1::EXIT_CAUSE_STOPPED && !attempt.stopping) attempt.left = true;
    if (rank->cause == v1::EXIT_CAUSE_UNSPECIFIED) rank->cause = v1::EXIT_CAUSE_FAILED;
    if (!attempt.stopping && rank->cause != v1::EXIT_CAUSE_FINISHED) StopGang(e.stage, absl::StrCat("rank ", e.rank, " ended: ", Describe(*rank)));
    SettleStage(e.stage);
  }

  void On(const WorkerUnreachable& e) {
    ForRanks(e.worker_id, [](Stage&, AttemptRank& rank) { rank.unreachable = true; });
    SettleStages();
  }

  void On(const WorkerBack& e) {
    for (int i = 0; i < Count(); ++i) {
      if (!At(i).attempt.has_value()) continue;
      Attempt& attempt = *At(i).attempt;
      const auto found = e.running.find(i);
      const bool known = found != e.running.end() && found->second.first == At(i).record.generation();
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
      const bool confirmed =
          std::all_of(attempt.ranks.begin(), attempt.ranks.end(), [](const AttemptRank& r) { return r.lost_after == absl::InfiniteFuture(); });
      // Its RankRunning messages may have gone to the coordinator's predecessor.
      if (here && confirmed && At(i).record.state() == v1::STAGE_STATE_STARTING) SetStage(i, v1::STAGE_STATE_RUNNING, "");
      if (here && attempt.stopping) SendStop(i, e.worker_id);
      if (here && !attempt.stopping && !attempt.rendezvous_address.empty() && attempt.ranks[0].worker_id != e.worker_id) {
        // It may have missed the first one; a trainer that has it already ignores it.
        v1::CoordinatorMessage message;
        *message.mutable_rendezvous()->mutable_attempt() = Id(i);
        message.mutable_rendezvous()->set_address(attempt.rendezvous_address);
        outcome_.actions.push_back(SendToWorker{e.worker_id, std::move(message)});
      }
    }
    On(Ticked{});
  }

  void On(const WorkerLost& e) {
    for (int i = 0; i < Count(); ++i) {
      if (At(i).attempt.has_value())
        LoseRanks(
            i, e.message, [&](const AttemptRank& rank) { return rank.worker_id == e.worker_id; }, e.left);
    }
  }

  void On(const Ticked&) {
    for (int i = 0; i < Count(); ++i) {
      if (!At(i).attempt.has_value()) continue;
      LoseRanks(i, "the worker no longer has it", [&](const AttemptRank& rank) { return rank.lost_after <= now_; });
      if (!At(i).attempt.has_value() || At(i).attempt->deadline > now_) continue;
      LoseRanks(i, "did not stop in time", [](const AttemptRank&) { return true; });
      if (At(i).attempt.has_value()) FailAttempt(i, v1::EXIT_CAUSE_STALLED, "the last checkpoint was not uploaded in time");
    }
  }

 private:
  int Count() const { return static_cast<int>(job_.stages.size()); }
  Stage& At(int i) { return job_.stages[i]; }

  bool IsCurrent(int i, int generation) { return i >= 0 && i < Count() && At(i).attempt.has_value() && At(i).record.generation() == generation; }
  AttemptRank* Find(int i, int generation, int number) {
    if (!IsCurrent(i, generation)) return nullptr;
    for (auto& rank : At(i).attempt->ranks) {
      if (rank.rank == number) return &rank;
    }
    return nullptr;
  }
  v1::AttemptId Id(int i) {
    v1::AttemptId id;
    id.set_stage(StageName(job_, At(i)));
    id.set_generation(At(i).record.generation());
    return id;
  }
  static std::set<std::string> WorkersOf(const Attempt& attempt) {
    std::set<std::string> workers;
    for (const auto& rank : attempt.ranks) workers.insert(rank.worker_id);
    return workers;
  }
  template <typename Change>
  void ForRanks(const std::string& worker_id, Change change) {
    for (auto& stage : job_.stages) {
      if (!stage.attempt.has_value()) continue;
      for (auto& rank : stage.attempt->ranks) {
        if (rank.worker_id == worker_id && !rank.exited) change(stage, rank);
      }
    }
  }
  static std::string ShownName(const std::string& name, const std::string& id) { return name.empty() ? id : name; }
  static std::string Describe(const AttemptRank& rank) { return absl::StrCat(CauseLabel(rank.cause), rank.message.empty() ? "" : ": ", rank.message); }

  void SetJob(v1::JobState state, const std::string& reason) {
    job_.record.set_state(state);
    job_.record.set_reason(reason);
    if (IsEnded(state)) SetTime(now_, job_.record.mutable_end_time());
    outcome_.job_changed = true;
  }
  void SetStage(int i, v1::StageState state, const std::string& reason) {
    At(i).record.set_state(state);
    At(i).record.set_reason(reason);
    outcome_.stages_changed.insert(i);
  }
  void EndStage(int i, v1::StageState state, const std::string& reason) {
    SetStage(i, state, reason);
    SetTime(now_, At(i).record.mutable_end_time());
    At(i).waits_for.clear();
    At(i).progress.reset();
  }
  void AddEvent(int i, const std::string& type, const std::string& message) {
    records::EventRecord event;
    SetTime(now_, event.mutable_time());
    if (i >= 0) event.set_stage(At(i).record.spec().name());
    event.set_type(type);
    event.set_message(message);
    job_.events.push_back(std::move(event));
    ++job_.next_event;
    ++outcome_.events_added;
  }

  void SendAssignment(int i, const std::string& worker) {
    const Stage& stage = At(i);
    v1::CoordinatorMessage message;
    auto* assign = message.mutable_assign();
    *assign->mutable_attempt() = Id(i);
    *assign->mutable_spec() = stage.record.spec();
    assign->set_stage_key(stage.record.key());
    assign->set_world_size(static_cast<int>(stage.attempt->ranks.size()));
    assign->set_rendezvous_token(stage.attempt->rendezvous_token);
    for (const auto& rank : stage.attempt->ranks) {
      if (rank.worker_id != worker) continue;
      assign->add_ranks()->set_rank(rank.rank);
      assign->mutable_ranks(assign->ranks_size() - 1)->set_slot(rank.slot);
    }
    if (stage.record.has_checkpoint()) *assign->mutable_resume_from() = stage.record.checkpoint();
    for (const auto& other : job_.stages) {
      if (!stage.record.spec().parent().empty() && other.record.spec().name() == stage.record.spec().parent()) {
        *assign->mutable_parent_checkpoint() = other.record.checkpoint();
      }
    }
    outcome_.actions.push_back(SendToWorker{worker, std::move(message)});
  }

  void SendStop(int i, const std::string& worker) {
    v1::CoordinatorMessage message;
    *message.mutable_stop()->mutable_attempt() = Id(i);
    message.mutable_stop()->set_graceful(false);
    outcome_.actions.push_back(SendToWorker{worker, std::move(message)});
  }

  void StopGang(int i, const std::string& reason) {
    Attempt& attempt = *At(i).attempt;
    SetStage(i, v1::STAGE_STATE_STOPPING, reason);
    if (attempt.stopping) return;
    attempt.stopping = true;
    attempt.deadline = now_ + kKillPatience;
    std::set<std::string> workers;
    for (const auto& rank : attempt.ranks) {
      if (!rank.exited) workers.insert(rank.worker_id);
    }
    for (const auto& worker : workers) SendStop(i, worker);
  }

  template <typename Which>
  void LoseRanks(int i, const std::string& why, Which which, bool excused = false) {
    const int generation = At(i).record.generation();
    for (size_t k = 0; IsCurrent(i, generation) && k < At(i).attempt->ranks.size(); ++k) {
      AttemptRank& rank = At(i).attempt->ranks[k];
      if (rank.exited || !which(rank)) continue;
      On(RankEnded{i, generation, rank.rank, v1::EXIT_CAUSE_PEER_LOST,
                   absl::StrCat("rank ", rank.rank, " on ", ShownName(rank.worker_name, rank.worker_id), " was lost: ", why),
                   excused || At(i).attempt->reloaded});
    }
  }

  void SettleStages() {
    for (int i = 0; i < Count(); ++i) {
      if (At(i).attempt.has_value()) SettleStage(i);
    }
  }

  // Ends the attempt if nothing of it is left to wait for.
  void SettleStage(int i) {
    Stage& stage = At(i);
    Attempt& attempt = *stage.attempt;
    const bool waiting =
        std::any_of(attempt.ranks.begin(), attempt.ranks.end(), [&](const AttemptRank& r) { return !r.exited && !(attempt.stopping && r.unreachable); });
    if (waiting) return;
    const bool complete = stage.record.has_checkpoint() && stage.record.checkpoint().final();
    const bool all_finished =
        std::all_of(attempt.ranks.begin(), attempt.ranks.end(), [](const AttemptRank& r) { return r.exited && r.cause == v1::EXIT_CAUSE_FINISHED; });
    // With the final checkpoint committed there is nothing left to lose, however the ranks ended.
    if (complete) {
      EndAttempt(i);
      EndStage(i, v1::STAGE_STATE_SUCCEEDED, "");
      AddEvent(i, "StageSucceeded", stage.epochs.empty() ? "" : absl::StrCat("top-1 ", stage.epochs.back().test_top1(), " %"));
      SettleJob();
      return;
    }
    if (job_.record.state() == v1::JOB_STATE_CANCELLING) {
      EndAttempt(i);
      EndStage(i, v1::STAGE_STATE_CANCELLED, "the job was cancelled");
      SettleJob();
      return;
    }
    if (all_finished) {
      if (attempt.deadline == absl::InfiniteFuture()) attempt.deadline = now_ + kUploadPatience;
      SetStage(i, stage.record.state(), "waits for the upload of the last checkpoint");
      return;
    }
    const AttemptRank* root = &attempt.ranks[0];
    for (const auto& rank : attempt.ranks) {
      if (Weight(rank.cause) > Weight(root->cause)) root = &rank;
    }
    if (!IsBad(root->cause) || (attempt.left && root->cause == v1::EXIT_CAUSE_PEER_LOST)) {
      EndAttempt(i);
      stage.record.set_attempts(stage.record.attempts() - 1);
      SetStage(i, v1::STAGE_STATE_PENDING, absl::StrCat("stopped; ", GoesOnFrom(stage)));
      AddEvent(i, "AttemptStopped", absl::StrCat("generation ", stage.record.generation()));
      SettleJob();
      return;
    }
    FailAttempt(i, root->cause, absl::StrCat("rank ", root->rank, " on ", ShownName(root->worker_name, root->worker_id), " ", Describe(*root)));
  }

  static std::string GoesOnFrom(const Stage& stage) {
    if (!stage.record.has_checkpoint()) return "starts again";
    return absl::StrCat("goes on from epoch ", stage.record.checkpoint().epoch(),
                        stage.record.checkpoint().step() > 0 ? absl::StrCat(" step ", stage.record.checkpoint().step()) : "");
  }

  void FailAttempt(int i, v1::ExitCause cause, const std::string& message) {
    Stage& stage = At(i);
    EndAttempt(i);
    outcome_.actions.push_back(CountFailure{cause});
    AddEvent(i, "AttemptFailed", absl::StrCat("generation ", stage.record.generation(), ": ", message));
    const int attempts = stage.record.attempts();
    if (cause != v1::EXIT_CAUSE_BAD_DATA && attempts < job_.record.spec().max_attempts()) {
      stage.retry_after = now_ + RetryDelay(attempts);
      SetStage(i, v1::STAGE_STATE_PENDING,
               absl::StrCat("try ", attempts, " of ", job_.record.spec().max_attempts(), " failed (", message, "); ", GoesOnFrom(stage)));
      SettleJob();
      return;
    }
    EndStage(i, v1::STAGE_STATE_FAILED, message);
    AddEvent(i, "StageFailed", message);
    SettleJob();
  }

  void EndAttempt(int i) {
    Stage& stage = At(i);
    for (const auto& rank : stage.attempt->ranks) {
      if (!rank.exited) outcome_.actions.push_back(ReserveSlot{rank.worker_id, Id(i), rank.rank, rank.slot});
    }
    stage.record.set_seconds(stage.attempt->seconds_before + absl::ToDoubleSeconds(now_ - stage.attempt->start));
    stage.attempt.reset();
    stage.progress.reset();
    outcome_.stages_changed.insert(i);
  }

  // After a stage ended: frees its children, or ends the job.
  void SettleJob() {
    if (IsEnded(job_.record.state())) return;
    const bool cancelling = job_.record.state() == v1::JOB_STATE_CANCELLING;
    const Stage* failed = nullptr;
    for (auto& stage : job_.stages) {
      if (stage.record.state() == v1::STAGE_STATE_FAILED && failed == nullptr) failed = &stage;
    }
    bool live = false, all_succeeded = true;
    for (int i = 0; i < Count(); ++i) {
      Stage& stage = At(i);
      if (failed != nullptr || cancelling) {
        if (stage.attempt.has_value()) {
          StopGang(i, failed != nullptr ? absl::StrCat("stage ", failed->record.spec().name(), " failed") : "the job is being cancelled");
        } else if (!IsEnded(stage.record.state())) {
          EndStage(i, v1::STAGE_STATE_CANCELLED, failed != nullptr ? absl::StrCat("stage ", failed->record.spec().name(), " failed") : "the job was cancelled");
        }
      } else if (stage.record.state() == v1::STAGE_STATE_BLOCKED && ParentDone(stage)) {
        SetStage(i, v1::STAGE_STATE_PENDING, "waits for the scheduler");
      }
      live = live || stage.attempt.has_value();
      all_succeeded = all_succeeded && stage.record.state() == v1::STAGE_STATE_SUCCEEDED;
    }
    if (live) return;
    if (failed != nullptr) {
      const std::string reason = absl::StrCat("stage ", failed->record.spec().name(), " failed: ", failed->record.reason());
      AddEvent(-1, "JobFailed", reason);
      SetJob(v1::JOB_STATE_FAILED, reason);
    } else if (all_succeeded && Count() > 0) {
      AddEvent(-1, "JobSucceeded", "");
      SetJob(v1::JOB_STATE_SUCCEEDED, "");
    } else if (cancelling) {
      AddEvent(-1, "JobCancelled", "");
      SetJob(v1::JOB_STATE_CANCELLED, "cancelled on request");
    }
  }

  bool ParentDone(const Stage& stage) {
    return std::any_of(job_.stages.begin(), job_.stages.end(), [&](const Stage& other) {
      return other.record.spec().name() == stage.record.spec().parent() && other.record.state() == v1::STAGE_STATE_SUCCEEDED;
    });
  }

  Job& job_;
  const absl::Time now_;
  Outcome outcome_;
};

}  // namespace

std::string JobName(const std::string& job_id) {
  return absl::StrCat("jobs/", job_id);
}
std::string StageName(const Job& job, const Stage& stage) {
  return absl::StrCat("jobs/", job.record.job_id(), "/stages/", stage.record.spec().name());
}

absl::Duration RetryDelay(int attempts) {
  return absl::Seconds(std::min(30, 1 << std::clamp(attempts - 1, 0, 5)));
}

std::string CauseLabel(v1::ExitCause cause) {
  if (!v1::ExitCause_IsValid(cause)) return "unspecified";
  return absl::AsciiStrToLower(absl::StripPrefix(v1::ExitCause_Name(cause), "EXIT_CAUSE_"));
}

void Reload(Job* job, absl::Time now, absl::Duration patience) {
  for (auto& stage : job->stages) {
    const auto state = stage.record.state();
    if (state != v1::STAGE_STATE_STARTING && state != v1::STAGE_STATE_RUNNING && state != v1::STAGE_STATE_STOPPING) continue;
    Attempt attempt;
    for (const auto& rank : stage.record.ranks()) {
      attempt.ranks.push_back(
          {.rank = rank.rank(), .worker_id = rank.worker_id(), .worker_name = rank.worker_name(), .slot = rank.slot(), .lost_after = now + patience});
    }
    attempt.start = now;
    attempt.seconds_before = stage.record.seconds();
    attempt.stopping = state == v1::STAGE_STATE_STOPPING;
    if (attempt.stopping) attempt.deadline = now + patience + kKillPatience;
    attempt.reloaded = true;
    stage.attempt = std::move(attempt);
  }
}

Outcome Apply(Job* job, const JobEvent& event, absl::Time now) {
  Machine machine(job, now);
  std::visit([&](const auto& e) { machine.On(e); }, event);
  return machine.Take();
}

}  // namespace bitstair::server
