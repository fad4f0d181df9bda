// bitstair workers: the fleet.
#include <algorithm>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct WorkersArguments {
  ConnectionFlags coordinator;
  std::string output;
};

std::string EnumText(const google::protobuf::EnumDescriptor& type, int number) {
  const auto* value = type.FindValueByNumber(number);
  return value == nullptr ? absl::StrCat(number) : EnumWord(*value);
}

int RunWorkers(const WorkersArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  const auto workers = client.ListWorkers();
  if (!workers.ok()) return Fail(workers.status(), client.address());
  if (arguments.output != "table") {
    Json result = {{"workers", Json::array()}};
    for (const v1::Worker& worker : *workers) result["workers"].push_back(ToJson(worker));
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Worker& worker : *workers) {
    std::set<std::string> kinds;
    for (const v1::Slot& slot : worker.slots()) kinds.insert(EnumText(*v1::SlotKind_descriptor(), slot.kind()));
    std::vector<std::string> datasets;
    for (const v1::Dataset& dataset : worker.datasets()) datasets.push_back(dataset.name());
    std::vector<std::string> labels;
    for (const auto& [key, value] : worker.labels()) labels.push_back(absl::StrCat(key, "=", value));
    std::sort(labels.begin(), labels.end());
    rows.push_back({ShortName(worker.name()), absl::StrCat(EnumText(*v1::WorkerState_descriptor(), worker.state()), worker.cordoned() ? ", cordoned" : ""),
                    absl::StrJoin(kinds, ","), absl::StrCat(worker.free_slots(), "/", worker.slots_size()), absl::StrJoin(datasets, ","),
                    labels.empty() ? "-" : absl::StrJoin(labels, ","), worker.host(), worker.version(), worker.numeric_profile()});
  }
  using enum Align;
  Print(Table({"worker", "state", "slots", "free", "data sets", "labels", "host", "version", "numeric profile"},
              {kLeft, kLeft, kLeft, kRight, kLeft, kLeft, kLeft, kLeft, kLeft}, rows));
  return kDone;
}

}  // namespace

void RegisterWorkers(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<WorkersArguments>();
  CLI::App* command = app.add_subcommand("workers", "List workers with their slots and data sets");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair workers\n  bitstair workers --output json | jq '.workers[].free_slots'");
  command->callback([arguments, &exit_code] { exit_code = RunWorkers(*arguments); });
}

}  // namespace bitstair::client
