#include "client/top/panels.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/top/columns.h"

namespace bitstair::client::top {
namespace {

constexpr int kMostSlots = 16;  // of a worker that are drawn one by one
constexpr int kNarrow = 80;
constexpr int kMiddle = 120;
constexpr int kWide = 140;

int BarWidth(int width) {
  return width < kNarrow ? 6 : width < kMiddle ? 8 : width < kWide ? 10 : 20;
}

std::string Bits(const v1::StageSpec& spec) {
  return absl::StrCat(spec.weight_bits(), "/", spec.activation_bits());
}

// A bar and its percents: "######----  61 %".
std::string BarText(double share, int width, bool unicode) {
  // Rounded down: only what is done is 100 %.
  return absl::StrFormat("%s %3d %%", Bar(share, BarWidth(width), unicode), static_cast<int>(share * 100));
}

std::string Number(bool known, const absl::FormatSpec<double>& format, double value) {
  return known ? absl::StrFormat(format, value) : "-";
}

Tone ToneOf(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_RUNNING:
      return Tone::kGood;
    case v1::JOB_STATE_FAILED:
      return Tone::kBad;
    case v1::JOB_STATE_SUCCEEDED:
    case v1::JOB_STATE_CANCELLED:
      return Tone::kFaint;
    default:
      return Tone::kWaiting;
  }
}

Tone ToneOf(v1::StageState state) {
  switch (state) {
    case v1::STAGE_STATE_RUNNING:
      return Tone::kGood;
    case v1::STAGE_STATE_FAILED:
      return Tone::kBad;
    case v1::STAGE_STATE_PENDING:
    case v1::STAGE_STATE_STARTING:
    case v1::STAGE_STATE_STOPPING:
      return Tone::kWaiting;
    default:
      return Tone::kFaint;
  }
}

// Which of a job's stages its line is about: what runs, else what waits, else the last that was trained.
const v1::Stage* StageOfInterest(const v1::Job& job) {
  const v1::Stage* best = nullptr;
  int best_rank = -1;
  for (const v1::Stage& stage : job.stages()) {
    const int rank = IsLive(stage)                                                        ? 3
                     : stage.state() == v1::STAGE_STATE_PENDING                           ? 2
                     : stage.attempts() > 0 || stage.state() == v1::STAGE_STATE_SUCCEEDED ? 1
                                                                                          : 0;
    // The first that runs or waits, the last that has ended.
    if (rank > best_rank || (rank == best_rank && rank == 1)) best = &stage;
    best_rank = std::max(best_rank, rank);
  }
  return best;
}

std::string EpochText(const v1::Stage& stage) {
  const int epoch = IsLive(stage) && stage.progress().epoch() > 0 ? stage.progress().epoch() : stage.epochs_size();
  return absl::StrCat(epoch, "/", stage.spec().epochs());
}

// What a line says of a stage that trains: loss, training accuracy, images/s; "-" where it does not.
struct Measured {
  bool trains = false;
  std::optional<double> top1;  // test
  const v1::StageProgress* progress = nullptr;
};

Measured MeasuredOf(const v1::Stage& stage) {
  Measured measured;
  measured.progress = &stage.progress();
  measured.trains = IsLive(stage) && stage.progress().epoch() > 0;
  if (!stage.epochs().empty()) measured.top1 = stage.epochs(stage.epochs_size() - 1).test_top1();
  return measured;
}

double SecondsLeft(const Model& model, const v1::Job& job, const v1::Stage& stage) {
  const double left = JobSecondsLeft(job);
  if (left >= 0) return left;
  if (job.has_expected_end_time()) return std::max(0.0, static_cast<double>(job.expected_end_time().seconds()) - model.now);
  return stage.progress().epoch() > 0 ? stage.progress().seconds_left() : -1;
}

// "smoke-3f2a/W4A4 x2": stages with ranks on each worker, by its short name.
std::map<std::string, std::vector<std::string>> RunningByWorker(const std::vector<v1::Job>& jobs) {
  std::map<std::string, std::vector<std::string>> running;
  for (const v1::Job& job : jobs) {
    for (const v1::Stage& stage : job.stages()) {
      if (!IsLive(stage)) continue;
      std::map<std::string, int> ranks;
      for (const v1::RankPlacement& rank : stage.placement()) ++ranks[ShortName(rank.worker())];
      for (const auto& [worker, count] : ranks) {
        const std::string name = absl::StrCat(ShortName(job.name()), "/", ShortName(stage.name()), count > 1 ? absl::StrCat(" x", count) : "");
        auto& names = running[worker];
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
      }
    }
  }
  return running;
}

std::string SlotsBar(const v1::Worker& worker, bool unicode) {
  const int busy = worker.slots_size() - worker.free_slots();
  std::string bar;
  for (int i = 0; i < std::min(worker.slots_size(), kMostSlots); ++i) bar += i < busy ? (unicode ? "■" : "#") : (unicode ? "□" : ".");
  return bar + (worker.slots_size() > kMostSlots ? "+" : "");
}

}  // namespace

std::vector<Line> WorkersPanel(const Model& model, int width, bool unicode) {
  const std::vector<Column> columns{{"worker", Align::kLeft, 24, 0}, {"state", Align::kLeft, 21, 0}, {"slots", Align::kLeft, 17, 2},
                                    {"busy", Align::kRight, 9, 0},   {"kind", Align::kLeft, 7, 3},   {"runs", Align::kLeft, 200, 0}};
  const auto running = RunningByWorker(model.jobs);
  std::vector<Row> rows;
  for (const v1::Worker& worker : model.workers) {
    const auto* state = v1::WorkerState_descriptor()->FindValueByNumber(worker.state());
    std::set<std::string> kinds;
    for (const v1::Slot& slot : worker.slots()) {
      if (const auto* kind = v1::SlotKind_descriptor()->FindValueByNumber(slot.kind())) kinds.insert(EnumWord(*kind));
    }
    const bool ready = worker.state() == v1::WORKER_STATE_READY;
    Row row;
    row.cells.push_back({worker.host().empty() ? ShortName(worker.name()) : worker.host(), Tone::kStrong});
    row.cells.push_back({absl::StrCat(state == nullptr ? "?" : EnumWord(*state), worker.cordoned() ? ", cordoned" : ""), !ready              ? Tone::kBad
                                                                                                                         : worker.cordoned() ? Tone::kWaiting
                                                                                                                                             : Tone::kGood});
    row.cells.push_back({SlotsBar(worker, unicode), ready ? Tone::kPlain : Tone::kFaint});
    row.cells.push_back({absl::StrCat(worker.slots_size() - worker.free_slots(), "/", worker.slots_size())});
    row.cells.push_back({absl::StrJoin(kinds, ",")});
    // Placements name workers as people do.
    auto runs = running.find(worker.host());
    if (runs == running.end()) runs = running.find(ShortName(worker.name()));
    row.rest = runs == running.end() ? "-" : absl::StrJoin(runs->second, ", ");
    rows.push_back(std::move(row));
  }
  return Layout(columns, rows, width, unicode);
}

std::vector<Line> JobsPanel(const Model& model, const std::string& selected, int width, bool unicode) {
  using enum Align;
  const std::vector<Column> columns{{"job", kLeft, std::max(12, width / 4), 0},
                                    {"state", kLeft, 10, 0},
                                    {"queue", kLeft, 14, 7},
                                    {"priority", kLeft, 8, 9},
                                    {"stage", kLeft, 16, 0},
                                    {"bits", kRight, 5, 6},
                                    {"progress", kLeft, 30, 0},
                                    {"epoch", kRight, 9, 4},
                                    {"loss", kRight, 7, 5},
                                    {"train", kRight, 7, 10},
                                    {"top-1", kRight, 7, 2},
                                    {"images/s", kRight, 9, 8},
                                    {"left", kRight, 9, 0}};
  std::vector<Row> rows;
  for (const v1::Job& job : model.jobs) {
    const v1::Stage* stage = StageOfInterest(job);
    const auto* priority = v1::PriorityClass_descriptor()->FindValueByNumber(job.spec().priority());
    Row row;
    row.selected = job.name() == selected;
    row.cells = {{ShortName(job.name()), IsEnded(job.state()) ? Tone::kFaint : Tone::kStrong},
                 {StateWord(job.state()), ToneOf(job.state())},
                 {job.spec().queue().empty() ? "-" : job.spec().queue()},
                 {priority == nullptr || !job.spec().has_priority() ? "-" : EnumWord(*priority, EnumWords::kRecipe)},
                 {stage == nullptr ? "-" : ShortName(stage->name())},
                 {stage == nullptr ? "-" : Bits(stage->spec())}};
    const bool live = stage != nullptr && IsLive(*stage);
    if (live) {
      const Measured measured = MeasuredOf(*stage);
      const double left = SecondsLeft(model, job, *stage);
      row.cells.insert(row.cells.end(), {{BarText(JobShare(job), width, unicode)},
                                         {EpochText(*stage)},
                                         {Number(measured.trains, "%.3f", measured.progress->loss())},
                                         {Number(measured.trains, "%.2f", measured.progress->train_top1())},
                                         {Number(measured.top1.has_value(), "%.2f", measured.top1.value_or(0)), Tone::kStrong},
                                         {Number(measured.trains, "%.0f", measured.progress->images_per_second())},
                                         {left >= 0 ? Duration(left) : "-"}});
    } else if (IsEnded(job.state())) {
      row.rest = !job.reason().empty() ? job.reason() : job.has_end_time() ? absl::StrCat("ended ", ShortTime(job.end_time())) : "-";
    } else {
      row.rest = WaitReason(job);
      if (row.rest.empty()) row.rest = "-";
    }
    rows.push_back(std::move(row));
  }
  return Layout(columns, rows, width, unicode);
}

std::vector<Line> StagesPanel(const v1::Job& job, int width, bool unicode) {
  using enum Align;
  const std::vector<Column> columns{{"stage", kLeft, std::max(12, width / 4), 0},
                                    {"bits", kRight, 5, 0},
                                    {"state", kLeft, 9, 0},
                                    {"progress", kLeft, 30, 2},
                                    {"epoch", kRight, 9, 0},
                                    {"loss", kRight, 7, 4},
                                    {"train", kRight, 7, 7},
                                    {"top-1", kRight, 7, 0},
                                    {"drop", kRight, 6, 1},
                                    {"images/s", kRight, 9, 6},
                                    {"left", kRight, 9, 3},
                                    {"runs on", kLeft, 40, 8}};
  std::vector<Row> rows;
  for (const v1::Stage& stage : job.stages()) {
    const Measured measured = MeasuredOf(stage);
    Row row;
    row.cells = {{ShortName(stage.name()), Tone::kStrong}, {Bits(stage.spec())}, {StateWord(stage.state()), ToneOf(stage.state())}};
    if (stage.state() == v1::STAGE_STATE_PENDING && !stage.reason().empty()) {
      row.rest = stage.reason();
    } else {
      const std::optional<double> full = FullPrecisionTop1(job, stage);
      const bool trained = stage.epochs_size() > 0;
      const v1::EpochResult last = trained ? stage.epochs(stage.epochs_size() - 1) : v1::EpochResult();
      std::set<std::string> workers;
      if (IsLive(stage)) {
        for (const v1::RankPlacement& rank : stage.placement()) workers.insert(ShortName(rank.worker()));
      }
      const double left = IsLive(stage) && stage.progress().epoch() > 0 ? stage.progress().seconds_left() : -1;
      row.cells.insert(row.cells.end(),
                       {{BarText(StageShare(stage), width, unicode)},
                        {EpochText(stage)},
                        {Number(measured.trains || trained, "%.3f", measured.trains ? measured.progress->loss() : last.train_loss())},
                        {Number(measured.trains || trained, "%.2f", measured.trains ? measured.progress->train_top1() : last.train_top1())},
                        {Number(trained, "%.2f", last.test_top1()), Tone::kStrong},
                        {Number(trained && full.has_value(), "%.2f", full.value_or(0) - last.test_top1())},
                        {Number(measured.trains || trained, "%.0f", measured.trains ? measured.progress->images_per_second() : last.images_per_second())},
                        {left >= 0 ? Duration(left) : "-"},
                        {workers.empty() ? "-" : absl::StrJoin(workers, ",")}});
    }
    rows.push_back(std::move(row));
  }
  return Layout(columns, rows, width, unicode);
}

}  // namespace bitstair::client::top
