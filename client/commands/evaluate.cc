// bitstair evaluate: becomes bitstair-evaluator, which has LibTorch and knows the options (worker/evaluator/main.cc).
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/embedded.h"

namespace bitstair::client {

int BecomeEvaluator(std::vector<std::string> arguments) {
  const auto folder = ProgramDirectory();
  if (!folder.ok()) {
    Complain(std::string(folder.status().message()));
    return kFailed;
  }
  const std::string program = *folder + "/bitstair-evaluator";
  arguments.insert(arguments.begin(), program);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  Complain(absl::StrCat("cannot start ", program, ": ", std::generic_category().message(errno)));
  return kFailed;
}

void RegisterEvaluate(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("evaluate", "Accuracy of weights from a file (safetensors or PyTorch) on a data set, on this machine");
  command->set_help_flag();  // the program's own
  command->prefix_command();
  command->callback([command, &exit_code] { exit_code = BecomeEvaluator(command->remaining()); });
}

}  // namespace bitstair::client
