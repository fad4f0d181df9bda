// What the commands of `bitstair` share: options, exit statuses, messages, the console. Each command lives in a file of its own with its Register function at
// the bottom.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/connection.h"
#include "client/progress.h"
#include "client/recipe.h"

namespace bitstair::client {

// DESIGN section 8.
enum ExitCode : int { kDone = 0, kFailed = 1, kWrongUsage = 2, kUnreachable = 3, kCancelled = 4, kInterrupted = 130 };

// Adds a command to `app`; when it has run, `exit_code` holds its status.
void RegisterCancel(CLI::App& app, int& exit_code);
void RegisterChanges(CLI::App& app, int& exit_code);  // pause, resume, retry, pin, unpin, prioritize, cordon, uncordon, drain
void RegisterCompletion(CLI::App& app, int& exit_code);
void RegisterConfig(CLI::App& app, int& exit_code);
void RegisterDescribe(CLI::App& app, int& exit_code);
void RegisterEvaluate(CLI::App& app, int& exit_code);
void RegisterGarbage(CLI::App& app, int& exit_code);
void RegisterHealth(CLI::App& app, int& exit_code);
void RegisterList(CLI::App& app, int& exit_code);
void RegisterLogs(CLI::App& app, int& exit_code);
void RegisterPlan(CLI::App& app, int& exit_code);
void RegisterReport(CLI::App& app, int& exit_code);  // report, compare
void RegisterRun(CLI::App& app, int& exit_code);
void RegisterSubmit(CLI::App& app, int& exit_code);
void RegisterToken(CLI::App& app, int& exit_code);
void RegisterTop(CLI::App& app, int& exit_code);
void RegisterValidate(CLI::App& app, int& exit_code);
void RegisterWatch(CLI::App& app, int& exit_code);
void RegisterWorkers(CLI::App& app, int& exit_code);

// Answers the shells' question (client/completion.h) what can stand at the cursor.
void PrintCompletions(const CLI::App& app, const std::vector<std::string>& words);

// Does not return unless bitstair-evaluator cannot be started.
int BecomeEvaluator(std::vector<std::string> arguments);

// --coordinator, --context and what belongs to them.
void AddCoordinator(CLI::App& command, ConnectionFlags& flags);
// The client that the flags mean. Throws CLI::ValidationError where they cannot be followed, so from a command's callback only.
Client Connect(const ConnectionFlags& flags, std::chrono::milliseconds call_deadline = ClientOptions().call_deadline);
// --output, one of `formats`, the first by default.
void AddOutput(CLI::App& command, std::string& output, const std::vector<std::string>& formats);
// RECIPE and --set.
struct RecipeArguments {
  std::string file;
  std::vector<std::string> sets;
};
void AddRecipe(CLI::App& command, RecipeArguments& arguments);
// "30d", "12h", "45m", "90s" in seconds; below zero: it is none of these.
int64_t SecondsOf(const std::string& text);
// A validator for such options.
extern const CLI::Validator kIsAge;
// A validator for options that name a job, with or without "jobs/".
extern const CLI::Validator kIsJob;

// A recipe that passed every check that needs no coordinator.
struct CheckedRecipe {
  Recipe recipe;
  v1::JobSpec spec;  // all defaults written out
};
absl::StatusOr<CheckedRecipe> LoadRecipe(const RecipeArguments& arguments, bool data_is_here);

// Writes to stdout. Dies with kFailed if that fails, so that a full disk is not taken for success.
void Print(const std::string& text);
// "bitstair: text" on stderr; for several lines each is shown as it is.
void Complain(const std::string& text);
// Complains about an error of the coordinator at `address` and returns the exit code it means.
int Fail(const absl::Status& status, const std::string& address);

// The exit code of a job that ended.
int ExitCodeOf(v1::JobState state);
// Prints the result of an ended job: its table or object on stdout, on stderr what became of it. Returns its exit code.
int PrintResult(const v1::Job& job, const std::string& output, bool quiet);

// Progress on stderr, in the style that stderr allows.
class Console {
 public:
  explicit Console(bool quiet);
  void OnChange(const v1::WatchJobResponse& change);
  void Note(const std::string& line);
  void Finish();
  const v1::Job& job() const { return progress_.job(); }

 private:
  void Write(const std::string& text);

  const bool quiet_;
  const bool terminal_;
  Progress progress_;
};

// Watches a job on the console until it ends and prints its result. Ctrl-C leaves the job alone and exits with 130.
int WatchToEnd(Client& client, const std::string& job, const std::string& output, bool quiet);

}  // namespace bitstair::client
