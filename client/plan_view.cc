#include "client/plan_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
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

std::string PlanText(const std::vector<v1::StageSpec>& stages) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::StageSpec& stage : stages) {
    rows.push_back({stage.name(), BitsText(stage), stage.parent().empty() ? "-" : stage.parent(), absl::StrCat(stage.epochs()), RateText(stage),
                    ScheduleText(stage), ActivationText(stage)});
  }
  using enum Align;
  return Table({"stage", "bits W/A", "parent", "epochs", "learning rate", "schedule", "activation"}, {kLeft, kRight, kLeft, kRight, kLeft, kLeft, kLeft}, rows);
}

std::string PlanDot(const std::string& name, const std::vector<v1::StageSpec>& stages) {
  std::string out = absl::StrCat("digraph \"", name, "\" {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
  for (const v1::StageSpec& stage : stages) {
    absl::StrAppend(&out, "  \"", stage.name(), "\" [label=\"", stage.name(), "\\n", stage.epochs(), stage.epochs() == 1 ? " epoch" : " epochs", "\\n",
                    RateText(stage), "\"];\n");
    if (!stage.parent().empty()) absl::StrAppend(&out, "  \"", stage.parent(), "\" -> \"", stage.name(), "\";\n");
  }
  return out + "}\n";
}

Json PlanJson(const v1::JobSpec& spec, const std::vector<v1::StageSpec>& stages) {
  Json result;
  result["name"] = spec.name();
  result["spec"] = ToJson(spec, EnumWords::kRecipe);
  result["stages"] = Json::array();
  for (const v1::StageSpec& stage : stages) {
    Json out = ToJson(stage, EnumWords::kRecipe);
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
