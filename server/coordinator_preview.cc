// What would happen to a recipe: CreateJob's validate_only. And when what was submitted will end.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator.h"
#include "server/forecast.h"
#include "server/gate.h"
#include "server/planner.h"
#include "server/stage_key.h"

namespace bitstair::server {
namespace {

constexpr char kPreviewId[] = "preview";

}  // namespace

std::pair<std::string, std::string> Coordinator::KnownDigests(const v1::JobSpec& spec) const {
  const auto& data = spec.data();
  const Job* newest = nullptr;
  for (const auto& [id, job] : state_.jobs) {
    const auto& other = job.record;
    if (other.data_digest().empty() || other.spec().data().name() != data.name() || other.spec().data().path() != data.path()) continue;
    if (spec.initial_weights().path() != other.spec().initial_weights().path()) continue;
    if (newest == nullptr || FromStamp(newest->record.create_time()) < FromStamp(other.create_time())) newest = &job;
  }
  if (newest != nullptr) return {newest->record.data_digest(), newest->record.initial_weights_digest()};
  for (const auto& [id, worker] : workers_) {
    const auto found = worker.digests.find(data.name());
    if (found != worker.digests.end() && !found->second.empty() && !spec.has_initial_weights()) return {found->second, ""};
  }
  return {};
}

v1::Job Coordinator::Preview(const v1::JobSpec& spec) {
  v1::Job view;
  *view.mutable_spec() = spec;
  view.set_state(v1::JOB_STATE_PENDING);
  const std::pair<std::string, std::string> digests = KnownDigests(spec);
  const std::string& digest = digests.first;
  if (digest.empty()) {
    view.add_notes(absl::StrCat("no job has used ", spec.has_initial_weights() ? "this data set with these initial weights" : "this data set",
                                " so far: what is shared, where it runs and when is not known"));
  }
  // A job of its own state, so that nothing of it is seen by others.
  State state;
  Job& job = state.jobs[kPreviewId];
  job.record.set_job_id(kPreviewId);
  *job.record.mutable_spec() = spec;
  job.record.set_state(v1::JOB_STATE_PENDING);
  SetTime(Now(), job.record.mutable_create_time());
  std::map<std::string, std::string> keys;
  std::vector<const Stage*> stages;
  std::set<std::string> done, stopped;
  std::map<std::string, const v1::EpochResult*> full_precision;  // of each stage: what its accuracy drops are from
  for (auto& [planned, require, on_gate_failure] : PlanJob(spec, digest, digests.second)) {
    v1::Stage& shown = *view.add_stages();
    shown.set_name(planned.name());
    *shown.mutable_spec() = planned;
    if (!require.empty()) shown.set_gate(absl::StrCat("requires ", require));
    const std::string key = keys[planned.name()] = StageKey(planned, planned.parent().empty() ? "" : keys[planned.parent()]);
    const auto known = digest.empty() || !spec.share() ? state_.by_key.end() : state_.by_key.find(key);
    shown.set_key(digest.empty() ? "" : key);
    shown.set_sharing(v1::STAGE_SHARING_NONE);
    const bool free = planned.parent().empty() || done.count(planned.parent()) > 0;
    shown.set_state(free ? v1::STAGE_STATE_PENDING : v1::STAGE_STATE_BLOCKED);
    full_precision[planned.name()] = full_precision[planned.parent()];
    if (stopped.count(planned.parent()) > 0) {
      stopped.insert(planned.name());
      shown.set_state(v1::STAGE_STATE_CANCELLED);
      shown.set_reason("what it starts from misses its gate");
    } else if (known != state_.by_key.end()) {
      const Stage& other = state_.stages.at(known->second);
      const bool is_done = other.record.state() == v1::STAGE_STATE_SUCCEEDED && artifacts_->IsWhole(other.record.checkpoint().sha256());
      if (is_done) done.insert(planned.name());
      const v1::EpochResult* result = is_done && !other.epochs.empty() ? &other.epochs.back() : nullptr;
      if (planned.weight_bits() == 32 && planned.activation_bits() == 32) full_precision[planned.name()] = result;
      const auto gate = ParseGate(require);
      if (result != nullptr && gate.ok()) {
        const GateOutcome outcome = Judge(*gate, GateValue(*gate, *result, full_precision[planned.name()]));
        shown.set_gate(outcome.text);
        if (!outcome.reached && on_gate_failure != v1::GATE_ACTION_GO_ON) stopped.insert(planned.name());
      }
      if (is_done || other.record.state() != v1::STAGE_STATE_SUCCEEDED) {
        shown.set_sharing(is_done ? v1::STAGE_SHARING_REUSED : v1::STAGE_SHARING_JOINED);
        shown.set_shared_with(known->second);
        shown.set_seconds(other.record.seconds());
        if (is_done || other.attempt.has_value()) shown.set_state(other.record.state());
      }
    }
    Stage& stage = state.stages[StageName(kPreviewId, planned.name())];
    if (shown.sharing() == v1::STAGE_SHARING_JOINED) stage = state_.stages.at(known->second);
    stage.record.set_job_id(kPreviewId);
    stage.attempt.reset();
    *stage.record.mutable_spec() = std::move(planned);
    stage.record.set_state(shown.state());
    stage.jobs = {kPreviewId};
    shown.set_memory_bytes(estimates_.MemoryBytes(stage.record.spec()).value_or(0));
    stages.push_back(&stage);
  }
  // The scheduler's next decision as if it were submitted now.
  FleetScheduler scheduler = scheduler_;
  const absl::Time now = Now();
  std::map<std::string, scheduling::Placement> placements;
  if (!digest.empty()) {
    for (const Stage* stage : stages) scheduler.UpdateStage(state, *stage, now);
    for (auto& placement : scheduler.Decide(now).placements) {
      const std::string key = placement.key;
      placements[key] = std::move(placement);
    }
  }
  for (size_t i = 0; i < stages.size(); ++i) {
    v1::Stage& shown = *view.mutable_stages(static_cast<int>(i));
    if (shown.state() != v1::STAGE_STATE_PENDING || digest.empty()) continue;
    const auto placed = placements.find(StageName(*stages[i]));
    if (placed == placements.end()) {
      shown.set_reason(scheduler.Explain(StageName(*stages[i]), now));
      continue;
    }
    for (const auto& slot : placed->second.ranks) {
      auto* rank = shown.add_placement();
      rank->set_rank(shown.placement_size() - 1);
      const auto worker = workers_.find(slot.worker_id);
      const std::string name = worker == workers_.end() ? "" : worker->second.hello.host();
      rank->set_worker(absl::StrCat("workers/", name.empty() ? slot.worker_id : name));
    }
  }
  const auto left = [&](int i) {
    const v1::Stage& shown = view.stages(i);
    const auto other = state_.stages.find(shown.shared_with());
    return shown.sharing() == v1::STAGE_SHARING_JOINED && other != state_.stages.end() ? SecondsLeft(other->second) : SecondsLeft(*stages[i]);
  };
  const auto start = [&](int i) {
    const std::string name = StageName(*stages[i]);
    return digest.empty() ? absl::InfiniteFuture() : placements.count(name) > 0 ? now : scheduler.ExpectedStart(name, now);
  };
  const auto slots = [&](int i) { return LeastRanks(stages[i]->record.spec()); };
  AddForecast({left, start, slots, stages.empty() ? 0 : SlotsFor(spec.labels(), stages[0]->record.spec())}, now, &view);
  if (!view.has_expected_end_time() && !digest.empty() &&
      !std::all_of(stages.begin(), stages.end(), [](const Stage* stage) { return IsEnded(stage->record.state()); })) {
    view.add_notes("the end is not known: such a training was not measured here yet, or it cannot start");
  }
  return view;
}

std::optional<double> Coordinator::SecondsLeft(const Stage& stage) const {
  if (stage.attempt.has_value() && stage.progress.has_value() && stage.progress->seconds_left() >= 0) return stage.progress->seconds_left();
  return estimates_.SecondsLeft(stage);
}

int Coordinator::SlotsFor(const google::protobuf::Map<std::string, std::string>& labels, const v1::StageSpec& spec) const {
  const std::string data = DataKey(spec);
  std::map<v1::SlotKind, int> slots;
  for (const auto& [id, worker] : workers_) {
    if (!worker.stream || worker.state != v1::WORKER_STATE_READY || cordoned_.count(id) > 0 || worker.offers.count(data) == 0) continue;
    const auto& offered = worker.hello.labels();
    const bool takes = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      const auto found = offered.find(label.first);
      return found != offered.end() && found->second == label.second;
    });
    if (!takes) continue;
    for (const auto& slot : worker.hello.slots()) ++slots[slot.kind()];
  }
  const int gpus = slots[v1::SLOT_KIND_GPU];
  return gpus >= LeastRanks(spec) ? gpus : slots[v1::SLOT_KIND_CPU];
}

void Coordinator::Forecast(const Job& job, v1::Job* view) const {
  const auto& links = job.record.job_stages();
  if (IsEnded(view->state()) || view->stages_size() != links.size()) return;
  const auto stage_of = [&](int i) -> const Stage& { return state_.stages.at(links[i].stage()); };
  const absl::Time now = Now();
  const auto left = [&](int i) { return SecondsLeft(stage_of(i)); };
  const auto start = [&](int i) { return IsWanted(state_, stage_of(i)) ? scheduler_.ExpectedStart(links[i].stage(), now) : absl::InfiniteFuture(); };
  const auto slots = [&](int i) {
    const Stage& stage = stage_of(i);
    return stage.attempt.has_value() ? static_cast<int>(stage.attempt->ranks.size()) : LeastRanks(stage.record.spec());
  };
  AddForecast({left, start, slots, links.empty() ? 0 : SlotsFor(job.record.spec().labels(), stage_of(0).record.spec())}, now, view);
  for (int i = 0; i < links.size(); ++i) view->mutable_stages(i)->set_memory_bytes(estimates_.MemoryBytes(stage_of(i).record.spec()).value_or(0));
}

}  // namespace bitstair::server
