// bitstair describe: one job with its stages and events.
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct DescribeArguments {
  std::string coordinator;
  std::string output;
  std::string job;
};

std::string StageTable(const v1::Job& job) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Stage& stage : job.stages()) {
    std::string where;
    for (const v1::RankPlacement& rank : stage.placement()) {
      absl::StrAppend(&where, where.empty() ? "" : ", ", ShortName(rank.worker()), rank.pid() > 0 ? absl::StrCat(" (pid ", rank.pid(), ")") : "");
    }
    rows.push_back({ShortName(stage.name()), StateWord(stage.state()), absl::StrCat(stage.epochs_size(), "/", stage.spec().epochs()),
                    absl::StrCat(stage.attempts()), absl::StrCat(stage.generation()), stage.key().substr(0, 12), where.empty() ? "-" : where, stage.reason()});
  }
  using enum Align;
  return Table({"stage", "state", "epochs", "attempts", "generation", "key", "ranks on", "reason"}, {kLeft, kLeft, kRight, kRight, kRight, kLeft, kLeft, kLeft},
               rows);
}

std::string EventTable(const std::vector<v1::Event>& events) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Event& event : events) {
    rows.push_back(
        {ToJson(event.time()).get<std::string>().substr(0, 19), event.stage().empty() ? "-" : ShortName(event.stage()), event.type(), event.message()});
  }
  using enum Align;
  return Table({"time (UTC)", "stage", "event", "message"}, {kLeft, kLeft, kLeft, kLeft}, rows);
}

int RunDescribe(const DescribeArguments& arguments) {
  Client client(arguments.coordinator);
  const auto job = client.GetJob(arguments.job);
  if (!job.ok()) return Fail(job.status(), arguments.coordinator);
  const auto events = client.ListEvents(arguments.job);
  if (!events.ok()) return Fail(events.status(), arguments.coordinator);
  if (arguments.output != "table") {
    Json result = JobJson(*job, true);
    result["events"] = Json::array();
    for (const v1::Event& event : *events) result["events"].push_back(ToJson(event));
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::string out =
      absl::StrCat("job      ", ShortName(job->name()), "\nstate    ", StateWord(job->state()), job->reason().empty() ? "" : ": ", job->reason(), "\nnetwork  ",
                   job->spec().network(), "\ndata     ", job->spec().data().name(), job->spec().data().path(), "\nranks    ", job->spec().ranks(), "\n");
  absl::StrAppend(&out, "\n", StageTable(*job), "\n", ResultTable(*job), "\n", EventTable(*events));
  Print(Harmless(out));
  return kDone;
}

}  // namespace

void RegisterDescribe(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<DescribeArguments>();
  CLI::App* command = app.add_subcommand("describe", "Show one job: its recipe, stages, results and events");
  command->add_option("job", arguments->job, "The job")->type_name("JOB")->required()->check(kIsJob);
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair describe smoke-3f2a\n  bitstair describe smoke-3f2a --output json | jq '.stages[].top1'");
  command->callback([arguments, &exit_code] { exit_code = RunDescribe(*arguments); });
}

}  // namespace bitstair::client
