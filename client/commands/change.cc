// bitstair pause, resume, retry, pin, unpin, prioritize: change a job. bitstair cordon, uncordon, drain: what a worker gets.
#include <functional>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct ChangeArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string name;
  std::string priority;
};

using ChangeJob = std::function<absl::StatusOr<v1::Job>(Client&, const ChangeArguments&)>;
using ChangeWorker = std::function<absl::StatusOr<v1::Worker>(Client&, const std::string& worker)>;

int RunChangeJob(const ChangeArguments& arguments, const ChangeJob& change) {
  Client client(Connect(arguments.coordinator));
  const auto job = change(client, arguments);
  if (!job.ok()) return Fail(job.status(), client.address());
  Print(arguments.output == "table"
            ? Harmless(absl::StrCat(ShortName(job->name()), ": ", StateWord(job->state()), job->reason().empty() ? "" : ", ", job->reason(), "\n"))
            : Dump(JobJson(*job, false), arguments.output));
  return kDone;
}

int RunChangeWorker(const ChangeArguments& arguments, const ChangeWorker& change) {
  Client client(Connect(arguments.coordinator));
  const auto worker = change(client, arguments.name);
  if (!worker.ok()) return Fail(worker.status(), client.address());
  Print(arguments.output == "table"
            ? Harmless(absl::StrCat(worker->host().empty() ? ShortName(worker->name()) : worker->host(), ": ",
                                    worker->cordoned() ? "gets no new stages" : "gets stages", "; ", worker->slots_size() - worker->free_slots(), " of its ",
                                    worker->slots_size(), " slots are in use\n"))
            : Dump(ToJson(*worker), arguments.output));
  return kDone;
}

CLI::App* AddJobChange(CLI::App& app, int& exit_code, const std::string& name, const std::string& help, const std::string& example, ChangeJob change,
                       std::shared_ptr<ChangeArguments> arguments = std::make_shared<ChangeArguments>()) {
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("job", arguments->name, "The job")->type_name("JOB")->required()->check(kIsJob);
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  " + example);
  command->callback([arguments, change = std::move(change), &exit_code] { exit_code = RunChangeJob(*arguments, change); });
  return command;
}

void AddWorkerChange(CLI::App& app, int& exit_code, const std::string& name, const std::string& help, ChangeWorker change) {
  auto arguments = std::make_shared<ChangeArguments>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("worker", arguments->name, "The worker, by its name or id (bitstair workers)")->type_name("WORKER")->required();
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair " + name + " gpu-host-3");
  command->callback([arguments, change = std::move(change), &exit_code] { exit_code = RunChangeWorker(*arguments, change); });
}

}  // namespace

void RegisterChanges(CLI::App& app, int& exit_code) {
  AddJobChange(app, exit_code, "pause", "Stop a job at a checkpoint until it is resumed", "bitstair pause smoke-3f2a",
               [](Client& client, const ChangeArguments& a) { return client.PauseJob(a.name); });
  AddJobChange(app, exit_code, "resume", "Let a paused job go on", "bitstair resume smoke-3f2a",
               [](Client& client, const ChangeArguments& a) { return client.ResumeJob(a.name); });
  AddJobChange(app, exit_code, "retry", "Let a failed or cancelled job go on where it was, with a new budget of tries", "bitstair retry smoke-3f2a",
               [](Client& client, const ChangeArguments& a) { return client.RetryJob(a.name); });
  AddJobChange(app, exit_code, "pin", "Keep a job's checkpoints whatever garbage collection deletes", "bitstair pin smoke-3f2a",
               [](Client& client, const ChangeArguments& a) { return client.PinJob(a.name, true); });
  AddJobChange(app, exit_code, "unpin", "Let garbage collection have a job's checkpoints again", "bitstair unpin smoke-3f2a",
               [](Client& client, const ChangeArguments& a) { return client.PinJob(a.name, false); });
  auto prioritize = std::make_shared<ChangeArguments>();
  AddJobChange(
      app, exit_code, "prioritize", "Change the priority of what waits of a job", "bitstair prioritize smoke-3f2a --priority high",
      [](Client& client, const ChangeArguments& a) {
        v1::PriorityClass priority = v1::PRIORITY_CLASS_UNSPECIFIED;
        v1::PriorityClass_Parse("PRIORITY_CLASS_" + absl::AsciiStrToUpper(a.priority), &priority);
        return client.PrioritizeJob(a.name, priority);
      },
      prioritize)
      ->add_option("--priority", prioritize->priority, "What it gets")
      ->type_name("low|normal|high")
      ->required()
      ->check(CLI::IsMember({"low", "normal", "high"}));
  AddWorkerChange(app, exit_code, "cordon", "Give a worker no new stages; what runs there goes on",
                  [](Client& client, const std::string& worker) { return client.CordonWorker(worker); });
  AddWorkerChange(app, exit_code, "uncordon", "Give a worker stages again",
                  [](Client& client, const std::string& worker) { return client.UncordonWorker(worker); });
  AddWorkerChange(app, exit_code, "drain", "Give a worker no new stages, and let what runs there stop at a checkpoint and go on elsewhere",
                  [](Client& client, const std::string& worker) { return client.DrainWorker(worker); });
}

}  // namespace bitstair::client
