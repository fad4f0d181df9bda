// When stages that have not ended will start and end, as far as such trainings were measured. Pure.
#pragma once

#include <functional>
#include <optional>

#include "absl/time/time.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// Sets expected_start_time and expected_end_time of the stages of `view` that have not ended, and the job's expected_end_time once all of them are known;
// clears what is not known. Stages come after their parents. left: seconds that stage i still takes once it runs. start: when a stage that waits for slots gets
// them; InfiniteFuture: not known. A stage that waits for its parent is taken to start at the parent's end: that branches wait for each other's slots is not
// foreseen.
void AddForecast(const std::function<std::optional<double>(int i)>& left, const std::function<absl::Time(int i)>& start, absl::Time now, v1::Job* view);

}  // namespace bitstair::server
