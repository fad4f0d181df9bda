#include "server/scheduling/round.h"

#include <algorithm>
#include <utility>

#include "server/scheduling/placement.h"

namespace bitstair::server::scheduling {

Decision DecideRound(State& state, absl::Time now) {
  return Round(state, now).Run();
}

Round::Round(State& state, absl::Time now) : state_(state), now_(now) {
  ++state_.round;
  state_.heads.clear();
  while (!state_.delayed.empty() && state_.delayed.begin()->first <= now) {
    const int stage = state_.delayed.begin()->second;
    state_.delayed.erase(state_.delayed.begin());
    Enter(state_, stage);
  }
  if (!state_.delayed.empty()) decision_.wake_at = state_.delayed.begin()->first;
  shapes_.resize(state_.shapes.size());
  for (const auto& [key, others] : state_.makes_way) {
    const int stage = state_.Find(key);
    if (!state_.stages[stage].delayed) shapes_[state_.stages[stage].shape].asked.push_back(stage);
  }
}

Decision Round::Run() {
  heap_.reserve(state_.backlog.lines().size());
  for (const auto& [key, line] : state_.backlog.lines()) heap_.push_back(At(key, &line, line.entries.begin()));
  std::make_heap(heap_.begin(), heap_.end(), Later);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), Later);
    const Candidate candidate = heap_.back();
    heap_.pop_back();
    if (Exhausted(candidate.key, *candidate.line)) continue;
    // Its queue was charged meanwhile. Shares only grow within a decision, so whoever is first with its share up to date is first.
    if (candidate.version != state_.queues.version(candidate.key.queue)) {
      Push(candidate);
      continue;
    }
    const Outcome outcome = KnownToFail(candidate.entry->stage) ? state_.stages[candidate.entry->stage].outcome : Consider(candidate.entry->stage);
    if (outcome == Outcome::kWaits && !state_.config.backfill) break;
    Advance(candidate);
  }
  if (state_.config.elasticity && !anyone_waits_) Grow();
  state_.fleet.Undo();
  for (auto charges = charges_.rbegin(); charges != charges_.rend(); ++charges) state_.queues.Remove(*charges, now_, state_.config.share_window);
  return std::move(decision_);
}

// Heaps have the largest on top.
bool Round::Later(const Candidate& a, const Candidate& b) {
  if (a.priority != b.priority) return a.priority < b.priority;
  if (a.share != b.share) return a.share > b.share;
  return *b.entry < *a.entry;
}

Round::Candidate Round::At(const LineKey& key, const Line* line, std::set<LineEntry>::const_iterator entry) const {
  Candidate candidate{0, 0, state_.queues.version(key.queue), key, line, entry};
  if (state_.config.policy) {
    candidate.priority = static_cast<int>(Aged(state_.config, key.priority, now_ - entry->submitted));
    candidate.share = state_.queues.Share(key.queue, now_, state_.config.share_window);
  }
  return candidate;
}

void Round::Push(const Candidate& candidate) {
  heap_.push_back(At(candidate.key, candidate.line, candidate.entry));
  std::push_heap(heap_.begin(), heap_.end(), Later);
}

void Round::Advance(Candidate candidate) {
  if (Exhausted(candidate.key, *candidate.line)) return;
  do {
    ++candidate.entry;
  } while (candidate.entry != candidate.line->entries.end() && KnownToFail(candidate.entry->stage));
  if (candidate.entry != candidate.line->entries.end()) Push(candidate);
}

bool Round::KnownToFail(int stage) {
  const StageState& waiting = state_.stages[stage];
  if (waiting.round == state_.round) return true;
  const ShapeRound& shape = shapes_[waiting.shape];
  if (shape.impossible) return true;
  if (waiting.request.waiters.size() == 1) {
    const int queue = waiting.places.front().line.queue;
    if (!state_.queues.HasSlotsFor(queue, waiting.request.min_ranks)) return true;
    if (!state_.queues.HasRoomForJob(queue, waiting.request.waiters.front().job_id)) return true;
  }
  if (!shape.failed || Normalised(EndOf(waiting)) < shape.failed_end) return false;
  if (waiting.asked > 0) return false;
  return shape.no_room[static_cast<size_t>(waiting.priority)];
}

bool Round::Exhausted(const LineKey& key, const Line& line) {
  ShapeRound& shape = shapes_[key.shape];
  if (shape.impossible) return true;
  if (!shape.failed || !shape.no_room[static_cast<size_t>(key.priority)] || Normalised(now_ + *line.durations.begin()) < shape.failed_end) return false;
  const auto asked = std::exchange(shape.asked, {});
  for (const int stage : asked) Consider(stage);
  return true;
}

Outcome Round::Consider(int stage) {
  StageState& waiting = state_.stages[stage];
  if (waiting.round == state_.round) return waiting.outcome;
  waiting.round = state_.round;
  waiting.outcome = Outcome::kImpossible;  // should stages yield to each other in a circle, none holds up the others
  const Outcome outcome = Evaluate(stage);
  state_.stages[stage].outcome = outcome;
  if (outcome == Outcome::kWaits || outcome == Outcome::kYields) anyone_waits_ = true;
  return outcome;
}

Outcome Round::Evaluate(int stage) {
  const StageState& waiting = state_.stages[stage];
  if (waiting.yields) {
    const int first = state_.Find(state_.yields_to.at(waiting.request.key));
    if (first >= 0 && !state_.stages[first].running && !state_.stages[first].delayed) {
      const Outcome outcome = Consider(first);
      if (outcome == Outcome::kWaits || outcome == Outcome::kYields) return Outcome::kYields;
    }
  }
  const Shape& shape = state_.shapes.Refresh(state_.fleet, waiting.shape);
  ShapeRound& known = shapes_[waiting.shape];
  if (!shape.possible) {
    known.impossible = true;
    return Outcome::kImpossible;
  }
  if (state_.queues.Split(waiting.request.waiters, shape.allowed_ranks.back()).empty()) return Outcome::kOverQuota;
  SlotFilter filter = shape.Filter();
  const absl::Time end = EndOf(waiting);
  filter.end = Normalised(end);
  if (!known.failed || filter.end < known.failed_end) {
    const int free = CountFree(shape, filter);
    for (const int ranks : shape.allowed_ranks) {
      if (ranks > free) continue;
      auto charges = state_.queues.Split(waiting.request.waiters, ranks);
      if (charges.empty()) continue;
      const auto slots = ChooseSlots(state_.fleet, shape.key, shape.workers, filter, ranks);
      if (slots.empty()) continue;
      Commit(stage, shape, slots, std::move(charges), end);
      return Outcome::kPlaced;
    }
    known.failed = true;
    known.failed_end = filter.end;
    // If not even the shortest stage could start, nobody looks for one.
    filter.end = EarliestEnd();
    if (CountFree(shape, filter) < shape.allowed_ranks.back()) known.failed_end = std::min(known.failed_end, filter.end);
  }
  Block(stage, shape);
  return Outcome::kWaits;
}

void Round::Commit(int stage, const Shape& shape, const std::vector<SlotRef>& slots, std::vector<Charge> charges, absl::Time end) {
  Placement placement{state_.stages[stage].request.key, {}, shape.kind, ""};
  for (const SlotRef ref : slots) {
    const WorkerInfo& worker = state_.fleet.worker(ref.worker).info;
    if (placement.ranks.empty()) placement.numeric_profile = worker.numeric_profile;
    if (placement.numeric_profile != worker.numeric_profile) placement.numeric_profile = "mixed";
    placement.ranks.push_back({worker.id, state_.fleet.at(ref).slot.index});
    state_.fleet.Take(ref, now_, end);
  }
  decision_.placements.push_back(std::move(placement));
  state_.queues.Add(charges, now_, state_.config.share_window);
  charges_.push_back(std::move(charges));
}

absl::Time Round::EndOf(const StageState& stage) const {
  return stage.request.expected_duration ? now_ + *stage.request.expected_duration : absl::InfiniteFuture();
}

absl::Time Round::Normalised(absl::Time end) const {
  const auto next = reservation_times_.lower_bound(end);
  return next == reservation_times_.end() ? absl::InfiniteFuture() : *next;
}

int Round::CountFree(const Shape& shape, const SlotFilter& filter) const {
  int count = 0;
  for (const int worker : shape.workers) count += state_.fleet.Count(worker, filter);
  return count;
}

}  // namespace bitstair::server::scheduling
