// A scheduler whose decisions come true at once.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "tests/server/scheduling/builders.h"

namespace bitstair::server::scheduling {

class Cluster : public ::testing::Test {
 protected:
  Cluster() = default;

  void Configure(const SchedulerConfig& config) { scheduler_ = *Scheduler::Create(config); }
  void Add(const WorkerInfo& worker) { ASSERT_TRUE(scheduler_.UpsertWorker(worker).ok()); }
  // With a known duration if seconds is above 0.
  void Add(StageRequest stage, double seconds = 0) {
    if (seconds > 0) stage.expected_duration = absl::Seconds(seconds);
    const auto status = scheduler_.UpsertStage(stage);
    ASSERT_TRUE(status.ok()) << status;
    requests_[stage.key] = stage;
  }
  // What is decided at that second, as text; placed stages run from then on.
  std::vector<std::string> Decide(double seconds = 0) {
    const Decision decision = scheduler_.Decide(At(seconds));
    for (const Placement& placement : decision.placements) {
      const auto& duration = requests_[placement.key].expected_duration;
      const auto status = scheduler_.MarkRunning(placement.key, placement, At(seconds), duration ? At(seconds) + *duration : absl::InfiniteFuture());
      EXPECT_TRUE(status.ok()) << status;
    }
    return Shown(decision);
  }
  void End(const std::string& key, double seconds = 0) { ASSERT_TRUE(scheduler_.MarkEnded(key, At(seconds)).ok()); }
  // It stopped at a checkpoint and is to go on.
  void Requeue(const std::string& key, double seconds) {
    End(key, seconds);
    ASSERT_TRUE(scheduler_.UpsertStage(requests_[key]).ok());
  }
  std::string Why(const std::string& key, double seconds = 0) { return scheduler_.Explain(key, At(seconds))->sentence; }

  Scheduler scheduler_;
  std::map<std::string, StageRequest> requests_;
};

using Texts = std::vector<std::string>;

}  // namespace bitstair::server::scheduling
