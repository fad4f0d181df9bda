// bitstair cancel: asks the coordinator to end a job.
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"

namespace bitstair::client {
namespace {

struct CancelArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string job;
  bool wait = false;
};

int RunCancel(const CancelArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  auto job = client.CancelJob(arguments.job);
  if (job.ok() && arguments.wait) job = client.WatchJob(arguments.job, [](const v1::WatchJobResponse&) {});
  if (!job.ok()) return Fail(job.status(), client.address());
  Print(arguments.output == "table" ? absl::StrCat(ShortName(job->name()), ": ", StateWord(job->state()), "\n") : Dump(JobJson(*job, false), arguments.output));
  return kDone;
}

}  // namespace

void RegisterCancel(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<CancelArguments>();
  CLI::App* command = app.add_subcommand("cancel", "End a job; its trainers are stopped");
  command->add_option("job", arguments->job, "The job")->type_name("JOB")->required()->check(kIsJob);
  command->add_flag("--wait", arguments->wait, "Come back when its trainers have ended");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair cancel smoke-3f2a\n  bitstair cancel smoke-3f2a --wait");
  command->callback([arguments, &exit_code] { exit_code = RunCancel(*arguments); });
}

}  // namespace bitstair::client
