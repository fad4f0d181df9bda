// When stages that have not ended will start and end, as far as such trainings were measured. Pure.
#pragma once

#include <functional>
#include <optional>

#include "absl/time/time.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// What is known of the stages of a view, by index.
struct ForecastInput {
  std::function<std::optional<double>(int i)> left;  // seconds that the stage still takes once it runs
  std::function<absl::Time(int i)> start;            // when a stage that waits for slots gets them; InfiniteFuture: not known
  std::function<int(int i)> slots;                   // that the stage holds, or will
  int room = 0;                                      // slots that these stages can have at one time, whoever holds them now; 0: not known, and no limit
};

// Sets expected_start_time and expected_end_time of the stages of `view` that have not ended, and the job's expected_end_time once all of them are known;
// clears what is not known. Stages come after their parents. A stage that waits for its parent starts when that has ended and the job's own stages leave it
// enough of `room`; other jobs' slots count as far as they delay the stages that wait for slots now.
void AddForecast(const ForecastInput& input, absl::Time now, v1::Job* view);

}  // namespace bitstair::server
