#include "server/forecast.h"

#include <algorithm>
#include <map>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "server/domain.h"

namespace bitstair::server {
namespace {

// Walks through the events in the order of their times: a stage is ready, or has ended.
class Timeline {
 public:
  Timeline(const ForecastInput& input, absl::Time now, const v1::Job& view)
      : input_(input), begins_(view.stages_size(), absl::InfiniteFuture()), ends_(view.stages_size(), absl::InfiniteFuture()), children_(view.stages_size()) {
    std::map<std::string, int> index;
    for (int i = 0; i < view.stages_size(); ++i) {
      const v1::Stage& stage = view.stages(i);
      index[stage.spec().name()] = i;
      if (IsEnded(stage.state())) continue;
      const auto parent = index.find(stage.spec().parent());
      if (stage.state() == v1::STAGE_STATE_BLOCKED && parent != index.end() && !IsEnded(view.stages(parent->second).state())) {
        children_[parent->second].push_back(i);
      } else if (stage.state() == v1::STAGE_STATE_PENDING) {
        ready_.emplace(std::max(now, input_.start(i)), i);
      } else if (stage.state() == v1::STAGE_STATE_BLOCKED) {
        ready_.emplace(now, i);
      } else {
        Begin(i, now);
      }
    }
  }

  void Run() {
    while (!ready_.empty() || !running_.empty()) {
      const absl::Time at =
          std::min(ready_.empty() ? absl::InfiniteFuture() : ready_.top().first, running_.empty() ? absl::InfiniteFuture() : running_.top().first);
      if (at == absl::InfiniteFuture()) return;
      for (; !running_.empty() && running_.top().first <= at; running_.pop()) {
        const int ended = running_.top().second;
        used_ -= input_.slots(ended);
        for (const int child : children_[ended]) ready_.emplace(at, child);
      }
      for (; !ready_.empty() && ready_.top().first <= at; ready_.pop()) waiting_.push_back(ready_.top().second);
      // As the scheduler does, a stage that fits goes ahead of one that does not.
      std::erase_if(waiting_, [&](int i) {
        const bool fits = input_.room <= 0 || used_ == 0 || used_ + input_.slots(i) <= input_.room;
        if (fits) Begin(i, at);
        return fits;
      });
    }
  }

  // Of stage i; InfiniteFuture: not known.
  absl::Time begin(int i) const { return begins_[i]; }
  absl::Time end(int i) const { return ends_[i]; }

 private:
  using Event = std::pair<absl::Time, int>;
  using Events = std::priority_queue<Event, std::vector<Event>, std::greater<>>;

  void Begin(int i, absl::Time at) {
    begins_[i] = at;
    used_ += input_.slots(i);
    const std::optional<double> seconds = input_.left(i);
    if (seconds.has_value()) ends_[i] = at + absl::Seconds(*seconds);
    running_.emplace(ends_[i], i);
  }

  const ForecastInput& input_;
  std::vector<absl::Time> begins_, ends_;
  std::vector<std::vector<int>> children_;
  Events ready_, running_;
  std::vector<int> waiting_;  // for room, in order
  int used_ = 0;
};

}  // namespace

void AddForecast(const ForecastInput& input, absl::Time now, v1::Job* view) {
  Timeline timeline(input, now, *view);
  timeline.Run();
  absl::Time last = absl::InfinitePast();
  for (int i = 0; i < view->stages_size(); ++i) {
    v1::Stage& stage = *view->mutable_stages(i);
    stage.clear_expected_start_time();
    stage.clear_expected_end_time();
    if (IsEnded(stage.state())) continue;
    const absl::Time begin = timeline.begin(i), end = timeline.end(i);
    const bool waits = stage.state() == v1::STAGE_STATE_PENDING || stage.state() == v1::STAGE_STATE_BLOCKED;
    if (waits && begin < absl::InfiniteFuture()) SetTime(begin, stage.mutable_expected_start_time());
    if (end < absl::InfiniteFuture()) SetTime(end, stage.mutable_expected_end_time());
    last = std::max(last, end);
  }
  view->clear_expected_end_time();
  if (!IsEnded(view->state()) && last > absl::InfinitePast() && last < absl::InfiniteFuture()) SetTime(last, view->mutable_expected_end_time());
}

}  // namespace bitstair::server
