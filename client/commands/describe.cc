// bitstair describe: one job with its stages and events.
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/staircase.h"
#include "client/table.h"
#include "client/terminal.h"

namespace bitstair::client {
namespace {

constexpr int kMaxLevelsShown = 16;
constexpr int kWidestStaircase = 100;

struct DescribeArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string job;
  bool layers = false;
};

// "jobs/a/stages/W4A4" -> "a/W4A4"
std::string TrainingOf(const v1::Stage& stage) {
  if (stage.sharing() == v1::STAGE_SHARING_REUSED || stage.sharing() == v1::STAGE_SHARING_JOINED) {
    const std::vector<std::string> parts = absl::StrSplit(stage.shared_with(), '/');
    if (parts.size() == 4) return absl::StrCat(parts[1], "/", parts[3]);
  }
  return stage.waiting_jobs() > 1 ? absl::StrCat("this and ", stage.waiting_jobs() - 1, " more") : "-";
}

std::string StageTable(const v1::Job& job) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Stage& stage : job.stages()) {
    std::string where;
    for (const v1::RankPlacement& rank : stage.placement()) {
      absl::StrAppend(&where, where.empty() ? "" : ", ", ShortName(rank.worker()), rank.pid() > 0 ? absl::StrCat(" (pid ", rank.pid(), ")") : "");
    }
    std::string why = stage.reason();
    if (!stage.gate().empty()) absl::StrAppend(&why, why.empty() ? "" : "; ", stage.gate());
    rows.push_back({ShortName(stage.name()), stage.spec().parent().empty() ? "-" : stage.spec().parent(), StateWord(stage.state()),
                    absl::StrCat(stage.epochs_size(), "/", stage.spec().epochs()), absl::StrCat(stage.attempts()), absl::StrCat(stage.generation()),
                    stage.key().substr(0, 12), TrainingOf(stage), where.empty() ? "-" : where,
                    stage.has_expected_end_time() ? ShortTime(stage.expected_end_time()) : "-", why});
  }
  using enum Align;
  return Table({"stage", "parent", "state", "epochs", "attempts", "generation", "key", "training of", "ranks on", "ends at about", "reason"},
               {kLeft, kLeft, kLeft, kRight, kRight, kRight, kLeft, kLeft, kLeft, kLeft, kLeft}, rows);
}

std::string EventTable(const std::vector<v1::Event>& events) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Event& event : events) {
    rows.push_back({ShortTime(event.time()), event.stage().empty() ? "-" : ShortName(event.stage()), event.type(), event.message()});
  }
  using enum Align;
  return Table({"time (UTC)", "stage", "event", "message"}, {kLeft, kLeft, kLeft, kLeft}, rows);
}

// "-3: 12.1, -1: 37.9, 1: 38, 3: 12 %"
std::string Levels(const v1::LayerTelemetry& layer) {
  if (layer.levels().empty()) return "-";
  if (layer.levels_size() > kMaxLevelsShown) return absl::StrCat(layer.levels_size(), " in use");
  std::string text;
  for (int i = 0; i < layer.levels_size() && i < layer.level_shares_size(); ++i) {
    absl::StrAppendFormat(&text, "%s%d: %.1f", i == 0 ? "" : ", ", layer.levels(i), 100.0 * static_cast<double>(layer.level_shares(i)));
  }
  return text + " %";
}

// Each stage's last epoch.
std::string LayerTables(const std::vector<v1::StageMetrics>& stages) {
  std::string out;
  for (const v1::StageMetrics& stage : stages) {
    const v1::EpochResult& last = stage.epochs(stage.epochs_size() - 1);
    std::vector<std::vector<std::string>> rows;
    for (const v1::LayerTelemetry& layer : last.layers()) {
      const auto cell = [](bool present, const absl::FormatSpec<double>& format, double value) {
        return present ? absl::StrFormat(format, value) : std::string("-");
      };
      rows.push_back({layer.net().empty() ? "-" : layer.net(), layer.name(), cell(layer.has_clipped_share(), "%.2f %%", 100 * layer.clipped_share()),
                      cell(layer.has_gradient_norm(), "%.3g", layer.gradient_norm()), cell(layer.has_hint_distance(), "%.3g", layer.hint_distance()),
                      Levels(layer)});
    }
    using enum Align;
    absl::StrAppend(&out, "\nlayers of ", ShortName(stage.stage()), " after epoch ", last.epoch(), "\n",
                    rows.empty()
                        ? "no telemetry\n"
                        : Table({"net", "layer", "clipped", "gradient", "hint", "weights on levels"}, {kLeft, kLeft, kRight, kRight, kRight, kLeft}, rows));
  }
  return out;
}

// Puts the results with telemetry in place of those without.
void AddLayers(const std::vector<v1::StageMetrics>& metrics, Json* job) {
  for (const v1::StageMetrics& stage : metrics) {
    for (Json& shown : (*job)["stages"]) {
      if (shown["name"] != ShortName(stage.stage())) continue;
      shown["results"] = Json::array();
      for (const v1::EpochResult& epoch : stage.epochs()) shown["results"].push_back(ToJson(epoch));
    }
  }
}

int RunDescribe(const DescribeArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  const auto job = client.GetJob(arguments.job);
  if (!job.ok()) return Fail(job.status(), client.address());
  const auto events = client.ListEvents(arguments.job);
  if (!events.ok()) return Fail(events.status(), client.address());
  std::vector<v1::StageMetrics> metrics;
  if (arguments.layers) {
    auto listed = client.ListMetrics(arguments.job);
    if (!listed.ok()) return Fail(listed.status(), client.address());
    metrics = *std::move(listed);
  }
  if (arguments.output != "table") {
    Json result = JobJson(*job, true);
    AddLayers(metrics, &result);
    result["events"] = Json::array();
    for (const v1::Event& event : *events) result["events"].push_back(ToJson(event));
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::string out =
      absl::StrCat("job      ", ShortName(job->name()), "\nstate    ", StateWord(job->state()), job->reason().empty() ? "" : ": ", job->reason(), "\nnetwork  ",
                   job->spec().network(), "\ndata     ", job->spec().data().name(), job->spec().data().path(), "\nranks    ", job->spec().ranks(), "\n");
  if (job->has_expected_end_time()) absl::StrAppend(&out, "ends at  ", ShortTime(job->expected_end_time()), " UTC, about\n");
  if (job->pinned()) absl::StrAppend(&out, "pinned   its checkpoints are not collected as garbage\n");
  const Shared shared = CountShared(*job);
  if (shared.stages > 0) {
    absl::StrAppend(&out, "shared   ", shared.stages, " of ", job->stages_size(), " stages, ", Duration(shared.slot_seconds), " of slot time saved\n");
  }
  absl::StrAppend(&out, "\n", StageTable(*job), "\n", ResultTable(*job), "\n");
  StaircaseStyle style;
  style.width = std::min(kWidestStaircase, TerminalWidth(STDOUT_FILENO));
  style.unicode = IsUtf8Locale();
  const std::vector<std::string> stairs = Staircase(*job, style);
  if (!stairs.empty()) absl::StrAppend(&out, absl::StrJoin(stairs, "\n"), "\n\n");
  absl::StrAppend(&out, EventTable(*events), LayerTables(metrics));
  Print(Harmless(out));
  return kDone;
}

}  // namespace

void RegisterDescribe(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<DescribeArguments>();
  CLI::App* command = app.add_subcommand("describe", "Show one job: its recipe, stages, results and events");
  command->add_option("job", arguments->job, "The job")->type_name("JOB")->required()->check(kIsJob);
  command->add_flag("--layers", arguments->layers, "Also what happened inside of the nets, layer by layer (JSON: of every epoch)");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer(
      "Examples:\n  bitstair describe smoke-3f2a\n  bitstair describe smoke-3f2a --output json | jq '.stages[].top1'\n  bitstair describe smoke-3f2a --layers");
  command->callback([arguments, &exit_code] { exit_code = RunDescribe(*arguments); });
}

}  // namespace bitstair::client
