// For stages that find no place: who makes room, and which slots are kept for them.
#include <algorithm>
#include <tuple>
#include <utility>

#include "server/scheduling/placement.h"
#include "server/scheduling/round.h"

namespace bitstair::server::scheduling {
namespace {

bool IsEligible(const Shape& shape, int worker) {
  return worker < static_cast<int>(shape.eligible.size()) && shape.eligible[worker] != 0;
}

// The largest allowed number of ranks up to `most`; 0: none.
int Largest(const Shape& shape, int most) {
  for (const int ranks : shape.allowed_ranks) {
    if (ranks <= most) return ranks;
  }
  return 0;
}

}  // namespace

void Round::Block(int stage, const Shape& shape) {
  const auto priority = static_cast<size_t>(state_.stages[stage].priority);
  ShapeRound& known = shapes_[state_.stages[stage].shape];
  if (state_.stages[stage].asked > 0) {
    // Nobody else is asked before those that were asked have ended.
    if (ReserveOwn(stage, shape)) return;
  } else if (!known.no_room[priority]) {
    if (MakeRoom(stage, shape)) return;
    // Whom a class cannot ask, a lower one cannot ask either.
    std::fill(known.no_room.begin(), known.no_room.begin() + static_cast<int>(priority) + 1, true);
  }
  if (state_.config.backfill && !known.joined && !JoinPool(shape)) ReserveEarliest(stage, shape);
  known.joined = true;
}

Round::Regions Round::FreeRegions(const Shape& shape) const {
  Regions regions;
  const SlotFilter filter = shape.Filter();
  for (const int worker : shape.workers) {
    if (state_.fleet.Count(worker, filter) == 0) continue;
    auto& free = regions[shape.key.one_host ? state_.fleet.worker(worker).host : 0].free;
    const auto& slots = state_.fleet.worker(worker).slots;
    for (int i = 0; i < static_cast<int>(slots.size()); ++i) {
      if (filter.Matches(slots[i])) free.push_back({worker, i});
    }
  }
  return regions;
}

void Round::Collect(const StageState& running, const Shape& shape, int most, std::map<int, std::vector<SlotRef>>& by_region) const {
  SlotFilter filter = shape.Filter();
  filter.free_by = absl::InfiniteFuture();
  for (auto held = running.held.rbegin(); held != running.held.rend() && most > 0; ++held) {
    if (!IsEligible(shape, held->worker)) continue;
    const int position = state_.fleet.PositionOf(held->worker, held->slot);
    if (position < 0 || !filter.Matches(state_.fleet.at({held->worker, position}))) continue;
    by_region[shape.key.one_host ? state_.fleet.worker(held->worker).host : 0].push_back({held->worker, position});
    --most;
  }
}

bool Round::ReserveOwn(int stage, const Shape& shape) {
  const auto least = static_cast<size_t>(shape.allowed_ranks.back());
  Regions regions;
  bool enough = false;
  for (const std::string& key : state_.makes_way[state_.stages[stage].request.key]) {
    const StageState& running = state_.stages[state_.Find(key)];
    const int surplus = running.resize_to > 0 ? static_cast<int>(running.held.size()) - running.resize_to : static_cast<int>(running.held.size());
    std::map<int, std::vector<SlotRef>> slots;
    Collect(running, shape, surplus, slots);
    for (const auto& [region, refs] : slots) {
      auto& own = regions[region].own;
      own.insert(own.end(), refs.begin(), refs.end());
      enough = enough || own.size() >= least;
    }
  }
  if (!enough) {
    for (auto& [number, region] : FreeRegions(shape)) regions[number].free = std::move(region.free);
  }
  for (auto& [number, region] : regions) {
    auto& slots = region.own;
    slots.insert(slots.end(), region.free.begin(), region.free.end());
    if (slots.size() < least) continue;
    slots.resize(least);
    for (const SlotRef ref : slots) state_.fleet.Reserve(ref, absl::InfinitePast());
    AddHead(stage, shape, absl::InfiniteFuture());
    return true;
  }
  return false;
}

bool Round::MakeRoom(int stage, const Shape& shape) {
  if (!state_.config.policy) return false;
  return (state_.config.elasticity && AskElastic(stage, shape)) || (state_.config.preemption && AskPreemptible(stage, shape));
}

// Elastic stages of no higher class give up ranks above their smallest number.
bool Round::AskElastic(int stage, const Shape& shape) {
  const Priority priority = state_.stages[stage].priority;
  Regions regions;
  bool any = false;
  if (!donors_) {
    donors_.emplace();
    for (const int other : state_.elastic) {
      const StageState& running = state_.stages[other];
      const int surplus = static_cast<int>(running.held.size()) - state_.shapes.Refresh(state_.fleet, running.shape).allowed_ranks.back();
      if (!running.stopping && surplus > 0) donors_->push_back({other, surplus});
    }
  }
  for (const auto& [other, surplus] : *donors_) {
    const StageState& running = state_.stages[other];
    if (running.stopping || running.priority > priority) continue;
    if (running.priority == priority && now_ < running.start + state_.config.resize_interval) {
      decision_.wake_at = std::min(decision_.wake_at, running.start + state_.config.resize_interval);
      continue;
    }
    std::map<int, std::vector<SlotRef>> slots;
    Collect(running, shape, surplus, slots);
    for (auto& [region, refs] : slots) regions[region].givers.push_back({other, running.priority, running.start, std::move(refs)});
    any = any || !slots.empty();
  }
  if (!any) return false;
  for (auto& [number, region] : FreeRegions(shape)) regions[number].free = std::move(region.free);
  const int least = shape.allowed_ranks.back();
  std::vector<Region::Giver> givers;
  const Region* region = Cheapest(regions, least, givers);
  if (region == nullptr) return false;
  int missing = least;
  for (const SlotRef ref : region->free) state_.fleet.Reserve(ref, absl::InfinitePast());
  missing -= static_cast<int>(region->free.size());
  for (const Region::Giver& giver : givers) {
    const int gives = std::min(missing, static_cast<int>(giver.slots.size()));
    for (int i = 0; i < gives; ++i) state_.fleet.Reserve(giver.slots[i], absl::InfinitePast());
    missing -= gives;
    const StageState& running = state_.stages[giver.stage];
    Ask(giver.stage, stage, Largest(state_.shapes.Refresh(state_.fleet, running.shape), static_cast<int>(running.held.size()) - gives));
  }
  AddHead(stage, shape, absl::InfiniteFuture());
  return true;
}

// Preemptible stages of lower classes end at a checkpoint.
bool Round::AskPreemptible(int stage, const Shape& shape) {
  if (!MayPreempt(state_.stages[stage].priority, shape)) return false;
  Regions regions;
  bool any = false;
  for (size_t lower = 0; lower < static_cast<size_t>(state_.stages[stage].priority); ++lower) {
    for (const int other : state_.preemptible[lower]) {
      const StageState& running = state_.stages[other];
      std::map<int, std::vector<SlotRef>> slots;
      Collect(running, shape, static_cast<int>(running.held.size()), slots);
      for (auto& [region, refs] : slots) regions[region].givers.push_back({other, running.preempted_as, running.start, std::move(refs)});
      any = any || !slots.empty();
    }
  }
  if (!any) return false;
  for (auto& [number, region] : FreeRegions(shape)) regions[number].free = std::move(region.free);
  const int least = shape.allowed_ranks.back();
  std::vector<Region::Giver> givers;
  const Region* region = Cheapest(regions, least, givers);
  if (region == nullptr) return false;
  auto slots = region->free;
  for (const Region::Giver& giver : givers) {
    slots.insert(slots.end(), giver.slots.begin(), giver.slots.end());
    Ask(giver.stage, stage, 0);
  }
  slots.resize(std::min(slots.size(), static_cast<size_t>(least)));
  for (const SlotRef ref : slots) state_.fleet.Reserve(ref, absl::InfinitePast());
  AddHead(stage, shape, absl::InfiniteFuture());
  return true;
}

bool Round::MayPreempt(Priority priority, const Shape& shape) const {
  int slots = 0, given = 0;
  for (size_t lower = 0; lower < static_cast<size_t>(priority); ++lower) {
    const auto& by_worker = state_.preemptible_slots[lower];
    for (const int worker : shape.workers) given += worker < static_cast<int>(by_worker.size()) ? by_worker[worker] : 0;
  }
  if (given == 0) return false;
  for (const int worker : shape.workers) slots += state_.fleet.Count(worker, shape.Filter());
  return slots + given >= shape.allowed_ranks.back();
}

const Round::Region* Round::Cheapest(const Regions& regions, int least, std::vector<Region::Giver>& givers) {
  const Region* best = nullptr;
  for (const auto& [number, region] : regions) {
    const auto picked = Pick(region.givers, least - static_cast<int>(region.free.size()));
    if (picked.empty() || (best != nullptr && picked.size() >= givers.size())) continue;
    best = &region;
    givers = picked;
  }
  return best;
}

// From the lowest classes that have enough; of these the largest, so that they are few, and the last one no larger than needed. Those that started last go
// first among equals. Empty: there are not enough.
std::vector<Round::Region::Giver> Round::Pick(const std::vector<Region::Giver>& givers, int missing) {
  for (const Priority up_to : {Priority::kLow, Priority::kNormal, Priority::kHigh}) {
    std::vector<Region::Giver> asked;
    int sum = 0;
    for (const Region::Giver& giver : givers) {
      if (giver.priority > up_to) continue;
      asked.push_back(giver);
      sum += static_cast<int>(giver.slots.size());
    }
    if (sum < missing || asked.empty()) continue;
    std::sort(asked.begin(), asked.end(), [](const auto& a, const auto& b) {
      if (a.slots.size() != b.slots.size()) return a.slots.size() > b.slots.size();
      return a.start != b.start ? a.start > b.start : a.stage < b.stage;
    });
    std::vector<Region::Giver> picked;
    for (size_t i = 0; missing > 0; ++i) {
      size_t last = i;
      while (asked[i].slots.size() >= static_cast<size_t>(missing) && last + 1 < asked.size() && asked[last + 1].slots.size() >= static_cast<size_t>(missing))
        ++last;
      // The first of those with as many slots as the last one that is large enough.
      while (last > i && asked[last - 1].slots.size() == asked[last].slots.size()) --last;
      picked.push_back(asked[last]);
      missing -= static_cast<int>(asked[last].slots.size());
    }
    return picked;
  }
  return {};
}

void Round::Ask(int asked, int beneficiary, int resize_to) {
  StageState& running = state_.stages[asked];
  const std::string& key = state_.stages[beneficiary].request.key;
  running.stopping = true;
  RemovePreemptible(state_, asked);
  running.stopping_for = key;
  running.resize_to = resize_to;
  state_.yields_to[running.request.key] = key;
  state_.makes_way[key].insert(running.request.key);
  ++state_.stages[beneficiary].asked;
  if (resize_to > 0) {
    decision_.resizes.push_back({running.request.key, resize_to, key});
  } else {
    decision_.preemptions.push_back({running.request.key, key});
  }
}

// Stages that have no worker in common do not stand in each other's way, and each such pool has a head of its own. What a stage without reservation waits for
// belongs to the pool from then on: a later head there could be overtaken by it.
bool Round::JoinPool(const Shape& shape) {
  for (Head& head : state_.heads) {
    head.workers.resize(std::max(head.workers.size(), shape.eligible.size()));
    if (head.kind != shape.kind || std::none_of(shape.workers.begin(), shape.workers.end(), [&](int worker) { return head.workers[worker] != 0; })) continue;
    for (const int worker : shape.workers) head.workers[worker] = 1;
    return true;
  }
  return false;
}

// The earliest time at which enough slots are expected to be free, and slots that will be by then. Since it is the earliest, nothing that starts later on other
// slots, or ends before it, can move it.
void Round::ReserveEarliest(int stage, const Shape& shape) {
  struct Option {
    absl::Time free_at, since;
    SlotRef ref;
  };
  SlotFilter filter = shape.Filter();
  filter.free_by = absl::InfiniteFuture();
  std::map<int, std::vector<Option>> regions;
  for (const int worker : shape.workers) {
    auto& options = regions[shape.key.one_host ? state_.fleet.worker(worker).host : 0];
    const auto& slots = state_.fleet.worker(worker).slots;
    for (int i = 0; i < static_cast<int>(slots.size()); ++i) {
      if (filter.Matches(slots[i])) options.push_back({slots[i].free_at, slots[i].held_since, {worker, i}});
    }
  }
  const auto least = static_cast<size_t>(shape.allowed_ranks.back());
  const auto sooner = [](const Option& a, const Option& b) {
    // Of two whose end is not known, the one that runs longer.
    return std::tie(a.free_at, a.since, a.ref.worker, a.ref.position) < std::tie(b.free_at, b.since, b.ref.worker, b.ref.position);
  };
  std::vector<Option>* best = nullptr;
  absl::Time start;
  for (auto& [number, options] : regions) {
    if (options.size() < least) continue;
    std::nth_element(options.begin(), options.begin() + static_cast<int64_t>(least) - 1, options.end(), sooner);
    const absl::Time free_at = options[least - 1].free_at;
    const auto free = [](const std::vector<Option>& some) {
      return std::count_if(some.begin(), some.end(), [](const Option& option) { return option.free_at == absl::InfinitePast(); });
    };
    if (best != nullptr && (free_at > start || (free_at == start && free(options) <= free(*best)))) continue;
    best = &options;
    start = free_at;
  }
  if (best == nullptr) return;
  std::vector<SlotRef> slots;
  if (start < absl::InfiniteFuture()) {
    filter.free_by = start;
    slots = ChooseSlots(state_.fleet, shape.key, shape.workers, filter, static_cast<int>(least));
    start = std::max(start, now_);
    reservation_times_.insert(start);
  } else {
    // Free ones first, so that they are kept until there are enough.
    for (size_t i = 0; i < least; ++i) slots.push_back((*best)[i].ref);
  }
  // Without a time nobody can be sure to be done before it.
  for (const SlotRef ref : slots) state_.fleet.Reserve(ref, start < absl::InfiniteFuture() ? start : absl::InfinitePast());
  AddHead(stage, shape, start);
}

void Round::AddHead(int stage, const Shape& shape, absl::Time start) {
  const StageRequest& request = state_.stages[stage].request;
  state_.heads.push_back({stage, request.key, request.name, shape.kind, shape.eligible, start});
}

void Round::Grow() {
  // What was asked to grow has not got its slots yet.
  for (const int stage : state_.elastic) {
    const StageState& running = state_.stages[stage];
    const int more = running.resize_to - static_cast<int>(running.held.size());
    if (!running.stopping || more <= 0) continue;
    const Shape& shape = state_.shapes.Refresh(state_.fleet, running.shape);
    for (const SlotRef ref : ChooseSlots(state_.fleet, shape.key, shape.workers, shape.Filter(), more)) state_.fleet.Take(ref, now_, absl::InfiniteFuture());
  }
  for (const int stage : state_.elastic) {
    if (state_.stages[stage].stopping || !GrowOne(stage)) continue;
    state_.stages[stage].stopping = true;
    RemovePreemptible(state_, stage);
    decision_.resizes.push_back({state_.stages[stage].request.key, state_.stages[stage].resize_to, ""});
  }
}

// Sets resize_to and takes the further slots.
bool Round::GrowOne(int stage) {
  StageState& running = state_.stages[stage];
  const Shape& shape = state_.shapes.Refresh(state_.fleet, running.shape);
  const int ranks = static_cast<int>(running.held.size());
  if (ranks >= shape.allowed_ranks.front() || running.expected_end < now_ + state_.config.resize_interval) return false;
  std::vector<int> workers;
  for (const int worker : shape.workers) {
    if (!shape.key.one_host || state_.fleet.worker(worker).host == state_.fleet.worker(running.held.front().worker).host) workers.push_back(worker);
  }
  int free = 0;
  for (const int worker : workers) free += state_.fleet.Count(worker, shape.Filter());
  for (const int target : shape.allowed_ranks) {
    if (target <= ranks) break;
    if (target - ranks > free) continue;
    const auto has_room = [&](const Charge& charge) { return state_.queues.HasSlotsFor(charge.queue, charge.slots * (target - ranks) / ranks); };
    if (!std::all_of(running.charges.begin(), running.charges.end(), has_room)) continue;
    if (now_ < running.start + state_.config.resize_interval) {
      decision_.wake_at = std::min(decision_.wake_at, running.start + state_.config.resize_interval);
      return false;
    }
    const auto slots = ChooseSlots(state_.fleet, shape.key, workers, shape.Filter(), target - ranks);
    if (slots.empty()) continue;
    for (const SlotRef ref : slots) state_.fleet.Take(ref, now_, absl::InfiniteFuture());
    running.resize_to = target;
    return true;
  }
  return false;
}

}  // namespace bitstair::server::scheduling
