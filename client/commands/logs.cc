// bitstair logs: what the trainers of a job wrote.
#include <unistd.h>

#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/interrupt.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct LogsArguments {
  ConnectionFlags coordinator;
  std::string job;
  std::string stage;
  int rank = 0;
  int generation = 0;
  bool follow = false;
};

constexpr std::chrono::milliseconds kLookAgain{300};

absl::Status StageLogs(Client& client, const LogsArguments& arguments, const std::string& stage) {
  v1::StreamLogsRequest request;
  request.set_name(stage);
  request.set_rank(arguments.rank);
  request.set_generation(arguments.generation);
  request.set_follow(arguments.follow);
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  return client.StreamLogs(request, [terminal](const std::string& text) { Print(terminal ? Harmless(text) : text); });
}

// All stages in order, each under a heading on stderr; those that have not started are waited for when following.
absl::Status AllLogs(Client& client, const LogsArguments& arguments) {
  int next = 0;
  while (true) {
    const auto job = client.GetJob(arguments.job);
    if (!job.ok()) return job.status();
    const int before = next;
    for (; next < job->stages_size() && job->stages(next).generation() > 0; ++next) {
      fprintf(stderr, "== %s, rank %d\n", Harmless(ShortName(job->stages(next).name())).c_str(), arguments.rank);
      if (absl::Status status = StageLogs(client, arguments, job->stages(next).name()); !status.ok()) return status;
    }
    const bool over = IsEnded(job->state()) && next == before;
    if (!arguments.follow || over || (next == job->stages_size() && next > 0)) return absl::OkStatus();
    std::this_thread::sleep_for(kLookAgain);
  }
}

int RunLogs(const LogsArguments& arguments) {
  ExitOnInterrupt("\n");
  Client client(Connect(arguments.coordinator));
  const absl::Status status = arguments.stage.empty() ? AllLogs(client, arguments) : StageLogs(client, arguments, StageName(arguments.job, arguments.stage));
  return status.ok() ? kDone : Fail(status, client.address());
}

}  // namespace

void RegisterLogs(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<LogsArguments>();
  CLI::App* command = app.add_subcommand("logs", "Show what the trainers of a job wrote");
  command->add_option("job", arguments->job, "The job")->type_name("JOB")->required()->check(kIsJob);
  command->add_option("--stage", arguments->stage, "Only this stage, e.g. W4A4; default: all that have started")->type_name("STAGE");
  command->add_option("--rank", arguments->rank, "The rank")->capture_default_str()->check(CLI::Range(0, 63));
  command->add_option("--generation", arguments->generation, "An earlier attempt; 0: the last")->capture_default_str()->check(CLI::Range(0, 1'000'000));
  command->add_flag("-f,--follow", arguments->follow, "Go on until the end");
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair logs smoke-3f2a\n  bitstair logs smoke-3f2a --stage W4A4 --rank 1\n  bitstair logs smoke-3f2a -f");
  command->callback([arguments, &exit_code] { exit_code = RunLogs(*arguments); });
}

}  // namespace bitstair::client
