// Decides which stage runs where, in which order, and who makes room for whom (docs/scheduling.md). Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduling/state.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

// A value: copies are independent, and equal histories of calls give equal decisions. Not thread-safe. The caller reports what happens and asks for a decision
// after each event or group of events:
//   a) UpsertWorker, UpsertStage, ... say what is there;
//   b) Decide proposes; it takes no slot by itself;
//   c) for each placement that the caller makes real it calls MarkRunning, before the next Decide (a placement that it ignores is proposed again);
//   d) stages named in preemptions and resizes are asked once; when their ranks have ended, MarkEnded, and UpsertStage again if they are to go on.
// Errors leave the state as it was. Messages name the field.
class Scheduler {
 public:
  Scheduler() = default;
  // INVALID_ARGUMENT: a duration that is not above 0.
  static absl::StatusOr<Scheduler> Create(const SchedulerConfig& config);

  // Adds the worker or replaces all that is known of it. Slots held by running stages stay held. INVALID_ARGUMENT: no id, an index below zero or twice, memory
  // below zero.
  absl::Status UpsertWorker(const WorkerInfo& worker);
  // Forgets the worker, but not who holds its slots: if it comes back they are still held. NOT_FOUND: unknown.
  absl::Status RemoveWorker(const std::string& id);

  // Adds a pending stage, or replaces what is known of one; of a running one, also its waiters. INVALID_ARGUMENT: no key, no waiters (unless it runs), ranks
  // below 1 or the wrong way, no number of ranks that shards and layout allow, memory or duration below zero, the same job twice among the waiters.
  absl::Status UpsertStage(const StageRequest& stage);
  // Forgets a pending stage. NOT_FOUND: unknown. FAILED_PRECONDITION: it runs; MarkEnded first.
  absl::Status RemoveStage(const std::string& key);

  // The stage `key`, pending so far, holds these slots from now on. Workers may be unknown as yet. Again for a running stage with the same slots: its times are
  // replaced. expected_end: InfiniteFuture if not known. NOT_FOUND: unknown stage. INVALID_ARGUMENT: no ranks, or a slot twice. FAILED_PRECONDITION: a slot is
  // held by another stage, or the stage runs elsewhere.
  absl::Status MarkRunning(const std::string& key, const Placement& placement, absl::Time start, absl::Time expected_end);
  // The ranks of a running stage have ended, for whatever reason: its slots are free and the stage is forgotten. NOT_FOUND: unknown. FAILED_PRECONDITION: not
  // running.
  absl::Status MarkEnded(const std::string& key, absl::Time at);

  // Weight and quotas; they hold for what starts later. A queue that was never set has weight 1 and no quota. INVALID_ARGUMENT: weight not above 0 or not
  // finite, quota below zero.
  absl::Status SetQueue(const std::string& name, const QueueLimits& limits);

  // All that can be done at `now`.
  Decision Decide(absl::Time now);

  // Why the stage does not run, as of the last Decide. NOT_FOUND: unknown.
  absl::StatusOr<Explanation> Explain(const std::string& key, absl::Time now) const;

  WaitingCounts CountWaiting() const;

  // All queues that were ever heard of.
  std::vector<QueueUsage> Usage(absl::Time now) const;
  // What a queue had used when its state was saved, before anything of it runs here. INVALID_ARGUMENT: below zero or not finite. FAILED_PRECONDITION: it has
  // slots already.
  absl::Status RestoreUsage(const std::string& name, double slot_seconds, absl::Time saved);

  // Number of stages that are known and do not run; of stages that run.
  int pending() const { return state_.pending; }
  int running() const { return static_cast<int>(state_.index.size()) - state_.pending; }
  // What counts against the queue's quotas at present. A stage with waiters of several queues counts in each with its part.
  double SlotsOf(const std::string& queue) const;
  int JobsOf(const std::string& queue) const;

 private:
  State state_;
};

}  // namespace bitstair::server::scheduling
