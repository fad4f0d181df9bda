// What the scheduler is told and what it decides, as plain values. No protobuf, no I/O, no clock, no threads.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace bitstair::server::scheduling {

enum class SlotKind { kCpu, kGpu };
enum class WorkerState {
  kAvailable,
  kCordoned,     // takes no new stages; what runs there goes on
  kUnavailable,  // as if it were not there; what runs there keeps its slots until MarkEnded
};
enum class Priority { kLow, kNormal, kHigh };
enum class GangLayout {
  kOneSet,
  // A split guided pair: two equal sets, both or nothing. Of n ranks, 0 .. n/2-1 are one set and n/2 .. n-1 the other; rank i is placed beside rank i + n/2.
  kSplitPair,
};

struct Slot {
  int index = 0;
  SlotKind kind = SlotKind::kCpu;
  int island = -1;           // slots of one worker with equal numbers are close to each other (NVLink, NUMA node); -1: not known, all such are one island
  int64_t memory_bytes = 0;  // 0: not known, counts as enough
};

struct WorkerInfo {
  std::string id;
  std::string host;    // empty: the worker is a host of its own
  std::string subnet;  // empty: not known
  std::map<std::string, std::string> labels;
  std::string numeric_profile;
  std::vector<Slot> slots;
  std::set<int> busy;  // indexes of slots taken by what the scheduler knows nothing of; what it was told by MarkRunning need not be here
  WorkerState state = WorkerState::kAvailable;
  std::set<std::string> data;  // keys of the data sets that it offers, StageRequest::data_key
};

// A job that waits for a stage, or for whose sake it runs.
struct Waiter {
  std::string job_id;
  std::string queue;  // empty: the default queue
  Priority priority = Priority::kNormal;
  absl::Time submitted;
};

struct StageRequest {
  std::string key;   // the stage key
  std::string name;  // as people know it: jobs/ID/stages/W4A4
  std::vector<Waiter> waiters;
  // The gang's ranks, all sets together. Equal: fixed. Otherwise elastic: the stage starts with what fits, and may be stopped at a checkpoint to go on with
  // another number.
  int min_ranks = 1;
  int max_ranks = 1;
  int shards = 0;  // only numbers of ranks that divide it are used; 0: all
  GangLayout layout = GangLayout::kOneSet;
  bool one_host = false;                            // never spread over hosts
  int64_t memory_bytes = 0;                         // per slot; 0: not known, fits everywhere
  std::string data_key;                             // empty: every worker has what it needs
  std::string data_name;                            // as people know the data set
  std::map<std::string, std::string> labels;        // the worker must have all of these
  std::set<std::string> avoid_hosts;                // where it failed; used only if the rest of the fleet could never hold it
  std::string preferred_profile;                    // numeric profile whose workers are tried alone first; empty: none
  std::optional<absl::Duration> expected_duration;  // with min_ranks; none: not known, so it is never started on reserved slots
  bool preemptible = false;
  absl::Time wait_until = absl::InfinitePast();  // not before this time (a retry's delay)
};

struct RankSlot {
  std::string worker_id;
  int slot = 0;
  bool operator==(const RankSlot&) const = default;
};

struct Placement {
  std::string key;
  std::vector<RankSlot> ranks;  // by rank
  SlotKind kind = SlotKind::kCpu;
  std::string numeric_profile;  // of its workers; "mixed" if they differ
  bool operator==(const Placement&) const = default;
};

// Of a running stage: stop at a checkpoint. `makes_room_for` goes first when both wait.
struct Preemption {
  std::string key;
  std::string makes_room_for;
  bool operator==(const Preemption&) const = default;
};

// Of a running elastic stage: stop at a checkpoint and go on with about `ranks` ranks; how many they become is decided when it is placed again.
struct Resize {
  std::string key;
  int ranks = 0;
  std::string makes_room_for;  // empty: it grows
  bool operator==(const Resize&) const = default;
};

struct Decision {
  std::vector<Placement> placements;
  std::vector<Preemption> preemptions;
  std::vector<Resize> resizes;
  absl::Time wake_at = absl::InfiniteFuture();  // the earliest retry time of a delayed stage: Decide again then, whatever happens before
  bool operator==(const Decision&) const = default;
};

struct QueueLimits {
  double weight = 1;             // above 0; a queue of weight 2 gets twice the slot time of one of weight 1
  std::optional<int> max_slots;  // at a time; none: no limit
  std::optional<int> max_jobs;   // with a running stage, at a time; none: no limit
};

struct SchedulerConfig {
  absl::Duration ageing = absl::Hours(24);             // a stage goes up one class each time it has waited this long; infinite: never
  absl::Duration share_window = absl::Hours(24);       // time constant of the decay of slot time used
  absl::Duration resize_interval = absl::Minutes(10);  // a stage is not resized earlier after its start, nor grown that shortly before its end
  bool preemption = true;
  bool elasticity = true;
  // For comparison (bench/scheduler_sim.cc). false: nothing starts after the first stage that has to wait.
  bool backfill = true;
  // false: by submit time alone, without classes and shares.
  bool policy = true;
  absl::TimeZone time_zone = absl::UTCTimeZone();  // of times in sentences
};

// Stages that do not run, by what the last decision made of them.
struct WaitingCounts {
  int slots = 0;       // there is no place
  int quota = 0;       // no queue of their waiters has room
  int yields = 0;      // to the stage that they were stopped for
  int impossible = 0;  // the fleet could not hold them if nothing else ran
  int delayed = 0;     // until a retry's time
};

// What a queue has and had: `slot_seconds` is the decayed sum by which shares are compared.
struct QueueUsage {
  std::string name;  // "": the queue of jobs that name none
  double slots = 0;  // held now
  int jobs = 0;      // with a running stage
  int waiting = 0;   // stages that do not run; one that several queues wait for counts in each
  double slot_seconds = 0;
};

struct Explanation {
  std::string sentence;                                // "waits for 2 slots; 1 of 2 is free"
  std::string unblocked_by;                            // "2 slots become free"
  absl::Time expected_start = absl::InfiniteFuture();  // InfiniteFuture: not known
};

}  // namespace bitstair::server::scheduling
