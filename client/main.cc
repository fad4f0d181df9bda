// bitstair: the command line. Each command is a file in commands/.
#include <algorithm>
#include <exception>
#include <iostream>

#include "client/commands/command.h"
#include "core/version/version.h"

int main(int argc, char** argv) {
  using namespace bitstair::client;
  namespace core = bitstair::core;
  CLI::App app("Bitstair trains low-bit convolutional networks down a staircase of bit-widths.", "bitstair");
  app.set_version_flag("--version", core::VersionText("bitstair"));
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return std::string("bitstair: ") + error.what() + "\nbitstair --help, or bitstair COMMAND --help, tells more.\n";
  });
  app.footer(
      "Examples:\n  bitstair run recipes/smoke.yaml                train on this machine and print the result\n  bitstair plan recipes/smoke.yaml              "
      " what would be trained\n"
      "  bitstair submit recipes/smoke.yaml             hand it to a running coordinator\n  bitstair watch smoke-3f2a                      follow it\n\n"
      "Exit status: 0 done, 1 job failed, 2 wrong usage or recipe, 3 coordinator not reachable, 4 cancelled, 130 interrupted.");
  int exit_code = kDone;
  for (const auto add :
       {RegisterRun, RegisterSubmit, RegisterList, RegisterDescribe, RegisterWatch, RegisterLogs, RegisterCancel, RegisterChanges, RegisterTop, RegisterWorkers,
        RegisterValidate, RegisterPlan, RegisterEvaluate, RegisterReport, RegisterGarbage, RegisterHealth, RegisterConfig, RegisterToken, RegisterCompletion}) {
    add(app, exit_code);
  }
  if (argc > 1 && std::string(argv[1]) == "__complete") {
    PrintCompletions(app, {argv + 2, argv + argc});
    return kDone;
  }
  const auto commands = app.get_subcommands(nullptr);
  const auto is_chosen = [&](const CLI::App* command) { return command->check_name(argv[1]); };
  if (argc > 1 && argv[1][0] != '-' && std::none_of(commands.begin(), commands.end(), is_chosen)) {
    Complain(std::string("there is no command \"") + argv[1] + "\"; bitstair --help lists them");
    return kWrongUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, std::cout, std::cerr) == 0 ? kDone : kWrongUsage;
  } catch (const std::exception& error) {
    Complain(error.what());
    return kFailed;
  }
  return exit_code;
}
