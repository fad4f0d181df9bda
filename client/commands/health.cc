// bitstair health: whether the coordinator serves, and what its fleet has.
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"

namespace bitstair::client {
namespace {

struct HealthArguments {
  std::string coordinator;
  std::string output;
};

int RunHealth(const HealthArguments& arguments) {
  Client client(arguments.coordinator);
  const auto serving = client.IsServing();
  if (!serving.ok()) return Fail(serving.status(), arguments.coordinator);
  const auto workers = client.ListWorkers();
  if (!workers.ok()) return Fail(workers.status(), arguments.coordinator);
  int ready = 0;
  int slots = 0;
  int free_slots = 0;
  for (const v1::Worker& worker : *workers) {
    if (worker.state() != v1::WORKER_STATE_READY) continue;
    ++ready;
    slots += worker.slots_size();
    free_slots += worker.free_slots();
  }
  const std::string state = *serving ? "SERVING" : "NOT_SERVING";
  if (arguments.output == "table") {
    Print(absl::StrCat(arguments.coordinator, ": ", state, ", ", ready, ready == 1 ? " worker" : " workers", " ready, ", free_slots, " of ", slots,
                       " slots free\n"));
  } else {
    Print(Dump({{"coordinator", arguments.coordinator}, {"state", state}, {"workers_ready", ready}, {"slots", slots}, {"free_slots", free_slots}},
               arguments.output));
  }
  return *serving ? kDone : kUnreachable;
}

}  // namespace

void RegisterHealth(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<HealthArguments>();
  CLI::App* command = app.add_subcommand("health", "Ask whether the coordinator serves; status 3 if not");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair health\n  bitstair health --coordinator 10.0.0.5:7420 --output json");
  command->callback([arguments, &exit_code] { exit_code = RunHealth(*arguments); });
}

}  // namespace bitstair::client
