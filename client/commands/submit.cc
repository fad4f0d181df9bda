// bitstair submit: reads a recipe and hands it to the coordinator. The first step of a job's way; the next is server/jobs_service.cc (CreateJob).
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/plan_view.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct SubmitArguments {
  RecipeArguments recipe;
  ConnectionFlags coordinator;
  std::string output;
  std::string request_id;
  bool validate_only = false;
  bool wait = false;
};

int RunSubmit(const SubmitArguments& arguments) {
  const auto checked = LoadRecipe(arguments.recipe, /*data_is_here=*/false);
  if (!checked.ok()) {
    Complain(std::string(checked.status().message()));
    return kWrongUsage;
  }
  Client client(Connect(arguments.coordinator));
  v1::CreateJobRequest request;
  *request.mutable_spec() = checked->spec;
  request.set_request_id(arguments.request_id);
  request.set_validate_only(arguments.validate_only);
  const auto job = client.CreateJob(request);
  if (!job.ok()) {
    const auto violations = GetFieldViolations(job.status());
    if (violations.empty()) return Fail(job.status(), client.address());
    Complain(DescribeViolations(checked->recipe, violations));
    return kWrongUsage;
  }
  if (arguments.validate_only) {
    Print(arguments.output == "table" ? Harmless(PreviewText(*job)) : Dump(PreviewJson(*job), arguments.output));
    return kDone;
  }
  if (arguments.wait) {
    Complain(absl::StrCat("submitted as ", ShortName(job->name())));
    return WatchToEnd(client, job->name(), arguments.output, /*quiet=*/false);
  }
  Print(arguments.output == "table" ? ShortName(job->name()) + "\n" : Dump(JobJson(*job, false), arguments.output));
  return kDone;
}

}  // namespace

void RegisterSubmit(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<SubmitArguments>();
  CLI::App* command = app.add_subcommand("submit", "Hand a recipe to the coordinator and print the job's name");
  AddRecipe(*command, arguments->recipe);
  command->add_option("--request-id", arguments->request_id, "Makes a repeat harmless: the same id gives the same job")->type_name("ID");
  command->add_flag("--validate-only", arguments->validate_only, "Let the coordinator check and plan it, and store nothing");
  command->add_flag("--wait", arguments->wait, "Watch it until it ends");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer(
      "Examples:\n  bitstair submit recipes/smoke.yaml\n  bitstair submit recipes/smoke.yaml --set seed=2 --request-id nightly-2\n  bitstair watch $(bitstair "
      "submit recipes/smoke.yaml)");
  command->callback([arguments, &exit_code] { exit_code = RunSubmit(*arguments); });
}

}  // namespace bitstair::client
