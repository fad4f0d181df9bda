// The coordinator's state as server/scheduling/ sees it: which stages wait, which hold slots, what workers offer. Names of stages are its keys.
// Pure; owned by the coordinator's strand.
#pragma once

#include <map>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "bitstair/v1/fleet.pb.h"
#include "server/domain.h"
#include "server/duration_estimates.h"
#include "server/scheduling/scheduler.h"

namespace bitstair::server {

// What a worker must have for a stage: the data set with its digest as the stage's jobs name it, and the same of initial weights. Workers that answered so have
// it.
std::string DataKey(const v1::DataSpec& data, const std::string& digest, const std::string& weights_path, const std::string& weights_digest);
std::string DataKey(const v1::StageSpec& stage);

class FleetScheduler {
 public:
  // Seconds per epoch are from `estimates`; it outlives this.
  FleetScheduler(scheduling::Scheduler scheduler, const DurationEstimates* estimates) : scheduler_(std::move(scheduler)), estimates_(estimates) {}

  // reserved: slots that given-up attempts may still hold. offers: data keys.
  void SetWorker(const std::string& id, const v1::WorkerHello& hello, scheduling::WorkerState state, const std::set<int>& reserved,
                 const std::set<std::string>& offers);
  void RemoveWorker(const std::string& id);

  // After anything about the stage changed, its jobs' records included.
  void UpdateStage(const State& state, const Stage& stage, absl::Time now);

  scheduling::Decision Decide(absl::Time now) { return scheduler_.Decide(now); }

  scheduling::WaitingCounts CountWaiting() const { return scheduler_.CountWaiting(); }

  // With "default" for the queue of jobs that name none.
  std::vector<scheduling::QueueUsage> Usage(absl::Time now) const;
  absl::Status RestoreUsage(const std::string& queue, double slot_seconds, absl::Time saved);

  // When a waiting stage is expected to get its slots, as of the last decision; InfiniteFuture: not known, or it does not wait.
  absl::Time ExpectedStart(const std::string& stage, absl::Time now) const;

  // What a waiting stage waits for, for people; "" for others.
  std::string Explain(const std::string& stage, absl::Time now) const;

 private:
  scheduling::StageRequest Request(const State& state, const Stage& stage) const;

  scheduling::Scheduler scheduler_;
  const DurationEstimates* estimates_;
  std::map<std::string, std::string> hosts_;  // worker id -> host
  std::set<std::string> waiting_, running_;   // stages that the scheduler knows
};

}  // namespace bitstair::server
