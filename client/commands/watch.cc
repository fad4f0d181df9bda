// bitstair watch: follows a job until it ends.
#include <memory>

#include "client/commands/command.h"

namespace bitstair::client {
namespace {

struct WatchArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string job;
  bool quiet = false;
};

int RunWatch(const WatchArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  return WatchToEnd(client, arguments.job, arguments.output, arguments.quiet);
}

}  // namespace

void RegisterWatch(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<WatchArguments>();
  CLI::App* command = app.add_subcommand("watch", "Follow a job until it ends; status 0 done, 1 failed, 4 cancelled");
  command->add_option("job", arguments->job, "The job")->type_name("JOB")->required()->check(kIsJob);
  command->add_flag("-q,--quiet", arguments->quiet, "No progress on stderr");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair watch smoke-3f2a\n  bitstair watch smoke-3f2a --quiet --output json");
  command->callback([arguments, &exit_code] { exit_code = RunWatch(*arguments); });
}

}  // namespace bitstair::client
