// bitstair completion: the shells' scripts, which ask `bitstair __complete WORDS` for what fits; that is answered here.
#include <google/protobuf/descriptor.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bitstair/v1/job.pb.h"
#include "client/commands/command.h"
#include "client/completion.h"
#include "client/contexts.h"
#include "client/json.h"
#include "client/shell/scripts.h"

namespace bitstair::client {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Nobody waits longer for a key press to be answered.
constexpr std::chrono::milliseconds kPatience{700};
constexpr int kMostJobs = 200;
constexpr int kDeepestKey = 3;

bool IsSection(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated();
}

void AddKeys(const Descriptor& message, const std::string& prefix, int depth, Completion& completion) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const std::string key = prefix + field.name();
    if (IsSection(field) && depth < kDeepestKey) AddKeys(*field.message_type(), key + ".", depth + 1, completion);
    completion.words.push_back({key + "=", ""});
  }
}

// Keys of a recipe as --set takes them; behind the equals sign the values of those that have a fixed set.
Completion RecipeKeys(const std::string& text) {
  Completion completion;
  const size_t equals = text.find('=');
  if (equals == std::string::npos) {
    completion.whole = false;
    AddKeys(*v1::JobSpec::descriptor(), "", 1, completion);
    return completion;
  }
  const Descriptor* message = v1::JobSpec::descriptor();
  const FieldDescriptor* field = nullptr;
  std::string rest = text.substr(0, equals);
  while (message != nullptr && !rest.empty()) {
    const size_t dot = rest.find('.');
    field = message->FindFieldByName(rest.substr(0, dot));
    rest = dot == std::string::npos ? "" : rest.substr(dot + 1);
    message = field != nullptr && IsSection(*field) ? field->message_type() : nullptr;
  }
  if (field == nullptr || !rest.empty() || field->is_repeated()) return completion;
  const std::string key = text.substr(0, equals + 1);
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) completion.words = {{key + "true", ""}, {key + "false", ""}};
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    for (int i = 1; i < field->enum_type()->value_count(); ++i) {
      completion.words.push_back({key + EnumWord(*field->enum_type()->value(i), EnumWords::kRecipe), ""});
    }
  }
  return completion;
}

// Names that a coordinator knows; none where it cannot be asked at once.
class Names {
 public:
  explicit Names(const Given& given) {
    const auto text = [&](const char* option) { return given.count(option) > 0 ? given.at(option) : std::string(); };
    ConnectionFlags flags;
    flags.coordinator = text("--coordinator");
    flags.context = text("--context");
    flags.tls_ca = text("--tls-ca");
    flags.token_file = text("--token-file");
    flags.tls = given.count("--tls") > 0;
    flags.insecure = given.count("--insecure") > 0;
    auto connection = ResolveConnection(flags);
    if (!connection.ok()) return;
    connection->options.call_deadline = kPatience;
    client_ = std::make_unique<Client>(connection->address, connection->options);
  }

  std::vector<Completion::Word> Jobs() {
    std::vector<Completion::Word> words;
    if (client_ == nullptr) return words;
    const auto jobs = client_->ListJobs("", kMostJobs);
    if (!jobs.ok()) return words;
    for (const v1::Job& job : *jobs) words.push_back({ShortName(job.name()), absl::AsciiStrToLower(StateWord(job.state()))});
    return words;
  }
  std::vector<Completion::Word> Workers() {
    std::vector<Completion::Word> words;
    if (client_ == nullptr) return words;
    const auto workers = client_->ListWorkers();
    if (!workers.ok()) return words;
    for (const v1::Worker& worker : *workers) {
      words.push_back(
          {worker.host().empty() ? ShortName(worker.name()) : worker.host(), absl::StrCat(worker.free_slots(), " of ", worker.slots_size(), " slots free")});
    }
    return words;
  }
  std::vector<Completion::Word> Stages(const std::string& job) {
    std::vector<Completion::Word> words;
    if (client_ == nullptr) return words;
    const auto found = client_->GetJob(job);
    if (!found.ok()) return words;
    for (const v1::Stage& stage : found->stages()) words.push_back({ShortName(stage.name()), absl::AsciiStrToLower(StateWord(stage.state()))});
    return words;
  }

 private:
  std::unique_ptr<Client> client_;  // null: there is none to ask
};

std::vector<Completion::Word> ContextNames() {
  std::vector<Completion::Word> words;
  const auto contexts = LoadContexts(ContextsFile());
  if (!contexts.ok()) return words;
  for (const auto& [name, context] : contexts->by_name) words.push_back({name, context.coordinator});
  return words;
}

Completion CompleteKind(const std::string& kind, const std::string& text, const Given& given) {
  if (kind == "KEY=VALUE") return RecipeKeys(text);
  Completion completion;
  if (kind == "CONTEXT") completion.words = ContextNames();
  if (kind == "JOB") completion.words = Names(given).Jobs();
  if (kind == "WORKER") completion.words = Names(given).Workers();
  if (kind == "STAGE" && given.count("JOB") > 0) completion.words = Names(given).Stages(given.at("JOB"));
  return completion;
}

}  // namespace

void PrintCompletions(const CLI::App& app, const std::vector<std::string>& words) {
  if (words.size() > 1 && words[0] == "evaluate") {
    std::vector<std::string> question{"__complete"};
    question.insert(question.end(), words.begin() + 1, words.end());
    BecomeEvaluator(question);
    return;
  }
  Print(CompletionText(Complete(app, words, CompleteKind)));
}

void RegisterCompletion(CLI::App& app, int& exit_code) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print what a shell reads to complete commands, options, files, and names of jobs and workers");
  command->add_option("shell", *shell, "The shell")->type_name("bash|zsh")->required()->check(CLI::IsMember({"bash", "zsh"}));
  command->footer(
      "The Debian package brings both along; else:\n\nExamples:\n  eval \"$(bitstair completion bash)\"                       in ~/.bashrc\n"
      "  eval \"$(bitstair completion zsh)\"                        in ~/.zshrc, after compinit");
  command->callback([shell, &exit_code] {
    Print(*shell == "bash" ? kBashCompletion : kZshCompletion);
    exit_code = kDone;
  });
}

}  // namespace bitstair::client
