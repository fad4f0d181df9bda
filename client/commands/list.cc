// bitstair list: the jobs of a coordinator, newest first.
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct ListArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string filter;
  int limit = 50;
};

int RunList(const ListArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  const auto jobs = client.ListJobs(arguments.filter, arguments.limit);
  if (!jobs.ok()) return Fail(jobs.status(), client.address());
  if (arguments.output != "table") {
    Json result = {{"jobs", Json::array()}};
    for (const v1::Job& job : *jobs) result["jobs"].push_back(JobJson(job, false));
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Job& job : *jobs) {
    const auto done =
        std::count_if(job.stages().begin(), job.stages().end(), [](const v1::Stage& stage) { return stage.state() == v1::STAGE_STATE_SUCCEEDED; });
    rows.push_back({ShortName(job.name()), job.spec().name(), StateWord(job.state()), absl::StrCat(done, "/", job.stages_size()),
                    job.has_create_time() ? ShortTime(job.create_time()) : "-", Fit(job.reason(), 60)});
  }
  using enum Align;
  Print(Table({"job", "name", "state", "stages", "created (UTC)", "reason"}, {kLeft, kLeft, kLeft, kRight, kLeft, kLeft}, rows));
  return kDone;
}

}  // namespace

void RegisterList(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<ListArguments>();
  CLI::App* command = app.add_subcommand("list", "List jobs, newest first");
  command->add_option("--filter", arguments->filter, "Terms joined by AND: state=RUNNING, state=ACTIVE (not ended), name=NAME, name=PREFIX*")
      ->type_name("FILTER");
  command->add_option("--limit", arguments->limit, "At most so many; 0: all")->capture_default_str()->check(CLI::Range(0, 1'000'000));
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair list\n  bitstair list --filter 'state=ACTIVE AND name=cifar*'\n  bitstair list --output json | jq -r '.jobs[].job'");
  command->callback([arguments, &exit_code] { exit_code = RunList(*arguments); });
}

}  // namespace bitstair::client
