#include "client/commands/command.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/interrupt.h"
#include "client/json.h"
#include "client/table.h"
#include "client/terminal.h"

namespace bitstair::client {
namespace {

std::string CheckJob(const std::string& text) {
  const std::string name = ShortName(text);
  const bool plain =
      !name.empty() && name.size() <= 200 && name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == std::string::npos;
  return plain && (text == name || text == "jobs/" + name) ? ""
                                                           : absl::StrCat("\"", Fit(Harmless(text), 60), "\" is no job's name; `bitstair list` shows them");
}

}  // namespace

const CLI::Validator kIsJob(CheckJob, "", "job");

const CLI::Validator kIsAge([](const std::string& text) { return SecondsOf(text) < 0 ? "must be like 30d, 12h, 45m or 90s" : std::string(); }, "", "age");

int64_t SecondsOf(const std::string& text) {
  int64_t number = -1;
  if (text.size() < 2 || !absl::SimpleAtoi(text.substr(0, text.size() - 1), &number) || number < 0 || number > 1'000'000) return -1;
  const size_t unit = std::string("smhd").find(text.back());
  const int64_t seconds[] = {1, 60, 3600, 86400};
  return unit == std::string::npos ? -1 : number * seconds[unit];
}

void AddCoordinator(CLI::App& command, ConnectionFlags& flags) {
  command
      .add_option("--coordinator", flags.coordinator,
                  absl::StrCat("Where the coordinator listens; else BITSTAIR_COORDINATOR, else that of the current context, else ", kDefaultCoordinator))
      ->type_name("HOST:PORT");
  command.add_option("--context", flags.context, "A coordinator of the configuration file (bitstair config); else BITSTAIR_CONTEXT")->type_name("CONTEXT");
  command.add_flag("--tls", flags.tls, "Connect with TLS, to a certificate that the system's authorities vouch for");
  command.add_option("--tls-ca", flags.tls_ca, "Connect with TLS, to a certificate that these authorities vouch for (PEM); else BITSTAIR_TLS_CA")
      ->type_name("FILE");
  command.add_option("--token-file", flags.token_file, "Who you are: a token, in a file; else BITSTAIR_TOKEN_FILE")->type_name("FILE");
  command.add_flag("--insecure", flags.insecure, "Allow addresses other than loopback without encryption");
}

Client Connect(const ConnectionFlags& flags, std::chrono::milliseconds call_deadline) {
  auto connection = ResolveConnection(flags);
  if (!connection.ok()) throw CLI::ValidationError(std::string(connection.status().message()));
  connection->options.call_deadline = call_deadline;
  return Client(connection->address, std::move(connection->options));
}

void AddOutput(CLI::App& command, std::string& output, const std::vector<std::string>& formats) {
  output = formats.front();
  command.add_option("-o,--output", output, "Format of what goes to stdout")
      ->type_name(absl::StrJoin(formats, "|"))
      ->capture_default_str()
      ->check(CLI::IsMember(formats));
}

void AddRecipe(CLI::App& command, RecipeArguments& arguments) {
  command.add_option("recipe", arguments.file, "The recipe, a YAML file")->type_name("RECIPE")->required();
  command.add_option("--set", arguments.sets, "Replace one value of the recipe, e.g. --set quantized.epochs=10 --set 'widths=[32, 8, 4]'; can be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_flag_callback(
      "--no-share", [&arguments] { arguments.sets.push_back("share=false"); },
      "Train every stage anew, also those that other jobs have trained or are training");
}

absl::StatusOr<CheckedRecipe> LoadRecipe(const RecipeArguments& arguments, bool data_is_here) {
  auto recipe = ReadRecipe(arguments.file, arguments.sets);
  if (!recipe.ok()) return recipe.status();
  auto spec = ResolveRecipe(*recipe, data_is_here);
  if (!spec.ok()) return spec.status();
  return CheckedRecipe{*std::move(recipe), *std::move(spec)};
}

void Print(const std::string& text) {
  if (fwrite(text.data(), 1, text.size(), stdout) != text.size() || fflush(stdout) != 0) {
    perror("bitstair: stdout");
    _exit(kFailed);
  }
}

void Complain(const std::string& text) {
  fprintf(stderr, "bitstair: %s\n", Harmless(text).c_str());
}

int Fail(const absl::Status& status, const std::string& address) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      Complain(absl::StrCat("coordinator ", address, " is not reachable: ", status.message(),
                            "\nIs bitstair-server running there? --coordinator or BITSTAIR_COORDINATOR names another; one with TLS needs --tls-ca or --tls."));
      return kUnreachable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
      Complain(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()));
      return kWrongUsage;
    default:
      Complain(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()));
      return kFailed;
  }
}

int ExitCodeOf(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED ? kDone : state == v1::JOB_STATE_CANCELLED ? kCancelled : kFailed;
}

int PrintResult(const v1::Job& job, const std::string& output, bool quiet) {
  if (output != "table") {
    Print(Dump(JobJson(job, false), output));
  } else if (!job.stages().empty()) {
    Print(ResultTable(job));
  }
  const std::string name = ShortName(job.name());
  if (job.state() == v1::JOB_STATE_FAILED) {
    Complain(absl::StrCat("job ", name, " failed: ", job.reason()));
  } else if (!quiet) {
    double seconds = 0;
    for (const v1::Stage& stage : job.stages()) {
      if (stage.sharing() != v1::STAGE_SHARING_REUSED) seconds += stage.seconds();
    }
    Complain(absl::StrCat("job ", name, " ", StateWord(job.state()), ", ", Duration(seconds), " of training", job.reason().empty() ? "" : ": ", job.reason()));
  }
  return ExitCodeOf(job.state());
}

Console::Console(bool quiet)
    : quiet_(quiet), terminal_(IsTerminal(STDERR_FILENO)), progress_(ProgressStyle{terminal_, terminal_ && HasColor(), TerminalWidth(STDERR_FILENO)}) {}

void Console::Write(const std::string& text) {
  if (!quiet_ && !text.empty()) fwrite(text.data(), 1, text.size(), stderr);
}

void Console::OnChange(const v1::WatchJobResponse& change) {
  if (terminal_) progress_.SetWidth(TerminalWidth(STDERR_FILENO));
  Write(progress_.OnChange(change));
}

void Console::Note(const std::string& line) {
  Write(progress_.Note(line));
}

void Console::Finish() {
  Write(progress_.Finish());
}

int WatchToEnd(Client& client, const std::string& job, const std::string& output, bool quiet) {
  static std::string words;  // read by a signal handler
  words = absl::StrCat("\nbitstair: the job goes on; bitstair watch ", ShortName(job), " looks again, bitstair cancel ", ShortName(job), " ends it\n");
  ExitOnInterrupt(words.c_str());
  Console console(quiet);
  const auto ended = client.WatchJob(job, [&](const v1::WatchJobResponse& change) { console.OnChange(change); });
  console.Finish();
  return ended.ok() ? PrintResult(*ended, output, quiet) : Fail(ended.status(), client.address());
}

}  // namespace bitstair::client
