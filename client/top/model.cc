#include "client/top/model.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cstddef>
#include <tuple>

namespace bitstair::client::top {
namespace {

constexpr int kPageOfKeys = 10;  // lines that PgUp and PgDn move

int Group(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_RUNNING:
    case v1::JOB_STATE_CANCELLING:
      return 0;
    case v1::JOB_STATE_PENDING:
    case v1::JOB_STATE_RESOLVING:
      return 1;
    case v1::JOB_STATE_PAUSED:
      return 2;
    default:
      return 3;
  }
}

std::ptrdiff_t IndexOf(const Model& model, const std::string& job) {
  const auto found = std::find_if(model.jobs.begin(), model.jobs.end(), [&](const v1::Job& other) { return other.name() == job; });
  return found == model.jobs.end() ? -1 : found - model.jobs.begin();
}

void Move(const Model& model, View& view, int by) {
  if (view.page != Page::kJobs) {
    view.scroll = std::max(0, view.scroll + by);
    return;
  }
  if (model.jobs.empty()) return;
  const auto last = static_cast<std::ptrdiff_t>(model.jobs.size()) - 1;
  const std::ptrdiff_t at = std::clamp<std::ptrdiff_t>(IndexOf(model, view.selected) + by, 0, last);
  view.selected = model.jobs[static_cast<size_t>(at)].name();
}

}  // namespace

void SortJobs(std::vector<v1::Job>& jobs) {
  using google::protobuf::util::TimeUtil;
  const auto key = [](const v1::Job& job) { return std::tuple(Group(job.state()), -TimeUtil::TimestampToMilliseconds(job.create_time()), job.name()); };
  std::sort(jobs.begin(), jobs.end(), [&](const v1::Job& a, const v1::Job& b) { return key(a) < key(b); });
}

const v1::Job* SelectedJob(const Model& model, const View& view) {
  const std::ptrdiff_t at = IndexOf(model, view.selected);
  return at < 0 ? nullptr : &model.jobs[static_cast<size_t>(at)];
}

void Settle(const Model& before, const Model& now, View& view) {
  if (SelectedJob(now, view) != nullptr) return;
  if (now.jobs.empty()) {
    view.selected.clear();
    if (view.page == Page::kStages) view.page = Page::kJobs;
    return;
  }
  const std::ptrdiff_t place = std::clamp<std::ptrdiff_t>(IndexOf(before, view.selected), 0, static_cast<std::ptrdiff_t>(now.jobs.size()) - 1);
  view.selected = now.jobs[static_cast<size_t>(place)].name();
  if (view.page == Page::kStages) view.page = Page::kJobs;
}

bool OnKey(Key key, const Model& model, View& view) {
  if (view.help && key != Key::kNone) {
    view.help = false;
    return key != Key::kQuit;
  }
  const int all = 1'000'000;
  switch (key) {
    case Key::kQuit:
      return false;
    case Key::kHelp:
      view.help = true;
      break;
    case Key::kUp:
      Move(model, view, -1);
      break;
    case Key::kDown:
      Move(model, view, 1);
      break;
    case Key::kPageUp:
      Move(model, view, -kPageOfKeys);
      break;
    case Key::kPageDown:
      Move(model, view, kPageOfKeys);
      break;
    case Key::kHome:
      Move(model, view, -all);
      break;
    case Key::kEnd:
      Move(model, view, all);
      break;
    case Key::kEnter:
      if (view.page == Page::kJobs && SelectedJob(model, view) != nullptr) {
        view.page = Page::kStages;
      } else {
        view.page = Page::kJobs;
      }
      view.scroll = 0;
      break;
    case Key::kBack:
      view.page = Page::kJobs;
      view.scroll = 0;
      break;
    case Key::kWorkers:
      view.page = view.page == Page::kWorkers ? Page::kJobs : Page::kWorkers;
      view.scroll = 0;
      break;
    case Key::kNone:
    case Key::kOther:
      break;
  }
  return true;
}

}  // namespace bitstair::client::top
