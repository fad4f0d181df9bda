// bitstair health: whether the coordinator serves, and what its fleet has.
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/json.h"

namespace bitstair::client {
namespace {

struct HealthArguments {
  ConnectionFlags coordinator;
  std::string output;
};

int RunHealth(const HealthArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  const auto serving = client.IsServing();
  if (!serving.ok()) return Fail(serving.status(), client.address());
  const std::string state = *serving ? "SERVING" : "NOT_SERVING";
  Json result = {{"coordinator", client.address()}, {"state", state}};
  std::string fleet = "the fleet is shown with a token only";
  const auto workers = client.ListWorkers();
  // Health is for everybody, so that a container's check needs no token.
  if (!workers.ok() && !absl::IsUnauthenticated(workers.status())) return Fail(workers.status(), client.address());
  if (workers.ok()) {
    int ready = 0;
    int slots = 0;
    int free_slots = 0;
    for (const v1::Worker& worker : *workers) {
      if (worker.state() != v1::WORKER_STATE_READY) continue;
      ++ready;
      slots += worker.slots_size();
      free_slots += worker.free_slots();
    }
    result.update({{"workers_ready", ready}, {"slots", slots}, {"free_slots", free_slots}});
    fleet = absl::StrCat(ready, ready == 1 ? " worker" : " workers", " ready, ", free_slots, " of ", slots, " slots free");
  }
  Print(arguments.output == "table" ? absl::StrCat(client.address(), ": ", state, ", ", fleet, "\n") : Dump(result, arguments.output));
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
