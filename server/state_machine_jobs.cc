// Jobs: planning, sharing, cancelling, ending.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/substitute.h"
#include "server/gate.h"
#include "server/planner.h"
#include "server/stage_key.h"
#include "server/state_machine_impl.h"

namespace bitstair::server {
namespace {

constexpr char kWaitsForScheduler[] = "waits for the scheduler";

bool IsGivenUp(v1::StageState state) {
  return state == v1::STAGE_STATE_FAILED || state == v1::STAGE_STATE_CANCELLED;
}

std::vector<PlannedStage> PlanOf(const Job& job) {
  return PlanJob(job.record.spec(), job.record.data_digest(), job.record.initial_weights_digest());
}

// How workers find the data and the initial weights: two jobs may name the same bytes differently.
bool SameSources(const v1::DataSpec& a, const v1::DataSpec& b, const std::string& weights_a, const std::string& weights_b) {
  return a.name() == b.name() && a.path() == b.path() && weights_a == weights_b;
}

}  // namespace

std::vector<std::string> WhyGivenUp(const records::JobRecord& job) {
  std::vector<std::string> why;
  std::map<std::string, std::string> failed;  // stage -> the failed one that it comes from, or itself
  for (const auto& link : job.job_stages()) {
    const auto parent = failed.find(link.parent());
    const std::string origin = link.state() == v1::STAGE_STATE_FAILED ? link.name() : parent != failed.end() ? parent->second : "";
    if (!origin.empty()) failed[link.name()] = origin;
    why.push_back(!origin.empty() ? absl::StrCat("stage ", origin, " failed") : job.state() == v1::JOB_STATE_CANCELLING ? "the job was cancelled" : "");
  }
  return why;
}

void Machine::SetJob(Job* job, v1::JobState state, const std::string& reason) {
  job->record.set_state(state);
  job->record.set_reason(reason);
  if (IsEnded(state)) {
    SetTime(now_, job->record.mutable_end_time());
    state_.active_jobs.erase(job->record.job_id());
  }
  outcome_.jobs_changed.insert(job->record.job_id());
}

void Machine::AddEvent(Job* job, const std::string& stage, const std::string& type, const std::string& message) {
  records::EventRecord event;
  SetTime(now_, event.mutable_time());
  event.set_stage(stage);
  event.set_type(type);
  event.set_message(message);
  job->events.push_back(std::move(event));
  ++job->next_event;
  ++outcome_.events_added[job->record.job_id()];
}

void Machine::AddEvent(const Stage& stage, const std::string& type, const std::string& message) {
  std::set<std::string> ids = stage.jobs;
  ids.insert(stage.leaving.begin(), stage.leaving.end());
  for (const auto& id : ids) {
    Job* job = FindJob(id);
    for (const auto& link : job->record.job_stages()) {
      if (link.stage() == StageName(stage)) AddEvent(job, link.name(), type, message);
    }
  }
}

void Machine::On(const DataResolved& e) {
  Job* job = FindJob(e.job_id);
  if (job == nullptr || job->record.state() != v1::JOB_STATE_RESOLVING) return;
  job->record.set_data_digest(e.digest);
  job->record.set_initial_weights_digest(e.weights_digest);
  Plan(job, e.is_stored);
  SettleJob(e.job_id);
}

void Machine::ForgetLost(Job* job, const std::function<bool(const std::string&)>& is_stored) {
  if (is_stored == nullptr) return;
  auto& links = *job->record.mutable_job_stages();
  std::set<std::string> needed;  // names of stages that another one will start from
  std::set<std::string> forgotten;
  for (int i = links.size() - 1; i >= 0; --i) {
    Stage* stage = Find(links[i].stage());
    const bool has_children = std::any_of(links.begin(), links.end(), [&](const auto& other) { return other.parent() == links[i].name(); });
    const bool done = stage->record.state() == v1::STAGE_STATE_SUCCEEDED;
    if (IsGivenUp(stage->record.state()) && stage->record.has_checkpoint() && !is_stored(stage->record.checkpoint().sha256())) {
      stage->record.clear_checkpoint();
      stage->epochs.clear();
      outcome_.stages_changed.insert(links[i].stage());
    }
    const bool lost = done && (!has_children || needed.count(links[i].name()) > 0) && !is_stored(stage->record.checkpoint().sha256());
    if (lost) {
      stage->record.clear_checkpoint();
      stage->epochs.clear();
      Revive(stage);
      if (links[i].sharing() == v1::STAGE_SHARING_REUSED) links[i].set_sharing(v1::STAGE_SHARING_JOINED);
      links[i].clear_state();
      forgotten.insert(links[i].stage());
    }
    if (!done || lost) needed.insert(links[i].parent());
  }
  if (forgotten.empty()) return;
  // What was to start from them waits again, and so do its jobs, those of others too.
  for (auto& [name, child] : state_.stages) {
    const std::string& parent = child.record.parent_stage();
    if (child.record.state() != v1::STAGE_STATE_PENDING || forgotten.count(parent) == 0) continue;
    Wait(&child);
    for (const auto& id : child.jobs) {
      Job* other = FindJob(id);
      for (auto& link : *other->record.mutable_job_stages()) {
        if (link.stage() != parent || link.state() != v1::STAGE_STATE_SUCCEEDED) continue;
        link.clear_state();
        outcome_.jobs_changed.insert(id);
        Rejoin(other, &link);
      }
    }
  }
}

void Machine::Plan(Job* job, const std::function<bool(const std::string&)>& is_stored) {
  std::map<std::string, std::string> keys, names;  // of this job's stages: key, and the training run's name
  int shared = 0;
  const std::string salt = job->record.spec().has_share() && !job->record.spec().share() ? job->record.job_id() : "";
  job->record.clear_job_stages();
  for (auto& [spec, require, on_gate_failure] : PlanOf(*job)) {
    records::JobStage* link = job->record.add_job_stages();
    link->set_name(spec.name());
    link->set_parent(spec.parent());
    link->set_require(require);
    if (!require.empty()) link->set_on_gate_failure(on_gate_failure);
    const std::string content_key = keys[spec.name()] = StageKey(spec, spec.parent().empty() ? "" : keys[spec.parent()]);
    const std::string key = SaltedKey(content_key, salt);
    const auto known = state_.by_key.find(key);
    if (known != state_.by_key.end()) {
      Stage* stage = Find(known->second);
      link->set_stage(known->second);
      link->set_sharing(stage->record.state() == v1::STAGE_STATE_SUCCEEDED ? v1::STAGE_SHARING_REUSED : v1::STAGE_SHARING_JOINED);
      // Of two parents of one key, which version 0.1 could have, the one that this job waits for.
      const bool waits = stage->record.state() == v1::STAGE_STATE_BLOCKED || IsGivenUp(stage->record.state());
      if (waits && !spec.parent().empty()) stage->record.set_parent_stage(names[spec.parent()]);
      ++shared;
    } else {
      link->set_stage(StageName(job->record.job_id(), spec.name()));
      link->set_sharing(v1::STAGE_SHARING_NONE);
      Stage& stage = state_.stages[link->stage()];
      stage.record.set_job_id(job->record.job_id());
      stage.record.set_key(key);
      if (key != content_key) stage.record.set_content_key(content_key);
      if (!spec.parent().empty()) stage.record.set_parent_stage(names[spec.parent()]);
      stage.record.set_bit_exact(true);
      *stage.record.mutable_spec() = std::move(spec);
      state_.by_key[key] = link->stage();
      Wait(&stage);
    }
    names[link->name()] = link->stage();
  }
  ForgetLost(job, is_stored);
  SetJob(job, v1::JOB_STATE_PENDING, "");
  AddEvent(job, "", "JobPlanned",
           absl::StrCat(job->record.job_stages_size(), " stages", shared > 0 ? absl::StrCat(", ", shared, " of them shared") : "", "; data set digest ",
                        job->record.data_digest(),
                        job->record.initial_weights_digest().empty() ? "" : absl::StrCat("; initial weights digest ", job->record.initial_weights_digest())));
  for (auto& link : *job->record.mutable_job_stages()) Join(job, &link);
}

void Machine::Join(Job* job, records::JobStage* link) {
  Stage* stage = Find(link->stage());
  const auto state = stage->record.state();
  if (link->sharing() != v1::STAGE_SHARING_NONE) {
    const char* how = state == v1::STAGE_STATE_SUCCEEDED ? "taken over from $0, which is done"
                      : IsGivenUp(state)                 ? "goes on from where $0 was given up"
                      : stage->attempt.has_value()       ? "joins $0, which is being trained"
                                                         : "joins $0, which waits";
    AddEvent(job, link->name(), "StageShared", absl::Substitute(how, link->stage()));
  }
  Rejoin(job, link);
}

void Machine::Rejoin(Job* job, records::JobStage* link) {
  Stage* stage = Find(link->stage());
  const auto state = stage->record.state();
  if (state == v1::STAGE_STATE_SUCCEEDED) return;
  stage->jobs.insert(job->record.job_id());
  stage->leaving.erase(job->record.job_id());
  if (IsGivenUp(state)) Revive(stage);
  AdoptSpec(stage);
  if (stage->attempt.has_value()) StartJob(job);
}

// A new job is a new budget of tries; what was trained so far is kept.
void Machine::Revive(Stage* stage) {
  stage->record.set_attempts(0);
  stage->record.clear_end_time();
  stage->retry_after = absl::InfinitePast();
  Wait(stage);
}

void Machine::Wait(Stage* stage) {
  const bool free = ParentDone(*stage);
  SetStage(stage, free ? v1::STAGE_STATE_PENDING : v1::STAGE_STATE_BLOCKED,
           free ? kWaitsForScheduler : absl::StrCat("waits for ", stage->record.spec().parent()));
}

void Machine::StartJob(Job* job) {
  if (job->record.state() != v1::JOB_STATE_PENDING) return;
  SetJob(job, v1::JOB_STATE_RUNNING, "");
  AddEvent(job, "", "JobStarted", "");
}

// A stage's spec says how one of its jobs finds the data. When that job has left, another one's takes its place.
void Machine::AdoptSpec(Stage* stage) {
  const auto& spec = stage->record.spec();
  const auto known = [&](const std::string& id) {
    const v1::JobSpec& wanted = FindJob(id)->record.spec();
    return SameSources(spec.data(), wanted.data(), spec.initial_weights().path(), wanted.initial_weights().path());
  };
  if (stage->jobs.empty() || std::any_of(stage->jobs.begin(), stage->jobs.end(), known)) return;
  const Job& job = *FindJob(*stage->jobs.begin());
  for (const auto& link : job.record.job_stages()) {
    if (link.stage() != StageName(*stage)) continue;
    for (auto& planned : PlanOf(job)) {
      if (planned.spec.name() != link.name()) continue;
      planned.spec.set_name(spec.name());
      planned.spec.set_parent(spec.parent());
      *stage->record.mutable_spec() = std::move(planned.spec);
      outcome_.stages_changed.insert(StageName(*stage));
      return;
    }
  }
}

void Machine::On(const DataRejected& e) {
  Job* job = FindJob(e.job_id);
  if (job == nullptr || job->record.state() != v1::JOB_STATE_RESOLVING) return;
  AddEvent(job, "", "JobFailed", e.message);
  SetJob(job, v1::JOB_STATE_FAILED, e.message);
}

void Machine::On(const CancelRequested& e) {
  Job* job = FindJob(e.job_id);
  if (job == nullptr || IsEnded(job->record.state()) || job->record.state() == v1::JOB_STATE_CANCELLING) return;
  AddEvent(job, "", "JobCancelRequested", "");
  SetJob(job, v1::JOB_STATE_CANCELLING, "cancelled on request; trainers are being stopped");
  SettleJob(e.job_id);
}

void Machine::On(const PauseRequested& e) {
  Job* job = FindJob(e.job_id);
  const auto state = job == nullptr ? v1::JOB_STATE_UNSPECIFIED : job->record.state();
  if (state != v1::JOB_STATE_PENDING && state != v1::JOB_STATE_RUNNING) return;
  AddEvent(job, "", "JobPaused", "");
  SetJob(job, v1::JOB_STATE_PAUSED, "paused on request");
  for (const auto& link : job->record.job_stages()) {
    Stage* stage = Find(link.stage());
    if (link.state() == v1::STAGE_STATE_UNSPECIFIED && stage->attempt.has_value() && !IsWanted(state_, *stage)) {
      On(StopRequested{link.stage(), "the job was paused"});
    }
  }
}

void Machine::On(const ResumeRequested& e) {
  Job* job = FindJob(e.job_id);
  if (job == nullptr || job->record.state() != v1::JOB_STATE_PAUSED) return;
  AddEvent(job, "", "JobResumed", "");
  ReturnJob(job);
  SettleJob(e.job_id);
}

void Machine::ReturnJob(Job* job) {
  const auto& links = job->record.job_stages();
  const bool begun = std::any_of(links.begin(), links.end(), [&](const auto& link) {
    const Stage& stage = *Find(link.stage());
    return link.state() == v1::STAGE_STATE_SUCCEEDED || stage.record.generation() > 0;
  });
  SetJob(job, begun ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_PENDING, "");
}

void Machine::On(const RetryRequested& e) {
  Job* job = FindJob(e.job_id);
  const auto state = job == nullptr ? v1::JOB_STATE_UNSPECIFIED : job->record.state();
  if (state != v1::JOB_STATE_FAILED && state != v1::JOB_STATE_CANCELLED) return;
  AddEvent(job, "", "JobRetried", "");
  job->record.clear_end_time();
  state_.active_jobs.insert(e.job_id);
  if (job->record.job_stages().empty()) return SetJob(job, v1::JOB_STATE_RESOLVING, "");
  for (auto& link : *job->record.mutable_job_stages()) {
    if (link.state() == v1::STAGE_STATE_SUCCEEDED) continue;
    link.clear_state();
    link.clear_reason();
  }
  ForgetLost(job, e.is_stored);
  ReturnJob(job);
  for (auto& link : *job->record.mutable_job_stages()) {
    if (link.state() == v1::STAGE_STATE_UNSPECIFIED) Rejoin(job, &link);
  }
  SettleJob(e.job_id);
}

void Machine::On(const PinChanged& e) {
  Job* job = FindJob(e.job_id);
  if (job == nullptr || job->record.pinned() == e.pinned) return;
  job->record.set_pinned(e.pinned);
  outcome_.jobs_changed.insert(e.job_id);
  AddEvent(job, "", e.pinned ? "JobPinned" : "JobUnpinned", "");
}

void Machine::On(const PriorityChanged& e) {
  Job* job = FindJob(e.job_id);
  if (job == nullptr || IsEnded(job->record.state()) || job->record.spec().priority() == e.priority) return;
  job->record.mutable_spec()->set_priority(e.priority);
  outcome_.jobs_changed.insert(e.job_id);
  AddEvent(job, "", "PriorityChanged", v1::PriorityClass_Name(e.priority).substr(sizeof("PRIORITY_CLASS_") - 1));
}

void Machine::Freeze(Job* job, records::JobStage* link, v1::StageState state, const std::string& reason) {
  link->set_state(state);
  link->set_reason(reason);
  outcome_.jobs_changed.insert(job->record.job_id());
  if (Stage* stage = Find(link->stage())) {
    stage->jobs.erase(job->record.job_id());
    stage->leaving.erase(job->record.job_id());
  }
}

// The job does not need it any more. The trainers go on where another job does; else they stop, and the job waits for that.
void Machine::Leave(Job* job, records::JobStage* link, const std::string& reason) {
  Stage* stage = Find(link->stage());
  const std::string& id = job->record.job_id();
  stage->jobs.erase(id);
  if (!stage->jobs.empty()) {
    AddEvent(job, link->name(), "StageLeft",
             absl::StrCat(reason, "; goes on for ", stage->jobs.size(), stage->jobs.size() == 1 ? " other job" : " other jobs"));
    Freeze(job, link, v1::STAGE_STATE_CANCELLED, reason);
    AdoptSpec(stage);
  } else if (stage->attempt.has_value()) {
    stage->leaving.insert(id);
    StopGang(stage, reason);
    SettleStage(stage);
  } else {
    if (!IsEnded(stage->record.state())) EndStage(stage, v1::STAGE_STATE_CANCELLED, reason);
    Freeze(job, link, v1::STAGE_STATE_CANCELLED, reason);
  }
}

void Machine::SettleJobs(Stage* stage) {
  std::set<std::string> ids = stage->jobs;
  ids.insert(stage->leaving.begin(), stage->leaving.end());
  for (const auto& id : ids) SettleJob(id);
}

void Machine::SettleJob(const std::string& job_id) {
  Job* job = FindJob(job_id);
  if (job == nullptr || IsEnded(job->record.state()) || job->record.state() == v1::JOB_STATE_RESOLVING) return;
  auto& links = *job->record.mutable_job_stages();
  for (auto& link : links) {
    if (link.state() != v1::STAGE_STATE_UNSPECIFIED) continue;
    const Stage& stage = *Find(link.stage());
    if (stage.record.state() == v1::STAGE_STATE_SUCCEEDED) PassGate(job, &link);
    if (stage.record.state() == v1::STAGE_STATE_FAILED && stage.jobs.count(job_id) > 0) Freeze(job, &link, v1::STAGE_STATE_FAILED, stage.record.reason());
  }
  const std::vector<std::string> given_up = WhyGivenUp(job->record);
  for (int i = 0; i < links.size(); ++i) {
    auto& link = links[i];
    if (link.state() != v1::STAGE_STATE_UNSPECIFIED) continue;
    Stage* stage = Find(link.stage());
    if (given_up[i].empty()) {
      // CANCELLED: the coordinator ended between the commit of this and that of the job which had joined it.
      if (stage->record.state() == v1::STAGE_STATE_CANCELLED) Revive(stage);
      if (stage->record.state() == v1::STAGE_STATE_BLOCKED && ParentDone(*stage)) SetStage(stage, v1::STAGE_STATE_PENDING, kWaitsForScheduler);
    } else if (stage->leaving.count(job_id) == 0) {
      Leave(job, &link, given_up[i]);
      if (IsEnded(job->record.state())) return;
    } else if (!stage->attempt.has_value() || !stage->jobs.empty()) {
      Freeze(job, &link, v1::STAGE_STATE_CANCELLED, given_up[i]);
    }
  }
  EndJob(job);
}

void Machine::EndJob(Job* job) {
  const auto& links = job->record.job_stages();
  const auto failed = std::find_if(links.begin(), links.end(), [](const auto& link) { return link.state() == v1::STAGE_STATE_FAILED; });
  const std::string why = failed == links.end() ? "" : absl::StrCat("stage ", failed->name(), " failed: ", failed->reason());
  if (std::any_of(links.begin(), links.end(), [](const auto& link) { return link.state() == v1::STAGE_STATE_UNSPECIFIED; })) {
    // Other branches go on.
    if (!why.empty() && job->record.reason().empty()) SetJob(job, job->record.state(), why);
  } else if (!why.empty()) {
    AddEvent(job, "", "JobFailed", why);
    SetJob(job, v1::JOB_STATE_FAILED, why);
  } else if (!links.empty() && std::all_of(links.begin(), links.end(), [](const auto& link) { return link.state() == v1::STAGE_STATE_SUCCEEDED; })) {
    AddEvent(job, "", "JobSucceeded", "");
    SetJob(job, v1::JOB_STATE_SUCCEEDED, "");
  } else if (job->record.state() == v1::JOB_STATE_CANCELLING) {
    AddEvent(job, "", "JobCancelled", "");
    SetJob(job, v1::JOB_STATE_CANCELLED, "cancelled on request");
  }
}

const v1::EpochResult* Machine::FullPrecisionResult(const records::JobRecord& job, const records::JobStage& link) {
  std::string parent = link.parent();
  while (!parent.empty()) {
    const auto found = std::find_if(job.job_stages().begin(), job.job_stages().end(), [&](const auto& other) { return other.name() == parent; });
    if (found == job.job_stages().end()) return nullptr;
    const Stage& stage = *Find(found->stage());
    const v1::StageSpec& spec = stage.record.spec();
    if (spec.weight_bits() == 32 && spec.activation_bits() == 32) return stage.epochs.empty() ? nullptr : &stage.epochs.back();
    parent = found->parent();
  }
  return nullptr;
}

void Machine::PassGate(Job* job, records::JobStage* link) {
  const auto gate = ParseGate(link->require());
  if (link->require().empty() || !gate.ok()) return Freeze(job, link, v1::STAGE_STATE_SUCCEEDED, "");
  const Stage& stage = *Find(link->stage());
  const auto value = stage.epochs.empty() ? std::nullopt : GateValue(*gate, stage.epochs.back(), FullPrecisionResult(job->record, *link));
  const GateOutcome outcome = Judge(*gate, value);
  link->set_gate(outcome.text);
  AddEvent(job, link->name(), outcome.reached ? "GateReached" : "GateMissed", outcome.text);
  const bool stops = !outcome.reached && link->on_gate_failure() != v1::GATE_ACTION_GO_ON;
  Freeze(job, link, stops ? v1::STAGE_STATE_FAILED : v1::STAGE_STATE_SUCCEEDED,
         stops ? absl::StrCat("requires ", link->require(), ", but ", gate->metric, " is ", outcome.value) : "");
}

bool IsWanted(const State& state, const Stage& stage) {
  return std::any_of(stage.jobs.begin(), stage.jobs.end(), [&](const auto& id) { return state.jobs.at(id).record.state() != v1::JOB_STATE_PAUSED; });
}

bool Machine::ParentDone(const Stage& stage) {
  if (stage.record.parent_stage().empty()) return true;
  const Stage* parent = Find(stage.record.parent_stage());
  return parent != nullptr && parent->record.state() == v1::STAGE_STATE_SUCCEEDED;
}

int Machine::MaxAttempts(const Stage& stage) {
  int most = 1;
  for (const auto& id : stage.jobs) most = std::max(most, FindJob(id)->record.spec().max_attempts());
  return most;
}

}  // namespace bitstair::server
