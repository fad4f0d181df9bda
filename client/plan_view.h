// A plan of stages for people and programs. Pure.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"
#include "client/json.h"
#include "server/planner.h"

namespace bitstair::client {

// First and last learning rate of a stage: at the start of its first step and of its last epoch.
struct LearningRateRange {
  double first = 0;
  double last = 0;
};
LearningRateRange LearningRates(const v1::StageSpec& stage);

// A table: stage, bits W/A, parent, epochs, learning rate, schedule, activation; "requires" where something is required.
std::string PlanText(const std::vector<server::PlannedStage>& stages);
// Graphviz: one node per stage, an edge from each parent.
std::string PlanDot(const std::string& name, const std::vector<server::PlannedStage>& stages);
// {"name", "spec": the recipe with all defaults, "stages": [{"name", "parent", ...}]}
Json PlanJson(const v1::JobSpec& spec, const std::vector<server::PlannedStage>& stages);

// A coordinator's answer to validate_only: what is shared, where it would run, when it would start and end.
std::string PreviewText(const v1::Job& job);
// As JobJson, with "notes".
Json PreviewJson(const v1::Job& job);

}  // namespace bitstair::client
