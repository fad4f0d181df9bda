// bitstair plan: the stages that a recipe makes; needs no coordinator, unless it is asked when.
#include <memory>

#include "client/commands/command.h"
#include "client/plan_view.h"
#include "client/table.h"
#include "server/planner.h"

namespace bitstair::client {
namespace {

struct PlanArguments {
  RecipeArguments recipe;
  std::string output;
  ConnectionFlags coordinator;
  bool when = false;
};

bool IsData(const std::string& output) {
  return output == "json" || output == "yaml";
}

int RunPreview(const PlanArguments& arguments, const CheckedRecipe& checked) {
  Client client(Connect(arguments.coordinator));
  v1::CreateJobRequest request;
  *request.mutable_spec() = checked.spec;
  request.set_validate_only(true);
  const auto job = client.CreateJob(request);
  if (!job.ok()) {
    const auto violations = GetFieldViolations(job.status());
    if (violations.empty()) return Fail(job.status(), client.address());
    Complain(DescribeViolations(checked.recipe, violations));
    return kWrongUsage;
  }
  Print(IsData(arguments.output) ? Dump(PreviewJson(*job), arguments.output) : Harmless(PreviewText(*job)));
  return kDone;
}

int RunPlan(const PlanArguments& arguments) {
  const auto checked = LoadRecipe(arguments.recipe, /*data_is_here=*/false);
  if (!checked.ok()) {
    Complain(std::string(checked.status().message()));
    return kWrongUsage;
  }
  if (arguments.when) return RunPreview(arguments, *checked);
  const auto stages = server::PlanJob(checked->spec, "");
  if (IsData(arguments.output)) {
    Print(Dump(PlanJson(checked->spec, stages), arguments.output));
  } else {
    Print(arguments.output == "dot" ? PlanDot(checked->spec.name(), stages) : PlanText(stages));
  }
  return kDone;
}

}  // namespace

void RegisterPlan(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command = app.add_subcommand("plan", "Show the stages that a recipe makes, without a coordinator; or when and where they would run");
  AddRecipe(*command, arguments->recipe);
  command->add_flag("--when", arguments->when, "Ask the coordinator: what is shared, where it would run, when it would start and end; stores nothing");
  AddOutput(*command, arguments->output, {"text", "json", "yaml", "dot"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer(
      "Examples:\n  bitstair plan recipes/smoke.yaml\n  bitstair plan recipes/smoke.yaml --set 'widths=[32, 8, 4, 2]' --set order=per_stage\n  bitstair plan "
      "recipes/smoke.yaml --output dot | dot -Tsvg > plan.svg\n  bitstair plan recipes/smoke.yaml --when");
  command->callback([arguments, &exit_code] { exit_code = RunPlan(*arguments); });
}

}  // namespace bitstair::client
