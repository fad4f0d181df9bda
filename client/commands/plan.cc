// bitstair plan: the stages that a recipe makes; needs no coordinator.
#include <memory>

#include "client/commands/command.h"
#include "client/plan_view.h"
#include "server/planner.h"

namespace bitstair::client {
namespace {

struct PlanArguments {
  RecipeArguments recipe;
  std::string output;
};

int RunPlan(const PlanArguments& arguments) {
  const auto checked = LoadRecipe(arguments.recipe, /*data_is_here=*/false);
  if (!checked.ok()) {
    Complain(std::string(checked.status().message()));
    return kWrongUsage;
  }
  const auto stages = server::PlanStages(checked->spec, "");
  if (arguments.output == "json") {
    Print(Dump(PlanJson(checked->spec, stages), "json"));
  } else {
    Print(arguments.output == "dot" ? PlanDot(checked->spec.name(), stages) : PlanText(stages));
  }
  return kDone;
}

}  // namespace

void RegisterPlan(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command = app.add_subcommand("plan", "Show the stages that a recipe makes, without a coordinator");
  AddRecipe(*command, arguments->recipe);
  AddOutput(*command, arguments->output, {"text", "dot", "json"});
  command->footer(
      "Examples:\n  bitstair plan recipes/smoke.yaml\n  bitstair plan recipes/smoke.yaml --set 'widths=[32, 8, 4, 2]' --set order=per_stage\n  bitstair plan "
      "recipes/smoke.yaml --output dot | dot -Tsvg > plan.svg");
  command->callback([arguments, &exit_code] { exit_code = RunPlan(*arguments); });
}

}  // namespace bitstair::client
