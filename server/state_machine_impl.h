// One event being applied. Private to server/state_machine_*.cc.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/state_machine.h"

namespace bitstair::server {

// By stage of the job: why it does not need it any more; empty: it does. What a failed stage does not lead to goes on.
std::vector<std::string> WhyGivenUp(const records::JobRecord& job);

class Machine {
 public:
  Machine(State* state, absl::Time now) : state_(*state), now_(now) {}
  Outcome Take() { return std::move(outcome_); }

  // state_machine_jobs.cc
  void On(const DataResolved& e);
  void On(const DataRejected& e);
  void On(const CancelRequested& e);
  void On(const PauseRequested& e);
  void On(const ResumeRequested& e);
  void On(const RetryRequested& e);
  void On(const PriorityChanged& e);
  void On(const PinChanged& e);
  // After a stage of it ended, or when it is given up: leaves what it no longer needs, frees children, ends the job. May end the job before it returns to a
  // caller that goes through the same job's stages.
  void SettleJob(const std::string& job_id);

  // state_machine_stages.cc
  void On(const StopRequested& e);
  void On(const Placed& e);
  void On(const RankRan& e);
  void On(const RendezvousOpened& e);
  void On(const EpochFinished& e);
  void On(const CheckpointStored& e);
  void On(const RankEnded& e);
  void On(const WorkerUnreachable& e);
  void On(const WorkerBack& e);
  void On(const WorkerLost& e);
  void On(const Ticked& e);

 private:
  Stage* Find(const std::string& name) {
    const auto found = state_.stages.find(name);
    return found == state_.stages.end() ? nullptr : &found->second;
  }
  Job* FindJob(const std::string& id) {
    const auto found = state_.jobs.find(id);
    return found == state_.jobs.end() ? nullptr : &found->second;
  }
  void SetJob(Job* job, v1::JobState state, const std::string& reason);
  void SetStage(Stage* stage, v1::StageState state, const std::string& reason) {
    stage->record.set_state(state);
    stage->record.set_reason(reason);
    outcome_.stages_changed.insert(StageName(*stage));
  }
  void EndStage(Stage* stage, v1::StageState state, const std::string& reason);
  void AddEvent(Job* job, const std::string& stage, const std::string& type, const std::string& message);
  // To every job that it is trained for or that waits for its end.
  void AddEvent(const Stage& stage, const std::string& type, const std::string& message);

  // Jobs.
  void Plan(Job* job, const std::function<bool(const std::string&)>& is_stored);
  // Those of its stages that are done, but whose checkpoints are gone although they are needed, are to be trained again. Those that were given up start afresh
  // where theirs are gone.
  void ForgetLost(Job* job, const std::function<bool(const std::string&)>& is_stored);
  void Join(Job* job, records::JobStage* link);
  void Rejoin(Job* job, records::JobStage* link);
  void Revive(Stage* stage);
  void Wait(Stage* stage);  // for the parent, or for slots
  void StartJob(Job* job);
  void ReturnJob(Job* job);  // to PENDING or RUNNING
  // The stage is done: it is for the job, too, unless the job requires more of it.
  void PassGate(Job* job, records::JobStage* link);
  // The last epoch of the full-precision stage that it comes from; null: there is none.
  const v1::EpochResult* FullPrecisionResult(const records::JobRecord& job, const records::JobStage& link);
  void EndJob(Job* job);  // if all of its stages have ended
  void Freeze(Job* job, records::JobStage* link, v1::StageState state, const std::string& reason);
  void Leave(Job* job, records::JobStage* link, const std::string& reason);
  void AdoptSpec(Stage* stage);
  bool ParentDone(const Stage& stage);
  void SettleJobs(Stage* stage);
  int MaxAttempts(const Stage& stage);

  // Attempts.
  Stage* Current(const std::string& name, int generation);
  AttemptRank* FindRank(const std::string& name, int generation, int number);
  void NameDataFor(const std::string& worker, const Stage& stage, v1::StageSpec* spec) const;
  void SendAssignment(const Stage& stage, const std::string& worker);
  void SendStop(const Stage& stage, const std::string& worker, bool graceful);
  void SendRendezvous(const Stage& stage, const std::string& worker);
  // graceful: at a checkpoint.
  void StopGang(Stage* stage, const std::string& reason, bool graceful = false);
  template <typename Which>
  void LoseRanks(Stage* stage, const std::string& why, Which which, bool excused = false);
  // Ends the attempt if nothing of it is left to wait for.
  void SettleStage(Stage* stage);
  void FailAttempt(Stage* stage, v1::ExitCause cause, const std::string& message);
  void EndAttempt(Stage* stage);

  State& state_;
  const absl::Time now_;
  Outcome outcome_;
};

}  // namespace bitstair::server
