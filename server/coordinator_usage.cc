// What is used: the counts that metrics show, and what queues had of the fleet, by which the scheduler shares it out.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/files/durable_file.h"
#include "server/coordinator.h"

namespace bitstair::server {
namespace {

constexpr size_t kMaxQueuesInCommit = 1000;  // the rest half a minute later
constexpr double kSlightUsage = 0.1;         // slot-seconds that are not worth a write

}  // namespace

void Coordinator::UpdateMetrics() {
  Metrics::Counts counts;
  for (const auto& [id, entry] : jobs_) {
    ++counts.jobs[entry.view.state()];
  }
  for (const auto& [name, stage] : state_.stages) ++counts.stages[stage.record.state()];
  for (const auto& [id, worker] : workers_) {
    ++counts.workers[worker.state];
    if (worker.stream == nullptr) continue;
    const int busy = static_cast<int>(BusySlots(worker).size());
    counts.busy_slots += busy;
    counts.free_slots += worker.hello.slots_size() - busy;
  }
  counts.cordoned_workers = static_cast<int>(std::count_if(workers_.begin(), workers_.end(), [&](const auto& w) { return cordoned_.count(w.first) > 0; }));
  const scheduling::WaitingCounts waiting = scheduler_.CountWaiting();
  counts.waiting = {
      {"slots", waiting.slots}, {"quota", waiting.quota}, {"yields", waiting.yields}, {"impossible", waiting.impossible}, {"delay", waiting.delayed}};
  for (const auto& [name, since] : ready_since_) {
    const auto stage = state_.stages.find(name);
    if (stage != state_.stages.end() && !IsWanted(state_, stage->second)) ++counts.waiting["paused"];
  }
  const core::Disk disk = core::DiskOf(artifacts_->directory());
  counts.disk_size_bytes = disk.size_bytes;
  counts.disk_free_bytes = disk.free_bytes;
  for (const scheduling::QueueUsage& queue : scheduler_.Usage(Now())) counts.queues[queue.name] = {queue.slots, queue.jobs, queue.waiting};
  metrics_->SetCounts(counts);
}

void Coordinator::SaveUsage() {
  const absl::Time now = Now();
  StoreCommit commit;
  commit.fence = fence_;
  for (const scheduling::QueueUsage& queue : scheduler_.Usage(now)) {
    double& saved = saved_usage_[queue.name];
    if (std::abs(queue.slot_seconds - saved) < kSlightUsage) continue;
    saved = queue.slot_seconds;
    records::QueueRecord record;
    record.set_name(queue.name);
    record.set_slot_seconds(queue.slot_seconds);
    SetTime(now, record.mutable_time());
    commit.puts.push_back({"queue/" + queue.name, record.SerializeAsString()});
    if (commit.puts.size() == kMaxQueuesInCommit) break;
  }
  if (commit.puts.empty()) return;
  store_->Commit(std::move(commit), [this](absl::StatusOr<int64_t> revision) {
    if (!revision.ok()) Post([this, status = revision.status()] { Fatal(status); });
  });
}

}  // namespace bitstair::server
