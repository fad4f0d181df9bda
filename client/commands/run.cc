// bitstair run: a coordinator and a worker on this machine, one job on them, its result. See client/embedded.h for how they start and leave.
#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/embedded.h"
#include "client/interrupt.h"
#include "client/json.h"

namespace bitstair::client {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kFleetTimeout{20'000};
constexpr milliseconds kLookAgain{50};
// The coordinator gives its workers 20 s to take checkpoints.
constexpr milliseconds kLeavePatience{25'000};

struct RunArguments {
  RecipeArguments recipe;
  std::string output;
  std::string state_dir;
  std::string request_id;
  std::string log_level = "info";
  std::vector<std::string> data;
  int slots = 0;
  bool quiet = false;
};

// Slots that each stage needs at the least.
int LeastRanks(const v1::JobSpec& spec) {
  return (spec.has_min_ranks() ? spec.min_ranks() : spec.ranks()) * (spec.placement() == v1::PAIR_PLACEMENT_SPLIT ? 2 : 1);
}

// Makes each NAME=PATH absolute. INVALID_ARGUMENT names the one that is wrong.
absl::StatusOr<std::vector<std::string>> CheckData(const std::vector<std::string>& data) {
  std::vector<std::string> result;
  for (const std::string& entry : data) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0) return absl::InvalidArgumentError(absl::StrCat("--data ", entry, ": expected NAME=PATH"));
    std::error_code error;
    const auto path = std::filesystem::canonical(entry.substr(equals + 1), error);
    if (error) return absl::InvalidArgumentError(absl::StrCat("--data ", entry, ": ", error.message()));
    result.push_back(absl::StrCat(entry.substr(0, equals + 1), path.string()));
  }
  return result;
}

// Waits for the first worker that is ready and checks that the fleet can run the job at all: `submit` would wait, but nothing will come to this cluster.
absl::Status CheckFleet(Client& client, const v1::JobSpec& spec, bool joined) {
  const auto end = Clock::now() + kFleetTimeout;
  while (true) {
    const auto workers = client.ListWorkers();
    if (!workers.ok()) return workers.status();
    int slots = 0;
    bool has_data = spec.data().name().empty();
    std::vector<std::string> offered;
    for (const v1::Worker& worker : *workers) {
      if (worker.state() != v1::WORKER_STATE_READY) continue;
      slots += worker.slots_size();
      for (const v1::Dataset& dataset : worker.datasets()) {
        has_data |= dataset.name() == spec.data().name();
        offered.push_back(dataset.name());
      }
    }
    if (slots > 0 && LeastRanks(spec) > slots) {
      return absl::InvalidArgumentError(absl::StrCat("the recipe wants ", LeastRanks(spec), " ranks, but ",
                                                     joined ? "the worker that runs already" : "this machine", " has ", slots, slots == 1 ? " slot" : " slots",
                                                     "; change `ranks`, or give --slots ", LeastRanks(spec)));
    }
    if (slots > 0 && !has_data) {
      return absl::InvalidArgumentError(absl::StrCat("no data set \"", spec.data().name(),
                                                     "\" here (there is: ", offered.empty() ? "none" : absl::StrJoin(offered, ", "), "); give --data ",
                                                     spec.data().name(), "=PATH or --set data.path=PATH"));
    }
    if (slots > 0) return absl::OkStatus();
    if (Clock::now() > end) return absl::UnavailableError("no worker has connected");
    const auto waited = WaitReadable(-1, kLookAgain);
    if (!waited.ok()) return waited.status();
  }
}

// The job to follow: an unfinished one of the same recipe, else a new one.
absl::StatusOr<v1::Job> FindOrCreateJob(Client& client, const v1::JobSpec& spec, const std::string& request_id, Console& console) {
  const auto active = client.ListJobs("state=ACTIVE");
  if (!active.ok()) return active.status();
  std::vector<std::string> others;
  const v1::Job* same = nullptr;
  for (const v1::Job& job : *active) {  // newest first: the oldest of equals wins
    const bool equal = job.state() != v1::JOB_STATE_CANCELLING && google::protobuf::util::MessageDifferencer::Equals(job.spec(), spec);
    if (equal && request_id.empty())
      same = &job;
    else
      others.push_back(ShortName(job.name()));
  }
  if (!others.empty()) {
    console.Note(absl::StrCat("unfinished in the same state folder, and going on too: ", absl::StrJoin(others, ", "), " (bitstair cancel --coordinator ",
                              client.address(), " JOB ends one)"));
  }
  if (same != nullptr) {
    console.Note(absl::StrCat("going on with ", ShortName(same->name()), ", an unfinished job of the same recipe"));
    return *same;
  }
  v1::CreateJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(request_id);
  auto job = client.CreateJob(request);
  if (job.ok()) console.Note(absl::StrCat("job ", ShortName(job->name()), ", coordinator ", client.address()));
  return job;
}

// One run on a cluster that is there. Blocks until the job ends or `client` is stopped.
absl::StatusOr<v1::Job> RunJob(Client& client, const CheckedRecipe& checked, const RunArguments& arguments, bool joined, Console& console) {
  if (absl::Status status = CheckFleet(client, checked.spec, joined); !status.ok()) return status;
  auto job = FindOrCreateJob(client, checked.spec, arguments.request_id, console);
  if (!job.ok()) {
    const auto violations = GetFieldViolations(job.status());
    return violations.empty() ? job.status() : absl::InvalidArgumentError(DescribeViolations(checked.recipe, violations));
  }
  v1::WatchJobResponse first;
  *first.mutable_job() = *job;
  console.OnChange(first);
  return client.WatchJob(job->name(), [&](const v1::WatchJobResponse& change) { console.OnChange(change); });
}

int Report(const absl::Status& status) {
  Complain(std::string(status.message()));
  if (absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status)) return kWrongUsage;
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ? kUnreachable : kFailed;
}

int RunRun(const RunArguments& arguments) {
  const auto checked = LoadRecipe(arguments.recipe, /*data_is_here=*/true);
  if (!checked.ok()) {
    Complain(std::string(checked.status().message()));
    return kWrongUsage;
  }
  EmbeddedOptions options;
  const auto data = CheckData(arguments.data);
  const auto programs = ProgramDirectory();
  const auto state = arguments.state_dir.empty() ? DefaultStateDirectory() : absl::StatusOr<std::string>(arguments.state_dir);
  for (const absl::Status& status : {data.status(), programs.status(), state.status()}) {
    if (!status.ok()) return Report(status);
  }
  if (arguments.slots > 0 && LeastRanks(checked->spec) > arguments.slots) {
    return Report(
        absl::InvalidArgumentError(absl::StrCat("the recipe wants ", LeastRanks(checked->spec), " ranks, but --slots gives ", arguments.slots, " slots")));
  }

  Interrupt interrupt;  // before gRPC starts threads
  Console console(arguments.quiet);
  options.state_dir = *state;
  options.program_dir = *programs;
  options.slots = arguments.slots;
  options.data = *data;
  if (!checked->spec.data().path().empty()) options.data_roots = {checked->spec.data().path()};
  if (const std::string& weights = checked->spec.initial_weights().path(); !weights.empty()) {
    options.data_roots.push_back(std::filesystem::path(weights).parent_path().string());
  }
  options.log_level = arguments.log_level;
  options.note = [&console](const std::string& line) { console.Note(line); };
  auto cluster = EmbeddedCluster::Start(options, interrupt.fd());
  if (!cluster.ok()) {
    if (!absl::IsCancelled(cluster.status())) return Report(cluster.status());
    Complain("interrupted before the job was there");
    return kInterrupted;
  }
  if ((*cluster)->joined()) console.Note(absl::StrCat("another run uses ", options.state_dir, "; submitting there (its worker's slots and data sets hold)"));

  ClientOptions client_options;
  client_options.max_silence = milliseconds(15'000);
  Client client((*cluster)->address(), client_options);
  std::string lost;
  interrupt.OnFirst([&client] { client.Stop(); });
  (*cluster)->OnLost([&](const std::string& why) {
    lost = why;
    client.Stop();
  });
  const auto job = RunJob(client, *checked, arguments, (*cluster)->joined(), console);
  (*cluster)->OnLost(nullptr);
  interrupt.OnFirst(nullptr);
  console.Finish();

  int exit_code = kDone;
  if (job.ok()) {
    exit_code = PrintResult(*job, arguments.output, arguments.quiet);
  } else if (interrupt.count() > 0) {
    Complain("checkpointing and stopping; the same command goes on from there (Ctrl-C again kills)");
    if (arguments.output != "table" && !console.job().name().empty()) Print(Dump(JobJson(console.job(), false), arguments.output));
    exit_code = kInterrupted;
  } else if (!lost.empty()) {
    exit_code = Report(absl::UnavailableError(absl::StrCat(lost, "\nThe same command goes on from the last checkpoint.")));
  } else {
    exit_code = Report(job.status());
  }
  (*cluster)->Leave(kLeavePatience, interrupt.count() > 0 ? interrupt.second_fd() : interrupt.fd());
  return exit_code;
}

}  // namespace

void RegisterRun(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command =
      app.add_subcommand("run", "Train a recipe on this machine: starts a coordinator and a worker, shows progress, prints the result, stops them");
  AddRecipe(*command, arguments->recipe);
  command->add_option("--data", arguments->data, "A data set under a name that recipes use; can be repeated")
      ->type_name("NAME=PATH")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--slots", arguments->slots, "Shares of this machine's cores; each rank takes one. Default: one per core")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
  command->add_option("--state-dir", arguments->state_dir, "Where jobs and checkpoints are kept. Default: $XDG_STATE_HOME/bitstair or ~/.local/state/bitstair")
      ->type_name("DIR");
  command->add_option("--request-id", arguments->request_id, "Makes a repeat harmless: the same id gives the same job")->type_name("ID");
  command->add_option("--log-level", arguments->log_level, "Of server.log and worker.log in the state folder")
      ->capture_default_str()
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}));
  command->add_flag("-q,--quiet", arguments->quiet, "No progress on stderr");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  command->footer(
      "Ctrl-C takes a checkpoint and stops; the same command goes on from there. Ctrl-C again kills.\n\nExamples:\n  bitstair run "
      "recipes/fashion_mnist_w4a4.yaml\n"
      "  bitstair run recipes/cifar100_resnet20_quick.yaml --set data.path=~/data/cifar100\n  bitstair run recipes/smoke.yaml --set seed=3 --quiet --output "
      "json | jq '.stages[-1].top1'");
  command->callback([arguments, &exit_code] { exit_code = RunRun(*arguments); });
}

}  // namespace bitstair::client
