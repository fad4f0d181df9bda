#include "server/scheduling/scheduler.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduling/validate.h"

namespace bitstair::server::scheduling {
namespace {

absl::Status Unknown(const std::string& what, const std::string& name) {
  return absl::NotFoundError(absl::StrCat(what, " ", name, " is not known"));
}

Priority HighestOf(const std::vector<Waiter>& waiters) {
  Priority highest = Priority::kLow;
  for (const Waiter& waiter : waiters) highest = std::max(highest, waiter.priority);
  return highest;
}

int NewStage(State& state, const std::string& key) {
  int stage = static_cast<int>(state.stages.size());
  if (state.unused_stages.empty()) {
    state.stages.emplace_back();
  } else {
    stage = state.unused_stages.back();
    state.unused_stages.pop_back();
  }
  state.stages[stage].sequence = state.next_sequence++;
  state.index[key] = stage;
  return stage;
}

// It no longer waits: whom it held up goes on.
void NoLongerWaits(State& state, const std::string& key) {
  for (auto pair = state.yields_to.begin(); pair != state.yields_to.end();) {
    if (pair->second != key) {
      ++pair;
      continue;
    }
    if (const int other = state.Find(pair->first); other >= 0) state.stages[other].yields = false;
    pair = state.yields_to.erase(pair);
  }
  state.stages[state.Find(key)].asked = 0;
  const auto way = state.makes_way.find(key);
  if (way == state.makes_way.end()) return;
  for (const std::string& other : way->second) state.stages[state.Find(other)].stopping_for.clear();
  state.makes_way.erase(way);
}

void Forget(State& state, int stage) {
  state.shapes.Release(state.stages[stage].shape);
  state.index.erase(state.stages[stage].request.key);
  state.stages[stage] = StageState();
  state.unused_stages.push_back(stage);
}

void EnlistRunning(State& state, int stage) {
  StageState& running = state.stages[stage];
  running.preempted_as = Priority::kLow;
  for (const Waiter& waiter : running.request.waiters) {
    running.preempted_as = std::max(running.preempted_as, Aged(state.config, waiter.priority, running.start - waiter.submitted));
  }
  if (running.request.preemptible && !running.stopping) AddPreemptible(state, stage);
  if (running.request.min_ranks < running.request.max_ranks) state.elastic.insert(stage);
}

void DelistRunning(State& state, int stage) {
  RemovePreemptible(state, stage);
  state.elastic.erase(stage);
}

}  // namespace

Priority Aged(const SchedulerConfig& config, Priority priority, absl::Duration waited) {
  const double classes = std::clamp(absl::FDivDuration(waited, config.ageing), 0.0, 2.0);
  return static_cast<Priority>(std::min(static_cast<int>(priority) + static_cast<int>(classes), static_cast<int>(Priority::kHigh)));
}

void AddPreemptible(State& state, int stage) {
  const auto priority = static_cast<size_t>(state.stages[stage].preempted_as);
  if (!state.preemptible[priority].insert(stage).second) return;
  auto& slots = state.preemptible_slots[priority];
  slots.resize(std::max(slots.size(), static_cast<size_t>(state.fleet.size())));
  for (const HeldSlot& held : state.stages[stage].held) ++slots[held.worker];
}

void RemovePreemptible(State& state, int stage) {
  const auto priority = static_cast<size_t>(state.stages[stage].preempted_as);
  if (state.preemptible[priority].erase(stage) == 0) return;
  for (const HeldSlot& held : state.stages[stage].held) --state.preemptible_slots[priority][held.worker];
}

void Enter(State& state, int stage) {
  StageState& entering = state.stages[stage];
  entering.delayed = false;
  for (const Waiter& waiter : entering.request.waiters) {
    const LineKey line{state.queues.Number(waiter.queue), waiter.priority, entering.shape};
    auto place = std::find_if(entering.places.begin(), entering.places.end(), [&](const LinePlace& other) { return other.line == line; });
    if (place == entering.places.end()) {
      entering.places.push_back({line, {waiter.submitted, entering.sequence, stage}, entering.request.expected_duration.value_or(absl::InfiniteDuration())});
    } else {
      place->entry.submitted = std::min(place->entry.submitted, waiter.submitted);
    }
  }
  for (const LinePlace& place : entering.places) state.backlog.Add(place);
}

void Leave(State& state, int stage) {
  StageState& leaving = state.stages[stage];
  if (leaving.delayed) state.delayed.erase({leaving.request.wait_until, stage});
  leaving.delayed = false;
  for (const LinePlace& place : leaving.places) state.backlog.Remove(place);
  leaving.places.clear();
}

absl::StatusOr<Scheduler> Scheduler::Create(const SchedulerConfig& config) {
  if (auto status = Validate(config); !status.ok()) return status;
  Scheduler scheduler;
  scheduler.state_.config = config;
  return scheduler;
}

absl::Status Scheduler::UpsertWorker(const WorkerInfo& worker) {
  if (auto status = Validate(worker); !status.ok()) return status;
  state_.shapes.WorkerChanged(state_.fleet, state_.fleet.Upsert(worker));
  return absl::OkStatus();
}

absl::Status Scheduler::RemoveWorker(const std::string& id) {
  const int worker = state_.fleet.Remove(id);
  if (worker < 0) return Unknown("worker", id);
  state_.shapes.WorkerChanged(state_.fleet, worker);
  return absl::OkStatus();
}

absl::Status Scheduler::UpsertStage(const StageRequest& request) {
  int stage = state_.Find(request.key);
  const bool running = stage >= 0 && state_.stages[stage].running;
  if (auto status = Validate(request, running); !status.ok()) return status;
  const int shape = state_.shapes.Acquire(state_.fleet, ShapeKey::Of(request));
  if (stage < 0) {
    stage = NewStage(state_, request.key);
    ++state_.pending;
  } else {
    if (running) DelistRunning(state_, stage);
    Leave(state_, stage);
    state_.shapes.Release(state_.stages[stage].shape);
  }
  StageState& known = state_.stages[stage];
  known.request = request;
  known.priority = HighestOf(request.waiters);
  known.shape = shape;
  known.yields = state_.yields_to.count(request.key) > 0;
  if (running) {
    EnlistRunning(state_, stage);
    const int ranks = static_cast<int>(known.held.size());
    auto charges = state_.queues.Split(request.waiters, ranks, known.charges);
    // Nothing that runs is stopped by a quota.
    if (charges.empty()) charges = state_.queues.SplitAmongAll(request.waiters, ranks);
    state_.queues.Remove(known.charges, state_.clock, state_.config.share_window);
    state_.queues.Add(charges, state_.clock, state_.config.share_window);
    known.charges = std::move(charges);
  } else if (request.wait_until > state_.clock) {
    known.delayed = true;
    state_.delayed.insert({request.wait_until, stage});
  } else {
    Enter(state_, stage);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::RemoveStage(const std::string& key) {
  const int stage = state_.Find(key);
  if (stage < 0) return Unknown("stage", key);
  if (state_.stages[stage].running) return absl::FailedPreconditionError(absl::StrCat("stage ", key, " runs"));
  Leave(state_, stage);
  NoLongerWaits(state_, key);
  state_.yields_to.erase(key);
  Forget(state_, stage);
  --state_.pending;
  return absl::OkStatus();
}

absl::Status Scheduler::MarkRunning(const std::string& key, const Placement& placement, absl::Time start, absl::Time expected_end) {
  const int stage = state_.Find(key);
  if (stage < 0) return Unknown("stage", key);
  if (placement.ranks.empty()) return absl::InvalidArgumentError(absl::StrCat("stage ", key, ": ranks: there are none"));
  // Held slots have an end in the future or none, never InfinitePast, which means free.
  expected_end = std::max(expected_end, start);
  StageState& starting = state_.stages[stage];
  if (starting.running) {
    if (starting.placement.ranks != placement.ranks) return absl::FailedPreconditionError(absl::StrCat("stage ", key, " runs on other slots"));
    starting.start = start;
    starting.expected_end = expected_end;
    for (const HeldSlot& held : starting.held) state_.fleet.SetTimes(held.worker, held.slot, start, expected_end);
    return absl::OkStatus();
  }
  std::set<std::pair<std::string, int>> slots;
  for (const RankSlot& rank : placement.ranks) {
    if (!slots.insert({rank.worker_id, rank.slot}).second) {
      return absl::InvalidArgumentError(absl::StrCat("stage ", key, ": ranks: slot ", rank.slot, " of worker ", rank.worker_id, " is there twice"));
    }
    if (state_.fleet.Held(rank.worker_id, rank.slot)) {
      return absl::FailedPreconditionError(absl::StrCat("stage ", key, ": slot ", rank.slot, " of worker ", rank.worker_id, " is held by another stage"));
    }
  }
  Leave(state_, stage);
  NoLongerWaits(state_, key);
  state_.yields_to.erase(key);
  --state_.pending;
  state_.clock = std::max(state_.clock, start);
  starting.running = true;
  starting.placement = placement;
  starting.start = start;
  starting.expected_end = expected_end;
  for (const RankSlot& rank : placement.ranks) starting.held.push_back({state_.fleet.Hold(rank.worker_id, rank.slot, start, expected_end), rank.slot});
  const int ranks = static_cast<int>(starting.held.size());
  starting.charges = state_.queues.Split(starting.request.waiters, ranks);
  if (starting.charges.empty()) starting.charges = state_.queues.SplitAmongAll(starting.request.waiters, ranks);
  state_.queues.Add(starting.charges, state_.clock, state_.config.share_window);
  EnlistRunning(state_, stage);
  return absl::OkStatus();
}

absl::Status Scheduler::MarkEnded(const std::string& key, absl::Time at) {
  const int stage = state_.Find(key);
  if (stage < 0) return Unknown("stage", key);
  StageState& ending = state_.stages[stage];
  if (!ending.running) return absl::FailedPreconditionError(absl::StrCat("stage ", key, " does not run"));
  state_.clock = std::max(state_.clock, at);
  for (const HeldSlot& held : ending.held) state_.fleet.Release(held.worker, held.slot);
  state_.queues.Remove(ending.charges, state_.clock, state_.config.share_window);
  DelistRunning(state_, stage);
  if (const auto way = state_.makes_way.find(ending.stopping_for); way != state_.makes_way.end()) {
    way->second.erase(key);
    state_.stages[state_.Find(ending.stopping_for)].asked = static_cast<int>(way->second.size());
    if (way->second.empty()) state_.makes_way.erase(way);
  }
  Forget(state_, stage);
  return absl::OkStatus();
}

absl::Status Scheduler::SetQueue(const std::string& name, const QueueLimits& limits) {
  if (auto status = Validate(name, limits); !status.ok()) return status;
  state_.queues.Set(name, limits);
  return absl::OkStatus();
}

Decision Scheduler::Decide(absl::Time now) {
  state_.clock = std::max(state_.clock, now);
  return DecideRound(state_, state_.clock);
}

absl::StatusOr<Explanation> Scheduler::Explain(const std::string& key, absl::Time now) const {
  const int stage = state_.Find(key);
  if (stage < 0) return Unknown("stage", key);
  return ExplainStage(state_, stage, now);
}

double Scheduler::SlotsOf(const std::string& queue) const {
  const int number = state_.queues.Find(queue);
  return number < 0 ? 0 : state_.queues.slots(number);
}

int Scheduler::JobsOf(const std::string& queue) const {
  const int number = state_.queues.Find(queue);
  return number < 0 ? 0 : state_.queues.jobs(number);
}

WaitingCounts Scheduler::CountWaiting() const {
  WaitingCounts counts;
  for (const auto& [key, stage] : state_.index) {  // in any order: it is a sum
    const StageState& waiting = state_.stages[stage];
    if (waiting.running) continue;
    ++(waiting.delayed                           ? counts.delayed
       : waiting.outcome == Outcome::kYields     ? counts.yields
       : waiting.outcome == Outcome::kOverQuota  ? counts.quota
       : waiting.outcome == Outcome::kImpossible ? counts.impossible
                                                 : counts.slots);
  }
  return counts;
}

std::vector<QueueUsage> Scheduler::Usage(absl::Time now) const {
  std::vector<QueueUsage> usage(state_.queues.size());
  for (int queue = 0; queue < state_.queues.size(); ++queue) {
    usage[queue] = {state_.queues.name(queue), state_.queues.slots(queue), state_.queues.jobs(queue), 0,
                    state_.queues.SlotSeconds(queue, now, state_.config.share_window)};
  }
  for (const auto& [key, number] : state_.index) {  // in any order: it is a sum
    const StageState& stage = state_.stages[number];
    if (stage.running) continue;
    std::set<int> queues;
    for (const Waiter& waiter : stage.request.waiters) queues.insert(state_.queues.Find(waiter.queue));
    for (const int queue : queues) {
      if (queue >= 0) ++usage[queue].waiting;
    }
  }
  return usage;
}

absl::Status Scheduler::RestoreUsage(const std::string& name, double slot_seconds, absl::Time saved) {
  if (!std::isfinite(slot_seconds) || slot_seconds < 0) return absl::InvalidArgumentError("slot_seconds: must be 0 or above");
  const int queue = state_.queues.Number(name);
  if (state_.queues.slots(queue) > 0) return absl::FailedPreconditionError("the queue has slots already");
  state_.queues.Restore(queue, slot_seconds, saved);
  return absl::OkStatus();
}

}  // namespace bitstair::server::scheduling
