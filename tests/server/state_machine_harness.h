// Jobs on which events are tried, without a coordinator.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/job_spec.h"
#include "server/state_machine.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {

// Jobs on which events are tried, and what came of the last one. `j` is there from the start; stages are counted in its plan.
class Harness {
 public:
  explicit Harness(v1::JobSpec spec) { Add("j", std::move(spec)); }

  void Add(const std::string& id, v1::JobSpec spec) {
    Job& added = state.jobs[id];
    added.record.set_job_id(id);
    *added.record.mutable_spec() = *ResolveJobSpec(std::move(spec));
    added.record.set_state(v1::JOB_STATE_RESOLVING);
    state.active_jobs.insert(id);
  }

  const Outcome& Do(const Event& event) { return last = Apply(&state, event, now); }

  void Plan(const std::string& id = "j") { Do(DataResolved{id, testing::kDigestA}); }

  // `workers[i]` gets rank i.
  void Place(int stage, std::vector<std::string> workers) {
    Placed placed{name(stage), {}, "token", "cpu"};
    for (size_t i = 0; i < workers.size(); ++i) {
      records::RankRecord rank;
      rank.set_rank(static_cast<int>(i));
      rank.set_worker_id(workers[i]);
      rank.set_slot(static_cast<int>(i));
      placed.ranks.push_back(rank);
    }
    Do(placed);
  }
  void Start(int stage, std::vector<std::string> workers) {
    Place(stage, workers);
    for (size_t i = 0; i < workers.size(); ++i) Do(RankRan{name(stage), generation(stage), static_cast<int>(i), static_cast<int64_t>(100 + i)});
  }
  void Exit(int stage, int rank, v1::ExitCause cause, const std::string& message = "") { Do(RankEnded{name(stage), generation(stage), rank, cause, message}); }
  void Checkpoint(int stage, int epoch, bool final, const std::string& sha = "") {
    v1::Checkpoint checkpoint;
    checkpoint.set_sha256(sha.empty() ? absl::StrCat("sha", stage, "-", epoch, final ? "f" : "") : sha);
    checkpoint.set_epoch(epoch);
    checkpoint.set_final(final);
    Do(CheckpointStored{name(stage), generation(stage), checkpoint});
  }
  void Finish(int stage) {
    Checkpoint(stage, At(stage).record.spec().epochs(), true);
    for (int rank = 0; rank < At(stage).record.ranks_size(); ++rank) Exit(stage, rank, v1::EXIT_CAUSE_FINISHED);
  }

  int count() const { return job().record.job_stages_size(); }
  // Also of a stage that is not there.
  std::string name(int stage) const { return stage >= 0 && stage < count() ? job().record.job_stages(stage).stage() : absl::StrCat("jobs/j/stages/", stage); }
  Stage& At(int stage) { return state.stages.at(name(stage)); }
  const Stage& At(int stage) const { return state.stages.at(name(stage)); }
  const Job& job(const std::string& id = "j") const { return state.jobs.at(id); }
  int generation(int stage) const { return At(stage).record.generation(); }
  v1::StageState stage_state(int stage) const { return At(stage).record.state(); }
  std::string reason(int stage) const { return At(stage).record.reason(); }
  // As the job sees it.
  v1::StageState seen(const std::string& id, int stage) const { return job(id).record.job_stages(stage).state(); }
  std::vector<std::string> EventTypes(const std::string& id) const {
    std::vector<std::string> types;
    for (const auto& event : job(id).events) types.push_back(event.type());
    return types;
  }
  void Restart(absl::Duration patience) {
    for (auto& [id, stage] : state.stages) {
      stage.attempt.reset();
      stage.jobs.clear();
      stage.leaving.clear();
    }
    state.by_key.clear();
    state.active_jobs.clear();
    state.live.clear();
    const auto outcome = Reload(&state, now, patience);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    last = *outcome;
  }

  // "a<-assign", "b<-stop", ... of the last event.
  std::vector<std::string> Sent() const {
    std::vector<std::string> sent;
    for (const auto& action : last.actions) {
      if (const auto* send = std::get_if<SendToWorker>(&action)) {
        const auto& m = send->message;
        sent.push_back(absl::StrCat(send->worker_id, m.has_assign()       ? "<-assign"
                                                     : m.has_stop()       ? m.stop().graceful() ? "<-checkpoint and stop" : "<-stop"
                                                     : m.has_rendezvous() ? "<-rendezvous"
                                                                          : "<-committed"));
      }
    }
    return sent;
  }
  const v1::AssignAttempt* Assignment() const {
    for (const auto& action : last.actions) {
      const auto* send = std::get_if<SendToWorker>(&action);
      if (send != nullptr && send->message.has_assign()) return &send->message.assign();
    }
    return nullptr;
  }

  State state;
  Outcome last;
  absl::Time now = absl::FromUnixSeconds(1000);
};

}  // namespace bitstair::server
