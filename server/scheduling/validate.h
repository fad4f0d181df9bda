// Checks of what the scheduler is told. INVALID_ARGUMENT naming the field.
#pragma once

#include "absl/status/status.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

absl::Status Validate(const SchedulerConfig& config);
absl::Status Validate(const WorkerInfo& worker);
// running: it may then have no waiters left.
absl::Status Validate(const StageRequest& stage, bool running);
absl::Status Validate(const std::string& queue, const QueueLimits& limits);

}  // namespace bitstair::server::scheduling
