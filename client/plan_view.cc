#include "client/plan_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "client/table.h"
#include "core/training/schedule.h"

namespace bitstair::client {
namespace {

std::string ActivationText(const v1::StageSpec& stage) {
  std::string text = stage.activation() == v1::ACTIVATION_FUNCTION_RELU ? "relu" : "clip";
  if (stage.calibration() == v1::ACTIVATION_CALIBRATION_PERCENTILE) absl::StrAppend(&text, ", calibrated at ", stage.calibration_percentile(), " %");
  if (stage.has_guided()) absl::StrAppend(&text, ", guided");
  if (stage.has_distillation()) absl::StrAppend(&text, ", distillation");
  if (stage.has_distillation() && stage.distillation().students_size() > 0) {
    absl::StrAppend(&text, " with students of ", absl::StrJoin(stage.distillation().students(), ", "), " bits");
  }
  if (stage.has_stochastic_precision()) absl::StrAppend(&text, ", stochastic precision");
  return text;
}

std::string ScheduleText(const v1::StageSpec& stage) {
  return absl::StrFormat("%s, epochs %d-%d of %d", stage.learning_rate_schedule() == v1::LEARNING_RATE_SCHEDULE_STEP ? "step" : "cosine",
                         stage.schedule_offset() + 1, stage.schedule_offset() + stage.epochs(), stage.schedule_epochs());
}

std::string RateText(const v1::StageSpec& stage) {
  const LearningRateRange rates = LearningRates(stage);
  return absl::StrFormat("%.4g -> %.4g", rates.first, rates.last);
}

// "jobs/a" of "jobs/a/stages/W4A4"
std::string JobOf(const std::string& stage) {
  return stage.substr(0, stage.find("/stages/"));
}

std::string BitsText(const v1::StageSpec& stage) {
  return absl::StrCat(stage.weight_bits(), "/", stage.activation_bits());
}

}  // namespace

LearningRateRange LearningRates(const v1::StageSpec& stage) {
  core::LearningRateSchedule schedule;
  schedule.kind =
      stage.learning_rate_schedule() == v1::LEARNING_RATE_SCHEDULE_STEP ? core::LearningRateSchedule::Kind::kStep : core::LearningRateSchedule::Kind::kCosine;
  schedule.initial = stage.learning_rate();
  schedule.epochs = stage.schedule_epochs();
  schedule.step_epochs.assign(stage.step_epochs().begin(), stage.step_epochs().end());
  schedule.gamma = stage.step_gamma();
  return {core::LearningRateAt(schedule, stage.schedule_offset(), 0, 1), core::LearningRateAt(schedule, stage.schedule_offset() + stage.epochs() - 1, 0, 1)};
}

std::string PlanText(const std::vector<server::PlannedStage>& stages) {
  std::vector<std::vector<std::string>> rows;
  const bool gates = std::any_of(stages.begin(), stages.end(), [](const auto& planned) { return !planned.require.empty(); });
  for (const auto& [stage, require, on_gate_failure] : stages) {
    rows.push_back({stage.name(), BitsText(stage), stage.parent().empty() ? "-" : stage.parent(), absl::StrCat(stage.epochs()), RateText(stage),
                    ScheduleText(stage), ActivationText(stage)});
    if (gates) {
      rows.back().push_back(require.empty()                            ? "-"
                            : on_gate_failure == v1::GATE_ACTION_GO_ON ? absl::StrCat(require, ", else goes on")
                                                                       : absl::StrCat(require, ", else stops"));
    }
  }
  using enum Align;
  std::vector<std::string> names{"stage", "bits W/A", "parent", "epochs", "learning rate", "schedule", "activation"};
  std::vector<Align> aligns{kLeft, kRight, kLeft, kRight, kLeft, kLeft, kLeft};
  if (gates) {
    names.push_back("requires");
    aligns.push_back(kLeft);
  }
  return Table(names, aligns, rows);
}

std::string PreviewText(const v1::Job& job) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Stage& stage : job.stages()) {
    std::string where;
    for (const v1::RankPlacement& rank : stage.placement()) absl::StrAppend(&where, where.empty() ? "" : ", ", ShortName(rank.worker()));
    const bool done = stage.state() == v1::STAGE_STATE_SUCCEEDED;
    rows.push_back({stage.spec().name(), BitsText(stage.spec()), stage.spec().parent().empty() ? "-" : stage.spec().parent(),
                    absl::StrCat(stage.spec().epochs()),
                    stage.shared_with().empty() ? "-" : absl::StrCat(done ? "done in " : "joins ", ShortName(JobOf(stage.shared_with()))),
                    stage.memory_bytes() > 0 ? absl::StrFormat("%.0f MB", static_cast<double>(stage.memory_bytes()) / 1e6) : "-",
                    stage.has_expected_start_time() ? ShortTime(stage.expected_start_time()) : "-",
                    stage.has_expected_end_time() ? ShortTime(stage.expected_end_time()) : "-",
                    !where.empty()           ? where
                    : stage.reason().empty() ? "-"
                                             : stage.reason()});
  }
  using enum Align;
  std::string text = Table({"stage", "bits W/A", "parent", "epochs", "shared", "memory", "start (UTC)", "end (UTC)", "ranks on, or what it waits for"},
                           {kLeft, kRight, kLeft, kRight, kLeft, kRight, kLeft, kLeft, kLeft}, rows);
  const Shared shared = CountShared(job);
  if (shared.stages > 0) {
    absl::StrAppend(&text, shared.stages, " of ", job.stages_size(), " stages are shared; ", Duration(shared.slot_seconds), " of slot time saved\n");
  }
  if (job.has_expected_end_time()) absl::StrAppend(&text, "ends at about ", ShortTime(job.expected_end_time()), " UTC\n");
  for (const std::string& note : job.notes()) absl::StrAppend(&text, "note: ", note, "\n");
  return text;
}

Json PreviewJson(const v1::Job& job) {
  Json result = JobJson(job, false);
  result["notes"] = std::vector<std::string>(job.notes().begin(), job.notes().end());
  return result;
}

std::string PlanDot(const std::string& name, const std::vector<server::PlannedStage>& stages) {
  std::string out = absl::StrCat("digraph \"", name, "\" {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
  for (const auto& [stage, require, on_gate_failure] : stages) {
    absl::StrAppend(&out, "  \"", stage.name(), "\" [label=\"", stage.name(), "\\n", stage.epochs(), stage.epochs() == 1 ? " epoch" : " epochs", "\\n",
                    RateText(stage), "\"];\n");
    if (!stage.parent().empty()) absl::StrAppend(&out, "  \"", stage.parent(), "\" -> \"", stage.name(), "\";\n");
  }
  return out + "}\n";
}

Json PlanJson(const v1::JobSpec& spec, const std::vector<server::PlannedStage>& stages) {
  Json result;
  result["name"] = spec.name();
  result["spec"] = ToJson(spec, EnumWords::kRecipe);
  result["stages"] = Json::array();
  for (const auto& [stage, require, on_gate_failure] : stages) {
    Json out = ToJson(stage, EnumWords::kRecipe);
    if (!require.empty()) {
      out["require"] = require;
      out["on_gate_failure"] = on_gate_failure == v1::GATE_ACTION_GO_ON ? "go_on" : "stop";
    }
    for (const char* shared : {"data", "environment", "checkpoint", "data_digest", "initial_weights_digest"}) {
      out.erase(shared);  // the job's, in "spec"; the digests are the workers'
    }
    const LearningRateRange rates = LearningRates(stage);
    out["first_learning_rate"] = rates.first;
    out["last_learning_rate"] = rates.last;
    result["stages"].push_back(std::move(out));
  }
  return result;
}

}  // namespace bitstair::client
