// The state after a restart of the coordinator, from records alone.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/state_machine_impl.h"

namespace bitstair::server {
namespace {

// Version 0.1 had each stage in one job alone.
void UpgradeJob(State* state, Job* job) {
  if (job->record.job_stages_size() > 0) return;
  for (const auto& name : job->record.stages()) {
    records::JobStage* link = job->record.add_job_stages();
    link->set_name(name);
    link->set_stage(StageName(job->record.job_id(), name));
    link->set_sharing(v1::STAGE_SHARING_NONE);
    const auto found = state->stages.find(link->stage());
    if (found == state->stages.end()) continue;  // Reload names it
    records::StageRecord& record = found->second.record;
    link->set_parent(record.spec().parent());
    if (!link->parent().empty()) record.set_parent_stage(StageName(job->record.job_id(), link->parent()));
    if (IsEnded(record.state())) {
      link->set_state(record.state());
      link->set_reason(record.reason());
    }
  }
}

// Of two stages of one key, which only version 0.1 could have: the one that is done, else the one that is not ended, else the first.
bool IsBetter(const Stage& a, const Stage& b) {
  const auto rank = [](v1::StageState state) { return state == v1::STAGE_STATE_SUCCEEDED ? 2 : IsEnded(state) ? 0 : 1; };
  return rank(a.record.state()) > rank(b.record.state());
}

}  // namespace

absl::StatusOr<Outcome> Reload(State* state, absl::Time now, absl::Duration patience) {
  for (auto& [id, job] : state->jobs) {
    if (job.record.job_id() != id) return absl::DataLossError(absl::StrCat("the job store has records of job ", id, ", but not the job"));
    UpgradeJob(state, &job);
    const bool active = !IsEnded(job.record.state());
    if (active) state->active_jobs.insert(id);
    const std::vector<std::string> given_up = WhyGivenUp(job.record);
    for (int i = 0; i < job.record.job_stages_size(); ++i) {
      const auto& link = job.record.job_stages(i);
      const auto found = state->stages.find(link.stage());
      if (found == state->stages.end()) return absl::DataLossError(absl::StrCat("the job store lacks stage ", link.stage(), " of job ", id));
      job.record.set_revision(std::max(job.record.revision(), found->second.revision));
      if (!active || link.state() != v1::STAGE_STATE_UNSPECIFIED) continue;
      const bool stopping = !given_up[i].empty() && found->second.record.state() == v1::STAGE_STATE_STOPPING;
      (stopping ? found->second.leaving : found->second.jobs).insert(id);
    }
  }
  for (auto& [name, stage] : state->stages) {
    auto& known = state->by_key[stage.record.key()];
    if (known.empty() || IsBetter(stage, state->stages.at(known))) known = name;
    const auto phase = stage.record.state();
    if (phase != v1::STAGE_STATE_STARTING && phase != v1::STAGE_STATE_RUNNING && phase != v1::STAGE_STATE_STOPPING) continue;
    Attempt attempt;
    for (const auto& rank : stage.record.ranks()) {
      attempt.ranks.push_back(
          {.rank = rank.rank(), .worker_id = rank.worker_id(), .worker_name = rank.worker_name(), .slot = rank.slot(), .lost_after = now + patience});
    }
    attempt.start = now;
    attempt.seconds_before = stage.record.seconds();
    attempt.stopping = phase == v1::STAGE_STATE_STOPPING;
    if (attempt.stopping) attempt.deadline = now + patience + kKillPatience;
    attempt.reloaded = true;
    stage.attempt = std::move(attempt);
    state->live.insert(name);
  }
  Machine machine(state, now);
  const std::set<std::string> ids = state->active_jobs;
  for (const auto& id : ids) machine.SettleJob(id);
  const std::set<std::string> live = state->live;
  for (const auto& name : live) {
    const Stage& stage = state->stages.at(name);
    if (!stage.jobs.empty() && !IsWanted(*state, stage)) machine.On(StopRequested{name, "the job was paused"});
  }
  return machine.Take();
}

}  // namespace bitstair::server
