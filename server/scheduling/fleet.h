// The workers and who holds their slots.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

struct SlotState {
  Slot slot;
  // InfinitePast: free. Otherwise when it is expected to be; InfiniteFuture: not known.
  absl::Time free_at = absl::InfinitePast();
  absl::Time held_since = absl::InfinitePast();
  // Within one decision: who takes it must have ended by then. InfiniteFuture: not reserved. InfinitePast: nobody else may take it.
  absl::Time reserved_from = absl::InfiniteFuture();
};

// Position of a slot: index of its worker in the fleet, position in FleetWorker::slots.
struct SlotRef {
  int worker = 0;
  int position = 0;
  bool operator==(const SlotRef&) const = default;
};

// Which slots count. free_by InfinitePast: free ones; later: also those that are expected to be free by then. end: of the stage that would take them;
// InfiniteFuture: not known.
struct SlotFilter {
  SlotKind kind = SlotKind::kCpu;
  int64_t memory_bytes = 0;
  absl::Time free_by = absl::InfinitePast();
  absl::Time end = absl::InfiniteFuture();

  bool Fits(const Slot& slot) const { return slot.kind == kind && (slot.memory_bytes == 0 || slot.memory_bytes >= memory_bytes); }
  bool Matches(const SlotState& state) const { return state.free_at <= free_by && state.reserved_from >= end && Fits(state.slot); }
};

struct FleetWorker {
  WorkerInfo info;
  bool known = false;                     // false: only its held slots are remembered
  int host = 0, subnet = 0, profile = 0;  // numbers for equal names
  std::vector<SlotState> slots;           // by index
  struct Hold {
    absl::Time since, until;
  };
  std::map<int, Hold> holds;  // by slot index
  // By kind: slots in all, and the smallest memory of one (so that most questions need no look at single slots).
  std::array<int, 2> total{};
  std::array<int64_t, 2> least_memory{};
  int reserved = 0;  // slots reserved in this decision

  bool usable() const { return known && info.state == WorkerState::kAvailable; }
};

class Fleet {
 public:
  // Returns the worker's index, which stays the same while it is known or holds slots.
  int Upsert(const WorkerInfo& info);
  // Returns its index; -1: unknown. Slots that are held stay so.
  int Remove(const std::string& id);

  bool Held(const std::string& worker_id, int slot_index) const;
  // The slot is not held. Returns the worker's index.
  int Hold(const std::string& worker_id, int slot_index, absl::Time since, absl::Time until);
  void SetTimes(int worker, int slot_index, absl::Time since, absl::Time until);
  void Release(int worker, int slot_index);

  const FleetWorker& worker(int index) const { return workers_[index]; }
  int size() const { return static_cast<int>(workers_.size()); }
  int usable_workers() const { return usable_; }
  int hosts() const { return static_cast<int>(hosts_.size()); }
  int subnets() const { return static_cast<int>(subnets_.size()); }
  // -1: no worker has it.
  int ProfileNumber(const std::string& name) const;
  // Position in slots; -1: the worker has no such slot at present.
  int PositionOf(int worker, int slot_index) const;
  const SlotState& at(SlotRef ref) const { return workers_[ref.worker].slots[ref.position]; }

  // Slots of a worker that match.
  int Count(int worker, const SlotFilter& filter) const;
  // Slots of a worker of that kind with enough memory, free or not.
  int Capacity(int worker, const SlotFilter& filter) const;

  // What a decision does with slots for the time that it lasts; Undo takes all of it back.
  void Take(SlotRef ref, absl::Time since, absl::Time until);
  void Reserve(SlotRef ref, absl::Time from);
  void Undo();

 private:
  void Rebuild(int index);
  void Drop(int index);

  std::vector<FleetWorker> workers_;
  std::array<std::vector<int>, 2> free_;  // free slots by kind and worker, close together: a decision asks for them all the time
  std::map<std::string, int> index_;
  std::vector<int> unused_;
  std::map<std::string, int> hosts_, subnets_, profiles_;
  int usable_ = 0;
  std::vector<SlotRef> taken_, reserved_;
};

}  // namespace bitstair::server::scheduling
