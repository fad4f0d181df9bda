#include "server/forecast.h"

#include <algorithm>
#include <map>
#include <string>

#include "server/domain.h"

namespace bitstair::server {

void AddForecast(const std::function<std::optional<double>(int i)>& left, const std::function<absl::Time(int i)>& start, absl::Time now, v1::Job* view) {
  std::map<std::string, absl::Time> ends;  // of the stages so far
  absl::Time last = absl::InfinitePast();
  for (int i = 0; i < view->stages_size(); ++i) {
    v1::Stage& stage = *view->mutable_stages(i);
    stage.clear_expected_start_time();
    stage.clear_expected_end_time();
    absl::Time& end = ends[stage.spec().name()] = absl::InfinitePast();
    if (IsEnded(stage.state())) continue;
    const auto parent = ends.find(stage.spec().parent());
    absl::Time begin = now;
    if (stage.state() == v1::STAGE_STATE_PENDING) {
      begin = std::max(now, start(i));
    } else if (stage.state() == v1::STAGE_STATE_BLOCKED && parent != ends.end()) {
      begin = std::max(now, parent->second);
    }
    const std::optional<double> seconds = left(i);
    end = seconds.has_value() ? begin + absl::Seconds(*seconds) : absl::InfiniteFuture();
    const bool waits = stage.state() == v1::STAGE_STATE_PENDING || stage.state() == v1::STAGE_STATE_BLOCKED;
    if (waits && begin < absl::InfiniteFuture()) SetTime(begin, stage.mutable_expected_start_time());
    if (end < absl::InfiniteFuture()) SetTime(end, stage.mutable_expected_end_time());
    last = std::max(last, end);
  }
  view->clear_expected_end_time();
  if (!IsEnded(view->state()) && last > absl::InfinitePast() && last < absl::InfiniteFuture()) SetTime(last, view->mutable_expected_end_time());
}

}  // namespace bitstair::server
