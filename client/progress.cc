#include "client/progress.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/client.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

std::string Bits(const v1::StageSpec& spec) {
  return absl::StrCat(spec.weight_bits(), "/", spec.activation_bits());
}

std::string Epochs(int count) {
  return absl::StrCat(count, count == 1 ? " epoch" : " epochs");
}

// The words of server/job_state_machine.cc for the moment before the scheduler has looked; nobody needs to read them.
constexpr char kNotLookedAtYet[] = "waits for the scheduler";

constexpr int kTop1Column = 3;  // of ResultTable

double Top1(const v1::Stage& stage) {
  return stage.epochs(stage.epochs_size() - 1).test_top1();
}

// Share of the stage that is done, 0 to 1.
double Share(const v1::StageProgress& progress) {
  if (progress.epochs() <= 0) return 0;
  const double step = progress.steps_per_epoch() > 0 ? static_cast<double>(progress.step()) / static_cast<double>(progress.steps_per_epoch()) : 0;
  return std::clamp((progress.epoch() - 1 + step) / progress.epochs(), 0.0, 1.0);
}

std::string EpochLine(const std::string& stage, const v1::EpochResult& epoch, int epochs) {
  const std::string teacher = epoch.has_teacher() ? absl::StrFormat("  teacher %.2f %%", epoch.teacher().test_top1()) : "";
  return absl::StrFormat("%s: epoch %d/%d  loss %.4f  top-1 %.2f %%%s  train %.2f %%  %.0f images/s  %.1f s%s\n", stage, epoch.epoch(), epochs,
                         epoch.train_loss(), epoch.test_top1(), teacher, epoch.train_top1(), epoch.images_per_second(), epoch.seconds(),
                         epoch.skipped_images() > 0 ? absl::StrCat("  ", epoch.skipped_images(), " unreadable images skipped") : "");
}

// Whether a stage of the job trains a pair.
bool HasTeacher(const v1::Job& job) {
  return std::any_of(job.stages().begin(), job.stages().end(),
                     [](const v1::Stage& stage) { return stage.spec().has_guided() || stage.spec().has_distillation(); });
}

// What became of a stage; empty while it goes on.
std::string EndLine(const v1::Stage& stage) {
  const std::string name = ShortName(stage.name());
  switch (stage.state()) {
    case v1::STAGE_STATE_SUCCEEDED:
      return absl::StrFormat("%s: done  %s  top-1 %s  %.1f s  checkpoint %s\n", name, Epochs(stage.spec().epochs()),
                             stage.epochs().empty() ? "-" : absl::StrFormat("%.2f %%", Top1(stage)), stage.seconds(),
                             stage.checkpoint().sha256().substr(0, 12));
    case v1::STAGE_STATE_FAILED:
      if (absl::EndsWith(stage.gate(), "missed")) return absl::StrCat(name, ": done, but ", stage.gate(), "; nothing goes on from here\n");
      return absl::StrCat(name, ": failed after ", stage.attempts(), stage.attempts() == 1 ? " attempt" : " attempts", "\n");
    case v1::STAGE_STATE_CANCELLED:
      return stage.attempts() > 0 ? absl::StrCat(name, ": cancelled\n") : "";
    default:
      return "";
  }
}

std::string StartLine(const v1::Stage& stage) {
  std::string from;
  if (stage.resumed_epoch() > 0 || stage.resumed_step() > 0) from = absl::StrCat(" from epoch ", stage.resumed_epoch() + 1, ", step ", stage.resumed_step());
  // Of an elastic stage and of a split pair not what the recipe says.
  const int ranks = stage.placement().empty() ? stage.spec().ranks() : stage.placement_size();
  return absl::StrCat(ShortName(stage.name()), ": attempt ", stage.attempts(), " runs", from, ", ", ranks, ranks == 1 ? " rank" : " ranks", ", ",
                      stage.spec().epochs(), stage.spec().epochs() == 1 ? " epoch" : " epochs", "\n");
}

}  // namespace

bool IsLive(const v1::Stage& stage) {
  return stage.state() == v1::STAGE_STATE_STARTING || stage.state() == v1::STAGE_STATE_RUNNING || stage.state() == v1::STAGE_STATE_STOPPING;
}

double StageShare(const v1::Stage& stage) {
  if (stage.state() == v1::STAGE_STATE_SUCCEEDED) return 1;
  if (IsLive(stage) && stage.progress().epoch() > 0) return Share(stage.progress());
  return stage.spec().epochs() > 0 ? std::clamp(static_cast<double>(stage.epochs_size()) / stage.spec().epochs(), 0.0, 1.0) : 0;
}

double JobShare(const v1::Job& job) {
  double done = 0;
  double all = 0;
  for (const v1::Stage& stage : job.stages()) {
    done += StageShare(stage) * stage.spec().epochs();
    all += stage.spec().epochs();
  }
  return all > 0 ? done / all : 0;
}

std::string WaitReason(const v1::Job& job) {
  if (!job.reason().empty()) return job.reason();
  for (const v1::Stage& stage : job.stages()) {
    if (stage.state() == v1::STAGE_STATE_PENDING && !stage.reason().empty()) return stage.reason();
  }
  return "";
}

std::string StageLine(const v1::Stage& stage, int width, double job_seconds_left) {
  const v1::StageProgress& progress = stage.progress();
  const std::string head = absl::StrFormat("%-6s  %s bit  ", ShortName(stage.name()), Bits(stage.spec()));
  if (stage.state() == v1::STAGE_STATE_STOPPING) return Fit(Harmless(head + "stopping"), width);
  if (progress.epoch() == 0) return Fit(Harmless(absl::StrCat(head, progress.phase().empty() ? "starting" : progress.phase())), width);
  std::vector<std::string> parts;
  parts.push_back(absl::StrFormat("epoch %d/%d", progress.epoch(), progress.epochs()));
  if (progress.phase().empty() || progress.phase() == "train") {
    parts.push_back(absl::StrFormat("loss %.3f", progress.loss()));
    parts.push_back(absl::StrFormat("top-1 %.2f %%", progress.train_top1()));
    if (progress.has_teacher()) parts.push_back(absl::StrFormat("teacher %.2f %%", progress.teacher().train_top1()));
    parts.push_back(absl::StrFormat("%.0f images/s", progress.images_per_second()));
  } else {
    parts.push_back(progress.phase());
    if (!stage.epochs().empty()) parts.push_back(absl::StrFormat("top-1 %.2f %%", Top1(stage)));
  }
  std::string left = progress.seconds_left() >= 0 ? absl::StrCat(Duration(progress.seconds_left()), " left") : "";
  if (!left.empty() && job_seconds_left >= 0) absl::StrAppend(&left, " (job ", Duration(job_seconds_left), ")");
  if (!left.empty()) parts.push_back(left);

  int used = static_cast<int>(head.size());
  for (const std::string& part : parts) used += static_cast<int>(part.size()) + 2;
  // The bar gets what is left, within reason.
  const int cells = std::min(24, width - used - 2);
  std::string line = head;
  for (size_t i = 0; i < parts.size(); ++i) {
    line += (i == 0 ? "" : "  ") + parts[i];
    if (i == 0 && cells >= 5) {
      const int full = static_cast<int>(std::lround(Share(progress) * cells));
      absl::StrAppend(&line, " [", std::string(static_cast<size_t>(full), '#'), std::string(static_cast<size_t>(cells - full), '-'), "]");
    }
  }
  return Fit(Harmless(line), width);
}

double JobSecondsLeft(const v1::Job& job) {
  double left = 0;
  double pace = -1;  // seconds of the newest epoch
  for (const v1::Stage& stage : job.stages()) {
    if (!stage.epochs().empty()) pace = stage.epochs(stage.epochs_size() - 1).seconds();
    if (stage.state() == v1::STAGE_STATE_SUCCEEDED) continue;
    if (IsLive(stage) && stage.has_progress() && stage.progress().seconds_left() >= 0) {
      left += stage.progress().seconds_left();
      const double share = Share(stage.progress());
      if (pace < 0 && share < 1 && stage.spec().epochs() > 0) pace = stage.progress().seconds_left() / ((1 - share) * stage.spec().epochs());
    } else if (pace >= 0) {
      left += pace * (stage.spec().epochs() - stage.epochs_size());
    } else {
      return -1;
    }
  }
  return left;
}

std::string ResultTable(const v1::Job& job) {
  std::vector<std::vector<std::string>> rows;
  const bool teacher = HasTeacher(job);
  for (const v1::Stage& stage : job.stages()) {
    const bool measured = !stage.epochs().empty();
    const std::optional<double> full_precision = FullPrecisionTop1(job, stage);
    const int done = stage.epochs_size();
    const v1::EpochResult last = measured ? stage.epochs(stage.epochs_size() - 1) : v1::EpochResult();
    rows.push_back({ShortName(stage.name()), Bits(stage.spec()),
                    stage.state() == v1::STAGE_STATE_SUCCEEDED ? absl::StrCat(stage.spec().epochs()) : absl::StrCat(done, "/", stage.spec().epochs()),
                    measured ? absl::StrFormat("%.2f %%", Top1(stage)) : "-",
                    measured && full_precision ? absl::StrFormat("%.2f", *full_precision - Top1(stage)) : "-", absl::StrFormat("%.1f", stage.seconds()),
                    stage.checkpoint().sha256().empty() ? "-" : stage.checkpoint().sha256().substr(0, 12)});
    if (teacher) rows.back().insert(rows.back().begin() + kTop1Column + 1, last.has_teacher() ? absl::StrFormat("%.2f %%", last.teacher().test_top1()) : "-");
    for (const v1::StudentResult& student : last.students()) {
      rows.push_back({absl::StrCat("  ", student.name()), "", "", absl::StrFormat("%.2f %%", student.test_top1()),
                      full_precision ? absl::StrFormat("%.2f", *full_precision - student.test_top1()) : "-", "", ""});
      if (teacher) rows.back().insert(rows.back().begin() + kTop1Column + 1, "");
    }
  }
  using enum Align;
  std::vector<std::string> names{"stage", "bits W/A", "epochs", "top-1", "drop", "seconds", "checkpoint"};
  std::vector<Align> aligns{kLeft, kRight, kRight, kRight, kRight, kRight, kLeft};
  if (teacher) {
    names.insert(names.begin() + kTop1Column + 1, "teacher");
    aligns.insert(aligns.begin() + kTop1Column + 1, kRight);
  }
  return Table(names, aligns, rows);
}

std::string Progress::Strong(const std::string& text) const {
  return style_.color ? absl::StrCat("\x1b[1m", text, "\x1b[0m") : text;
}

std::string Progress::Erase() {
  if (live_columns_.empty()) return "";
  // A terminal that has become narrower has broken long lines into several.
  int rows = 0;
  for (const int columns : live_columns_) rows += std::max(1, (columns + style_.width - 1) / std::max(1, style_.width));
  std::string out = "\r\x1b[2K";
  for (int i = 1; i < rows; ++i) out += "\x1b[1A\x1b[2K";
  live_columns_.clear();
  return out;
}

std::string Progress::Draw() {
  if (!style_.terminal || IsEnded(job_.state())) return "";
  std::string out;
  const double left = JobSecondsLeft(job_);
  for (const v1::Stage& stage : job_.stages()) {
    if (!IsLive(stage)) continue;
    // One column stays free: writing the last one would wrap on some terminals.
    const std::string line = StageLine(stage, std::max(10, style_.width - 1), left);
    const size_t name_end = line.find(' ');
    out += (live_columns_.empty() ? "" : "\n") + Strong(line.substr(0, name_end)) + (name_end == std::string::npos ? "" : line.substr(name_end));
    live_columns_.push_back(static_cast<int>(line.size()));
  }
  return out;
}

std::string Progress::Note(const std::string& line) {
  const std::string erased = Erase();
  return erased + Harmless(line) + "\n" + Draw();
}

std::string Progress::Finish() {
  return Erase();
}

std::string Progress::OnJob(const v1::Job& job) {
  std::string lines;
  const std::string& reason = job.reason();
  if ((job.state() == v1::JOB_STATE_RESOLVING || job.state() == v1::JOB_STATE_PENDING) && !reason.empty() && reason != last_reason_) {
    absl::StrAppend(&lines, ShortName(job.name()), ": ", reason, "\n");
    last_reason_ = reason;
  }
  for (const v1::Stage& stage : job.stages()) {
    const auto before = std::find_if(job_.stages().begin(), job_.stages().end(), [&](const v1::Stage& s) { return s.name() == stage.name(); });
    const bool known = before != job_.stages().end();
    const std::string name = ShortName(stage.name());
    if (stage.state() == v1::STAGE_STATE_PENDING && !stage.reason().empty() && stage.reason() != kNotLookedAtYet &&
        (!known || before->reason() != stage.reason())) {
      absl::StrAppend(&lines, name, ": ", stage.reason(), "\n");
    }
    if (stage.state() == v1::STAGE_STATE_RUNNING && (!known || before->state() != stage.state() || before->generation() != stage.generation())) {
      if (!style_.terminal) lines += StartLine(stage);
    }
    // Epochs that were over before this watch began, or trained for another job, are not told again.
    const bool trained = stage.sharing() != v1::STAGE_SHARING_REUSED;
    const int told = !trained ? stage.epochs_size() : known ? before->epochs_size() : started_ ? 0 : stage.epochs_size();
    for (int i = told; i < stage.epochs_size() && !style_.terminal; ++i) lines += EpochLine(name, stage.epochs(i), stage.spec().epochs());
    if (!known || before->state() != stage.state()) lines += EndLine(stage);
  }
  // Progress is not durable, so the whole job may come without it.
  v1::Job next = job;
  for (v1::Stage& stage : *next.mutable_stages()) {
    const auto before = std::find_if(job_.stages().begin(), job_.stages().end(), [&](const v1::Stage& s) { return s.name() == stage.name(); });
    const bool same_attempt = before != job_.stages().end() && before->generation() == stage.generation();
    if (!stage.has_progress() && same_attempt && before->has_progress()) *stage.mutable_progress() = before->progress();
  }
  job_ = std::move(next);
  started_ = true;
  return lines;
}

std::string Progress::OnChange(const v1::WatchJobResponse& change) {
  std::string lines;
  if (change.has_job()) {
    lines = OnJob(change.job());
  } else if (change.has_progress()) {
    for (v1::Stage& stage : *job_.mutable_stages()) {
      if (stage.name() == change.progress().name()) *stage.mutable_progress() = change.progress().progress();
    }
    if (!style_.terminal) return "";
  } else if (change.has_event()) {
    const v1::Event& event = change.event();
    // The rest of the events is visible in the job's own changes.
    if (event.type() == "AttemptFailed" || event.type() == "StageShared" || event.type() == "GateReached" || event.type() == "GateMissed")
      lines = absl::StrCat(ShortName(event.stage()), ": ", event.message(), "\n");
  }
  const std::string erased = Erase();
  return erased + Harmless(lines) + Draw();
}

}  // namespace bitstair::client
