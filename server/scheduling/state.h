// All that the scheduler knows. Plain values; server/scheduling/scheduler.h keeps them consistent.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/scheduling/backlog.h"
#include "server/scheduling/fleet.h"
#include "server/scheduling/queues.h"
#include "server/scheduling/shapes.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

// What became of a stage in one decision.
enum class Outcome {
  kPlaced,
  kWaits,       // for slots
  kYields,      // to the stage that it was stopped for
  kOverQuota,   // no queue of its waiters has room
  kImpossible,  // the fleet could not hold it if nothing else ran
};

struct HeldSlot {
  int worker = 0;  // in the fleet
  int slot = 0;    // its index on the worker
};

struct StageState {
  StageRequest request;
  Priority priority = Priority::kLow;  // highest of its waiters
  int shape = 0;
  int64_t sequence = 0;
  std::vector<LinePlace> places;  // empty while it runs or is delayed
  bool delayed = false;
  bool yields = false;  // in yields_to
  int asked = 0;        // stages that run and were asked to stop for it, as in makes_way
  // While it runs:
  bool running = false;
  Placement placement;
  std::vector<HeldSlot> held;  // by rank
  absl::Time start, expected_end;
  std::vector<Charge> charges;
  Priority preempted_as = Priority::kLow;  // its class with the ageing that it had when it started: who waited long is not stopped again at once
  bool stopping = false;                   // asked to stop at a checkpoint
  std::string stopping_for;                // for which stage; empty: none, or it is gone
  int resize_to = 0;                       // ranks that it was asked to go on with
  // In which decision it was looked at last, and what came of it.
  int64_t round = 0;
  Outcome outcome = Outcome::kWaits;
};

// A stage that waits, with slots reserved for it. Nobody behind it may delay it.
struct Head {
  int stage = 0;
  std::string key, name;
  SlotKind kind = SlotKind::kCpu;
  std::vector<char> workers;                  // by index in the fleet: is it one of those that the stage may use
  absl::Time start = absl::InfiniteFuture();  // expected; InfiniteFuture: not known
};

struct State {
  SchedulerConfig config;
  Fleet fleet;
  Shapes shapes;
  Queues queues;
  Backlog backlog;
  std::vector<StageState> stages;
  std::vector<int> unused_stages;
  absl::flat_hash_map<std::string, int> index;   // never iterated: its order differs from run to run
  std::set<std::pair<absl::Time, int>> delayed;  // by wait_until
  // Running ones that may be asked to stop, by priority, and how many slots they have by worker.
  std::array<std::set<int>, 3> preemptible;
  std::array<std::vector<int>, 3> preemptible_slots;
  std::set<int> elastic;                                   // running ones
  std::map<std::string, std::string> yields_to;            // key of a stage that was asked to stop -> key of the one that goes first
  std::map<std::string, std::set<std::string>> makes_way;  // key of a waiting stage -> keys of those that run and were asked to stop for it
  std::vector<Head> heads;                                 // of the last decision, the first one first
  absl::Time clock = absl::InfinitePast();                 // latest time heard of
  int64_t next_sequence = 0;
  int64_t round = 0;
  int pending = 0;

  // -1: unknown.
  int Find(const std::string& key) const {
    const auto found = index.find(key);
    return found == index.end() ? -1 : found->second;
  }
};

// Puts a ready stage into its lines; takes it out of them, or out of the delayed ones.
void Enter(State& state, int stage);
void Leave(State& state, int stage);

// The class of who has waited so long.
Priority Aged(const SchedulerConfig& config, Priority priority, absl::Duration waited);

// May a running stage be asked to stop for one of a higher class?
void AddPreemptible(State& state, int stage);
void RemovePreemptible(State& state, int stage);

// server/scheduling/round.cc
Decision DecideRound(State& state, absl::Time now);

// server/scheduling/explain.cc
Explanation ExplainStage(const State& state, int stage, absl::Time now);

}  // namespace bitstair::server::scheduling
