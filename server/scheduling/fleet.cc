#include "server/scheduling/fleet.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace bitstair::server::scheduling {
namespace {

int NumberOf(std::map<std::string, int>& names, const std::string& name) {
  return names.emplace(name, static_cast<int>(names.size())).first->second;
}

}  // namespace

int Fleet::Upsert(const WorkerInfo& info) {
  auto [found, added] = index_.emplace(info.id, 0);
  if (added) {
    if (unused_.empty()) {
      found->second = size();
      workers_.emplace_back();
      for (auto& free : free_) free.push_back(0);
    } else {
      found->second = unused_.back();
      unused_.pop_back();
    }
  }
  FleetWorker& worker = workers_[found->second];
  usable_ -= worker.usable() ? 1 : 0;
  worker.info = info;
  worker.known = true;
  // The leading blank keeps a worker's own id apart from hosts' names.
  worker.host = NumberOf(hosts_, info.host.empty() ? absl::StrCat(" ", info.id) : info.host);
  worker.subnet = NumberOf(subnets_, info.subnet);
  worker.profile = NumberOf(profiles_, info.numeric_profile);
  usable_ += worker.usable() ? 1 : 0;
  Rebuild(found->second);
  return found->second;
}

int Fleet::Remove(const std::string& id) {
  const auto found = index_.find(id);
  if (found == index_.end() || !workers_[found->second].known) return -1;
  const int index = found->second;
  FleetWorker& worker = workers_[index];
  usable_ -= worker.usable() ? 1 : 0;
  worker.known = false;
  worker.info = WorkerInfo{id};
  Rebuild(index);
  if (worker.holds.empty()) Drop(index);
  return index;
}

void Fleet::Drop(int index) {
  index_.erase(workers_[index].info.id);
  workers_[index] = FleetWorker();
  unused_.push_back(index);
}

void Fleet::Rebuild(int index) {
  FleetWorker& worker = workers_[index];
  worker.slots.clear();
  worker.total = {};
  for (auto& free : free_) free[index] = 0;
  worker.least_memory.fill(std::numeric_limits<int64_t>::max());
  for (const Slot& slot : worker.info.slots) worker.slots.push_back({slot});
  std::sort(worker.slots.begin(), worker.slots.end(), [](const auto& a, const auto& b) { return a.slot.index < b.slot.index; });
  for (SlotState& state : worker.slots) {
    const auto kind = static_cast<size_t>(state.slot.kind);
    ++worker.total[kind];
    if (state.slot.memory_bytes > 0) worker.least_memory[kind] = std::min(worker.least_memory[kind], state.slot.memory_bytes);
    if (worker.info.busy.count(state.slot.index) > 0) state.free_at = absl::InfiniteFuture();
    if (const auto hold = worker.holds.find(state.slot.index); hold != worker.holds.end()) {
      state.free_at = hold->second.until;
      state.held_since = hold->second.since;
    }
    if (state.free_at == absl::InfinitePast()) ++free_[kind][index];
  }
}

bool Fleet::Held(const std::string& worker_id, int slot_index) const {
  const auto found = index_.find(worker_id);
  return found != index_.end() && workers_[found->second].holds.count(slot_index) > 0;
}

int Fleet::Hold(const std::string& worker_id, int slot_index, absl::Time since, absl::Time until) {
  auto found = index_.find(worker_id);
  if (found == index_.end()) {
    Upsert(WorkerInfo{worker_id});
    found = index_.find(worker_id);
    --usable_;
    workers_[found->second].known = false;
  }
  FleetWorker& worker = workers_[found->second];
  worker.holds[slot_index] = {since, until};
  Rebuild(found->second);
  return found->second;
}

void Fleet::SetTimes(int worker, int slot_index, absl::Time since, absl::Time until) {
  workers_[worker].holds[slot_index] = {since, until};
  Rebuild(worker);
}

void Fleet::Release(int index, int slot_index) {
  FleetWorker& worker = workers_[index];
  worker.holds.erase(slot_index);
  Rebuild(index);
  if (!worker.known && worker.holds.empty()) Drop(index);
}

int Fleet::ProfileNumber(const std::string& name) const {
  const auto found = profiles_.find(name);
  return found == profiles_.end() ? -1 : found->second;
}

int Fleet::PositionOf(int index, int slot_index) const {
  const auto& slots = workers_[index].slots;
  const auto found = std::lower_bound(slots.begin(), slots.end(), slot_index, [](const SlotState& state, int wanted) { return state.slot.index < wanted; });
  return found == slots.end() || found->slot.index != slot_index ? -1 : static_cast<int>(found - slots.begin());
}

int Fleet::Count(int index, const SlotFilter& filter) const {
  const auto kind = static_cast<size_t>(filter.kind);
  const bool free_only = filter.free_by == absl::InfinitePast();
  if (free_only && free_[kind][index] == 0) return 0;
  const FleetWorker& worker = workers_[index];
  if (free_only && worker.reserved == 0 && filter.memory_bytes <= worker.least_memory[kind]) return free_[kind][index];
  return static_cast<int>(std::count_if(worker.slots.begin(), worker.slots.end(), [&](const SlotState& state) { return filter.Matches(state); }));
}

int Fleet::Capacity(int index, const SlotFilter& filter) const {
  const FleetWorker& worker = workers_[index];
  const auto kind = static_cast<size_t>(filter.kind);
  if (filter.memory_bytes <= worker.least_memory[kind]) return worker.total[kind];
  return static_cast<int>(std::count_if(worker.slots.begin(), worker.slots.end(), [&](const SlotState& state) { return filter.Fits(state.slot); }));
}

void Fleet::Take(SlotRef ref, absl::Time since, absl::Time until) {
  SlotState& state = workers_[ref.worker].slots[ref.position];
  state.free_at = until;
  state.held_since = since;
  --free_[static_cast<size_t>(state.slot.kind)][ref.worker];
  taken_.push_back(ref);
}

void Fleet::Reserve(SlotRef ref, absl::Time from) {
  FleetWorker& worker = workers_[ref.worker];
  worker.slots[ref.position].reserved_from = from;
  ++worker.reserved;
  reserved_.push_back(ref);
}

void Fleet::Undo() {
  for (const SlotRef ref : taken_) {
    SlotState& state = workers_[ref.worker].slots[ref.position];
    state.free_at = state.held_since = absl::InfinitePast();
    ++free_[static_cast<size_t>(state.slot.kind)][ref.worker];
  }
  for (const SlotRef ref : reserved_) {
    workers_[ref.worker].slots[ref.position].reserved_from = absl::InfiniteFuture();
    workers_[ref.worker].reserved = 0;
  }
  taken_.clear();
  reserved_.clear();
}

}  // namespace bitstair::server::scheduling
