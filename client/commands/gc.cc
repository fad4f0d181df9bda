// bitstair gc: deletes what nobody needs of the artifact store.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct GarbageArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string older_than;
  bool dry_run = false;
};

std::string Bytes(int64_t bytes) {
  return bytes < 1'000'000 ? absl::StrFormat("%.1f kB", static_cast<double>(bytes) / 1e3) : absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

int RunGarbage(const GarbageArguments& arguments) {
  v1::CollectGarbageRequest request;
  request.set_dry_run(arguments.dry_run);
  if (!arguments.older_than.empty()) request.mutable_older_than()->set_seconds(SecondsOf(arguments.older_than));
  Client client(Connect(arguments.coordinator));
  const auto response = client.CollectGarbage(request);
  if (!response.ok()) return Fail(response.status(), client.address());
  if (arguments.output != "table") {
    Json result = ToJson(*response);
    result["dry_run"] = arguments.dry_run;
    if (!result.contains("garbage")) result["garbage"] = Json::array();
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Garbage& garbage : response->garbage()) {
    rows.push_back({garbage.sha256().substr(0, 12), Bytes(garbage.size_bytes()), garbage.stage().empty() ? "-" : garbage.stage(), garbage.reason()});
  }
  using enum Align;
  if (!rows.empty()) Print(Harmless(Table({"blob", "size", "stage", "why"}, {kLeft, kRight, kLeft, kLeft}, rows)));
  Print(absl::StrCat(arguments.dry_run ? "would delete " : "deleted ", response->deleted_blobs(), " blobs of ", Bytes(response->deleted_bytes()), "; ",
                     response->kept_blobs(), " blobs of ", Bytes(response->kept_bytes()), arguments.dry_run ? " would stay\n" : " stay\n"));
  return kDone;
}

}  // namespace

void RegisterGarbage(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<GarbageArguments>();
  CLI::App* command = app.add_subcommand("gc", "Delete blobs that nothing refers to, and checkpoints of jobs that ended long ago");
  command->add_flag("--dry-run", arguments->dry_run, "Only say what would be deleted");
  command->add_option("--older-than", arguments->older_than, "Also checkpoints of jobs that ended so long ago (30d, 12h, 45m, 90s) and are not pinned")
      ->type_name("AGE")
      ->check(kIsAge);
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair gc --dry-run\n  bitstair gc --older-than 30d");
  command->callback([arguments, &exit_code] { exit_code = RunGarbage(*arguments); });
}

}  // namespace bitstair::client
