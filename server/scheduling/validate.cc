#include "server/scheduling/validate.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "server/scheduling/shapes.h"

namespace bitstair::server::scheduling {
namespace {

// A number of ranks beyond this is a slip of the pen.
constexpr int kMostRanks = 65536;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

}  // namespace

absl::Status Validate(const SchedulerConfig& config) {
  if (config.ageing <= absl::ZeroDuration()) return Invalid("ageing: must be above 0");
  if (config.share_window <= absl::ZeroDuration()) return Invalid("share_window: must be above 0");
  if (config.resize_interval < absl::ZeroDuration()) return Invalid("resize_interval: is below 0");
  return absl::OkStatus();
}

absl::Status Validate(const WorkerInfo& worker) {
  if (worker.id.empty()) return Invalid("worker id: is empty");
  std::set<int> indexes;
  for (const Slot& slot : worker.slots) {
    if (slot.index < 0) return Invalid("worker ", worker.id, ": slots: index ", slot.index, " is below 0");
    if (slot.memory_bytes < 0) return Invalid("worker ", worker.id, ": slots: memory_bytes ", slot.memory_bytes, " of slot ", slot.index, " is below 0");
    if (!indexes.insert(slot.index).second) return Invalid("worker ", worker.id, ": slots: index ", slot.index, " is there twice");
  }
  return absl::OkStatus();
}

absl::Status Validate(const StageRequest& stage, bool running) {
  if (stage.key.empty()) return Invalid("stage key: is empty");
  const auto invalid = [&](const auto&... parts) { return Invalid("stage ", stage.name.empty() ? stage.key : stage.name, ": ", parts...); };
  if (stage.waiters.empty() && !running) return invalid("waiters: there are none");
  std::set<std::string> jobs;
  for (const Waiter& waiter : stage.waiters) {
    if (waiter.job_id.empty()) return invalid("waiters: job_id is empty");
    if (!jobs.insert(waiter.job_id).second) return invalid("waiters: job ", waiter.job_id, " is there twice");
  }
  if (stage.min_ranks < 1) return invalid("min_ranks: ", stage.min_ranks, " is below 1");
  if (stage.max_ranks < stage.min_ranks) return invalid("max_ranks: ", stage.max_ranks, " is below min_ranks, ", stage.min_ranks);
  if (stage.max_ranks > kMostRanks) return invalid("max_ranks: ", stage.max_ranks, " is above ", kMostRanks);
  if (stage.shards < 0) return invalid("shards: ", stage.shards, " is below 0");
  if (AllowedRanks(ShapeKey::Of(stage)).empty()) {
    return invalid("ranks: no number from ", stage.min_ranks, " to ", stage.max_ranks, stage.layout == GangLayout::kSplitPair ? " is even" : " is possible",
                   stage.shards > 0 ? absl::StrCat(" and divides ", stage.shards, " shards") : "");
  }
  if (stage.memory_bytes < 0) return invalid("memory_bytes: ", stage.memory_bytes, " is below 0");
  if (stage.expected_duration && *stage.expected_duration < absl::ZeroDuration()) return invalid("expected_duration: is below 0");
  return absl::OkStatus();
}

absl::Status Validate(const std::string& queue, const QueueLimits& limits) {
  const auto invalid = [&](const auto&... parts) { return Invalid("queue ", queue.empty() ? "(default)" : queue, ": ", parts...); };
  if (!std::isfinite(limits.weight) || limits.weight <= 0) return invalid("weight: ", limits.weight, " is not above 0");
  if (limits.max_slots && *limits.max_slots < 0) return invalid("max_slots: ", *limits.max_slots, " is below 0");
  if (limits.max_jobs && *limits.max_jobs < 0) return invalid("max_jobs: ", *limits.max_jobs, " is below 0");
  return absl::OkStatus();
}

}  // namespace bitstair::server::scheduling
