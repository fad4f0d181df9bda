// bitstair validate: checks recipes; needs no coordinator.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "server/planner.h"

namespace bitstair::client {
namespace {

struct ValidateArguments {
  RecipeArguments recipe;
  std::string output;
};

std::string Summary(const v1::JobSpec& spec) {
  const auto stages = server::PlanStages(spec, "");
  int epochs = 0;
  std::vector<std::string> names;
  for (const v1::StageSpec& stage : stages) {
    epochs += stage.epochs();
    names.push_back(stage.name());
  }
  return absl::StrCat("  ", spec.name(), ": ", spec.network(), " on ", spec.data().name(), spec.data().path(), ", ", spec.ranks(),
                      spec.ranks() == 1 ? " rank" : " ranks", ", batch ", spec.batch_size(), "\n  ", stages.size(), stages.size() == 1 ? " stage" : " stages",
                      ", ", epochs, epochs == 1 ? " epoch" : " epochs", ": ", absl::StrJoin(names, " -> "), "\n");
}

int RunValidate(const ValidateArguments& arguments) {
  const auto checked = LoadRecipe(arguments.recipe, /*data_is_here=*/false);
  if (arguments.output != "table" && (checked.ok() || absl::IsInvalidArgument(checked.status()))) {
    Json result = {{"file", arguments.recipe.file}, {"ok", checked.ok()}};
    if (checked.ok()) {
      result["spec"] = ToJson(checked->spec, EnumWords::kRecipe);
    } else {
      result["errors"] = std::vector<std::string>(absl::StrSplit(checked.status().message(), '\n'));
    }
    Print(Dump(result, arguments.output));
  }
  if (!checked.ok()) {
    Complain(std::string(checked.status().message()));
    return kWrongUsage;
  }
  if (arguments.output == "table") Print(absl::StrCat(arguments.recipe.file, ": ok\n", Summary(checked->spec)));
  return kDone;
}

}  // namespace

void RegisterValidate(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<ValidateArguments>();
  CLI::App* command = app.add_subcommand("validate", "Check a recipe, without a coordinator; status 2 if it is wrong");
  AddRecipe(*command, arguments->recipe);
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  command->footer("Examples:\n  bitstair validate recipes/smoke.yaml\n  bitstair validate recipes/smoke.yaml --set ranks=4 --output yaml");
  command->callback([arguments, &exit_code] { exit_code = RunValidate(*arguments); });
}

}  // namespace bitstair::client
