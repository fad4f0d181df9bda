// bitstair report: one page about jobs, to look at and to hand on. bitstair compare: their results side by side.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/report/report.h"
#include "client/table.h"
#include "core/version/version.h"

namespace bitstair::client {
namespace {

struct ReportArguments {
  ConnectionFlags coordinator;
  std::string file;
  std::string output;
  std::vector<std::string> jobs;
};

int RunReport(const ReportArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  std::vector<ReportedJob> jobs;
  for (const auto& name : arguments.jobs) {
    auto job = client.GetJob(name);
    if (!job.ok()) return Fail(job.status(), client.address());
    auto metrics = client.ListMetrics(name);
    if (!metrics.ok()) return Fail(metrics.status(), client.address());
    jobs.push_back({*std::move(job), *std::move(metrics)});
  }
  // "0.1.0, commit ..., LibTorch ..."
  const std::string version = absl::StrReplaceAll(core::VersionText("bitstair").substr(sizeof("bitstair")), {{"\n", ", "}, {"    ", " "}, {"  ", " "}});
  const std::string page = ReportPage(jobs, version);
  if (arguments.file == "-") {
    Print(page);
    return kDone;
  }
  std::ofstream file(arguments.file, std::ios::binary);
  file << page << std::flush;
  if (!file) {
    Complain(absl::StrCat(arguments.file, ": cannot be written: ", std::string(strerror(errno))));
    return kWrongUsage;
  }
  Complain(absl::StrCat("wrote ", arguments.file));
  return kDone;
}

// One column per job, one row per stage name.
int RunCompare(const ReportArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  std::vector<v1::Job> jobs;
  std::vector<std::string> stages;  // in the order in which they first occur
  for (const auto& name : arguments.jobs) {
    auto job = client.GetJob(name);
    if (!job.ok()) return Fail(job.status(), client.address());
    for (const v1::Stage& stage : job->stages()) {
      if (std::find(stages.begin(), stages.end(), stage.spec().name()) == stages.end()) stages.push_back(stage.spec().name());
    }
    jobs.push_back(*std::move(job));
  }
  if (arguments.output != "table") {
    Json result = {{"jobs", Json::array()}};
    for (const v1::Job& job : jobs) result["jobs"].push_back(JobJson(job, false));
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::vector<std::string> header{"stage"};
  std::vector<Align> aligns{Align::kLeft};
  for (const v1::Job& job : jobs) {
    header.push_back(ShortName(job.name()));
    aligns.push_back(Align::kRight);
    if (job.name() == jobs[0].name()) continue;
    header.emplace_back("difference");
    aligns.push_back(Align::kRight);
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& name : stages) {
    std::vector<std::string> row{name};
    std::optional<double> first;
    for (const v1::Job& job : jobs) {
      std::optional<double> top1;
      for (const v1::Stage& stage : job.stages()) {
        if (stage.spec().name() == name && !stage.epochs().empty()) top1 = stage.epochs(stage.epochs_size() - 1).test_top1();
      }
      row.push_back(top1 ? absl::StrFormat("%.2f %%", *top1) : "-");
      if (&job == &jobs[0]) {
        first = top1;
      } else if (job.name() != jobs[0].name()) {
        row.push_back(top1 && first ? absl::StrFormat("%+.2f", *top1 - *first) : "-");
      }
    }
    rows.push_back(std::move(row));
  }
  Print(Harmless(Table(header, aligns, rows)));
  return kDone;
}

}  // namespace

void RegisterReport(CLI::App& app, int& exit_code) {
  auto report = std::make_shared<ReportArguments>();
  CLI::App* command = app.add_subcommand("report", "Write one page about jobs: the staircase, curves, layers, step times, and how to reproduce them");
  command->add_option("job", report->jobs, "The jobs")->type_name("JOB")->required()->check(kIsJob);
  command->add_option("-o,--file", report->file, "Where to; - is stdout")->type_name("FILE")->default_val("report.html");
  AddCoordinator(*command, report->coordinator);
  command->footer("Examples:\n  bitstair report smoke-3f2a -o report.html\n  bitstair report smoke-3f2a smoke-77b1 -o both.html");
  command->callback([report, &exit_code] { exit_code = RunReport(*report); });

  auto compare = std::make_shared<ReportArguments>();
  command = app.add_subcommand("compare", "Show the accuracies of jobs side by side");
  command->add_option("job", compare->jobs, "The jobs; the first is what the others are compared with")
      ->type_name("JOB")
      ->required()
      ->expected(2, 8)
      ->check(kIsJob);
  AddOutput(*command, compare->output, {"table", "json", "yaml"});
  AddCoordinator(*command, compare->coordinator);
  command->footer("Examples:\n  bitstair compare smoke-3f2a smoke-77b1");
  command->callback([compare, &exit_code] { exit_code = RunCompare(*compare); });
}

}  // namespace bitstair::client
