#include "client/top/render.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/staircase.h"
#include "client/table.h"
#include "client/top/panels.h"

namespace bitstair::client::top {
namespace {

constexpr int kLeastColumns = 20;
// Below so many rows the workers give way to the jobs.
constexpr int kRowsForWorkers = 14;
constexpr int kStaircaseRows = 12;

struct Painter {
  const Model& model;
  const View& view;
  int rows;  // 0: no limit
  int columns;
  bool unicode;
};

Line TextLine(const Painter& p, const std::string& text, Tone tone = Tone::kPlain) {
  return {{{Shorten(text, p.columns, p.unicode), tone}}};
}

// `left` and, where there is room, `right` at the other end.
Line Ends(const Painter& p, const std::string& left, Tone tone, const std::string& right) {
  const int gap = p.columns - Columns(left) - Columns(right);
  if (gap < 2) return TextLine(p, left, tone);
  return {{{left, tone}, {std::string(static_cast<size_t>(gap), ' '), Tone::kPlain}, {right, Tone::kFaint}}};
}

std::string Plural(int count, const std::string& one) {
  return absl::StrCat(count, " ", one, count == 1 ? "" : "s");
}

std::string FleetSummary(const Model& model) {
  int ready = 0;
  int unreachable = 0;
  int cordoned = 0;
  int slots = 0;
  int free_slots = 0;
  for (const v1::Worker& worker : model.workers) {
    if (worker.state() == v1::WORKER_STATE_UNREACHABLE) ++unreachable;
    if (worker.state() != v1::WORKER_STATE_READY) continue;
    ++ready;
    if (worker.cordoned()) ++cordoned;
    slots += worker.slots_size();
    free_slots += worker.free_slots();
  }
  std::string text = absl::StrCat(Plural(ready, "worker"), " ready, ", slots - free_slots, " of ", Plural(slots, "slot"), " busy");
  if (cordoned > 0) absl::StrAppend(&text, ", ", cordoned, " cordoned");
  if (unreachable > 0) absl::StrAppend(&text, ", ", unreachable, " unreachable");
  return text;
}

std::string JobsSummary(const Model& model) {
  int running = 0;
  int waiting = 0;
  int paused = 0;
  for (const v1::Job& job : model.jobs) {
    running += job.state() == v1::JOB_STATE_RUNNING || job.state() == v1::JOB_STATE_CANCELLING ? 1 : 0;
    waiting += job.state() == v1::JOB_STATE_PENDING || job.state() == v1::JOB_STATE_RESOLVING ? 1 : 0;
    paused += job.state() == v1::JOB_STATE_PAUSED ? 1 : 0;
  }
  return absl::StrCat(Plural(running, "job"), running == 1 ? " runs, " : " run, ", waiting, waiting == 1 ? " waits" : " wait",
                      paused > 0 ? absl::StrCat(", ", paused, " paused") : "");
}

void Header(const Painter& p, Frame& frame) {
  const std::string clock = absl::FormatTime("%H:%M:%S UTC", absl::FromUnixMillis(static_cast<int64_t>(p.model.now * 1000)), absl::UTCTimeZone());
  frame.push_back(Ends(p, "bitstair  " + p.model.coordinator, Tone::kStrong, clock));
  if (!p.model.error.empty()) {
    frame.push_back(
        TextLine(p, absl::StrCat(p.model.loaded ? "no contact for " : "not reached for ", Duration(p.model.silent_seconds), ", trying again: ", p.model.error),
                 Tone::kBad));
  } else if (!p.model.loaded) {
    frame.push_back(TextLine(p, "connecting ...", Tone::kWaiting));
  } else {
    const std::string fleet = FleetSummary(p.model);
    const std::string jobs = JobsSummary(p.model);
    if (Columns(fleet) + Columns(jobs) + 2 <= p.columns) {
      frame.push_back(TextLine(p, fleet + "; " + jobs));
    } else {
      frame.push_back(TextLine(p, fleet));
      frame.push_back(TextLine(p, jobs));
    }
  }
}

// Of `lines` (a header and rows) `room` lines, such that row `wanted` is among them.
void AppendWindow(const std::vector<Line>& lines, int room, int wanted, Frame& frame) {
  if (room <= 0 || lines.empty()) return;
  frame.push_back(lines[0]);
  const int rows = static_cast<int>(lines.size()) - 1;
  const int shown = std::min(rows, room - 1);
  const int first = std::clamp(wanted - shown / 2, 0, rows - shown);
  frame.insert(frame.end(), lines.begin() + 1 + first, lines.begin() + 1 + first + shown);
}

// As AppendWindow, from row `first` on or as far down as there are rows.
void AppendScrolled(const std::vector<Line>& lines, int room, int first, Frame& frame) {
  if (room <= 0 || lines.empty()) return;
  const int rows = static_cast<int>(lines.size()) - 1;
  const int shown = std::min(rows, room - 1);
  AppendWindow(lines, room, std::clamp(first, 0, rows - shown) + shown / 2, frame);
}

void JobsPage(const Painter& p, Frame& frame) {
  const std::vector<Line> workers = WorkersPanel(p.model, p.columns, p.unicode);
  const std::vector<Line> jobs = JobsPanel(p.model, p.rows > 0 ? p.view.selected : "", p.columns, p.unicode);
  const bool all = p.rows == 0;
  int room = p.rows - static_cast<int>(frame.size()) - 1;  // the keys
  // Why the selected job waits or has failed may not fit its own line.
  const v1::Job* selected = SelectedJob(p.model, p.view);
  std::string detail;
  if (!all && selected != nullptr && p.rows >= kRowsForWorkers) {
    detail = IsEnded(selected->state()) ? selected->reason() : WaitReason(*selected);
    if (!detail.empty()) detail = absl::StrCat(ShortName(selected->name()), ": ", detail);
  }
  if (!detail.empty()) --room;
  if (all || (p.rows >= kRowsForWorkers && !p.model.workers.empty())) {
    frame.emplace_back();
    const int lines = static_cast<int>(workers.size());
    // Jobs take what they need of two thirds.
    const int most = all ? lines : std::max({3, room / 3, room - static_cast<int>(jobs.size()) - 2});
    const bool fits = lines <= most;
    const int shown = fits ? lines : most - 1;
    frame.insert(frame.end(), workers.begin(), workers.begin() + shown);
    if (!fits) frame.push_back(TextLine(p, absl::StrCat("and ", Plural(lines - shown, "more worker"), "; w shows all"), Tone::kFaint));
    if (all && p.model.workers.empty()) frame.push_back(TextLine(p, "no worker is connected", Tone::kFaint));
    room -= shown + (fits ? 1 : 2);
  }
  if (all || p.rows >= kRowsForWorkers) {
    frame.emplace_back();
    --room;
  }
  int wanted = 0;
  for (size_t i = 0; i < p.model.jobs.size(); ++i) {
    if (p.model.jobs[i].name() == p.view.selected) wanted = static_cast<int>(i);
  }
  AppendWindow(jobs, all ? static_cast<int>(jobs.size()) : room, wanted, frame);
  if (p.model.jobs.empty() && p.model.loaded) frame.push_back(TextLine(p, "no jobs; bitstair submit RECIPE makes one", Tone::kFaint));
  if (detail.empty()) return;
  while (static_cast<int>(frame.size()) < p.rows - 2) frame.emplace_back();
  frame.push_back(TextLine(p, detail, Tone::kWaiting));
}

void StagesPage(const Painter& p, const v1::Job& job, Frame& frame) {
  const auto* priority = v1::PriorityClass_descriptor()->FindValueByNumber(job.spec().priority());
  frame.emplace_back();
  frame.push_back({{{Shorten(ShortName(job.name()), p.columns, p.unicode), Tone::kStrong},
                    {Shorten(absl::StrCat("  ", StateWord(job.state()), job.reason().empty() ? "" : ": ", job.reason()),
                             std::max(0, p.columns - Columns(ShortName(job.name()))), p.unicode),
                     Tone::kPlain}}});
  std::vector<std::string> about{absl::StrCat(job.spec().network(), " on ", job.spec().data().name(), job.spec().data().path())};
  if (!job.spec().queue().empty()) about.push_back(absl::StrCat("queue ", job.spec().queue()));
  if (priority != nullptr && job.spec().has_priority()) about.push_back(absl::StrCat("priority ", EnumWord(*priority, EnumWords::kRecipe)));
  if (job.has_expected_end_time()) about.push_back(absl::StrCat("ends at about ", ShortTime(job.expected_end_time()), " UTC"));
  frame.push_back(TextLine(p, absl::StrJoin(about, ", ")));
  frame.emplace_back();
  const std::vector<Line> stages = StagesPanel(job, p.columns, p.unicode);
  const int room = p.rows - static_cast<int>(frame.size()) - 1;
  const StaircaseStyle style{std::min(p.columns, 100), std::clamp(room - static_cast<int>(stages.size()) - 6, 4, 8), p.unicode};
  std::vector<std::string> stairs = Staircase(job, style);
  // The stairs come where most of the table still fits.
  const int for_stairs = static_cast<int>(stairs.size()) + 1;
  if (room - for_stairs < std::min(static_cast<int>(stages.size()), kStaircaseRows / 2)) stairs.clear();
  AppendScrolled(stages, stairs.empty() ? room : room - for_stairs, p.view.scroll, frame);
  if (stairs.empty()) return;
  frame.emplace_back();
  for (const std::string& line : stairs) frame.push_back(TextLine(p, line));
}

void HelpPage(const Painter& p, Frame& frame) {
  frame.emplace_back();
  for (const char* line :
       {"Keys", "  up, down, k, j  choose a job; move through stages, workers", "  PgUp, PgDn      ten lines", "  Home, End       the first, the last",
        "  enter           its stages with the staircase, and back", "  w               all workers, and back", "  esc, left       back to the jobs",
        "  ?               this", "  q, Ctrl-C       leave; the jobs go on", "", "Columns", "  progress, left  of the whole job, over all its stages",
        "  epoch           of the stage that runs", "  loss, train     means over this epoch's training images",
        "  top-1           on the test images, after its newest epoch", "  drop            top-1 below the full-precision stage"}) {
    frame.push_back(TextLine(p, line, line[0] == 'K' || line[0] == 'C' ? Tone::kStrong : Tone::kPlain));
  }
}

std::string Keys(const View& view) {
  if (view.help) return "any key: back";
  switch (view.page) {
    case Page::kStages:
      return "q quit  esc jobs  up/down stages  w workers  ? help";
    case Page::kWorkers:
      return "q quit  w jobs  up/down workers  ? help";
    case Page::kJobs:
      break;
  }
  return "q quit  up/down job  enter stages  w workers  ? help";
}

}  // namespace

Frame Render(const Model& model, const View& view, Size size, bool unicode) {
  const Painter p{model, view, std::max(0, size.rows), std::max(kLeastColumns, size.columns), unicode};
  Frame frame;
  Header(p, frame);
  const v1::Job* selected = SelectedJob(model, view);
  if (p.rows == 0) {
    JobsPage(p, frame);
    return frame;
  }
  if (view.help) {
    HelpPage(p, frame);
  } else if (view.page == Page::kStages && selected != nullptr) {
    StagesPage(p, *selected, frame);
  } else if (view.page == Page::kWorkers) {
    frame.emplace_back();
    AppendScrolled(WorkersPanel(model, p.columns, unicode), p.rows - static_cast<int>(frame.size()) - 1, view.scroll, frame);
  } else {
    JobsPage(p, frame);
  }
  frame.resize(static_cast<size_t>(p.rows - 1));
  frame.push_back(TextLine(p, Keys(view), Tone::kFaint));
  return frame;
}

}  // namespace bitstair::client::top
