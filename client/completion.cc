#include "client/completion.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace bitstair::client {
namespace {

bool TakesValue(const CLI::Option& option) {
  return option.get_items_expected_max() > 0;
}

// "table|json|yaml", or what an IsMember check says of itself: "TEXT:{trace,debug}".
std::vector<std::string> FixedSet(const std::string& type) {
  const size_t open = type.find('{');
  const size_t close = type.find('}', open);
  if (open != std::string::npos && close != std::string::npos) return absl::StrSplit(type.substr(open + 1, close - open - 1), ',');
  const std::string words = type.substr(0, type.find(':'));
  const bool fixed = absl::StrContains(words, '|') && words.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ=") == std::string::npos;
  return fixed ? absl::StrSplit(words, '|') : std::vector<std::string>();
}

// The type name without what checks add to it.
std::string KindOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return absl::StrContains(type, ':') && !absl::StrContains(type, "HOST:PORT") ? type.substr(0, type.find(':')) : type;
}

std::string FirstLine(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

Completion ValueOf(const CLI::Option& option, const std::string& text, const Given& given, const CompleteValue& complete_value) {
  Completion completion;
  for (const std::string& word : FixedSet(option.get_type_name())) completion.words.push_back({word, ""});
  if (!completion.words.empty()) return completion;
  const std::string kind = KindOf(option);
  if (kind == "RECIPE" || kind == "FILE" || kind == "DIR") {
    completion.kind = kind == "DIR" ? Completion::Kind::kFolders : Completion::Kind::kFiles;
    if (kind == "RECIPE") completion.endings = {"yaml", "yml"};
    return completion;
  }
  if (absl::StrContains(kind, "PATH")) {  // NAME=PATH, and PATH by itself where that may be
    const size_t equals = text.find('=');
    if (equals == std::string::npos && kind == "NAME=PATH") return completion;
    completion.kind = Completion::Kind::kFiles;
    completion.before = text.substr(0, equals == std::string::npos ? 0 : equals + 1);
    return completion;
  }
  return complete_value(kind, text, given);
}

// A walk over the words before the cursor.
class Walk {
 public:
  explicit Walk(const CLI::App& root) : app_(&root) {}

  void Step(const std::string& word) {
    if (pending_ != nullptr) {
      Keep(*pending_, word);
      pending_ = nullptr;
    } else if (word == "--" && !only_positionals_) {
      only_positionals_ = true;
    } else if (word.size() > 1 && word[0] == '-' && !only_positionals_) {
      StepOption(word);
    } else if (const CLI::App* command = Command(word); command != nullptr) {
      app_ = command;
      positionals_ = 0;
    } else {
      if (const CLI::Option* positional = Positional(); positional != nullptr) Keep(*positional, word);
      ++positionals_;
    }
  }

  Completion At(const std::string& word, const CompleteValue& complete_value) const {
    if (pending_ != nullptr) return Value(*pending_, "", word, complete_value);
    if (!word.empty() && word[0] == '-' && !only_positionals_) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos) return Options(word);
      const CLI::Option* option = Find(word.substr(0, equals));
      return option == nullptr ? Completion() : Value(*option, word.substr(0, equals + 1), word.substr(equals + 1), complete_value);
    }
    const auto commands = Commands();
    if (positionals_ == 0 && !commands.empty()) {
      Completion completion;
      for (const CLI::App* command : commands) {
        if (absl::StartsWith(command->get_name(), word)) completion.words.push_back({command->get_name(), FirstLine(command->get_description())});
      }
      return completion;
    }
    const CLI::Option* positional = Positional();
    return positional == nullptr ? Completion() : Value(*positional, "", word, complete_value);
  }

 private:
  // Commands with a group are those that help shows.
  std::vector<const CLI::App*> Commands() const {
    return app_->get_subcommands([](const CLI::App* command) { return !command->get_group().empty() && !command->get_name().empty(); });
  }
  const CLI::App* Command(const std::string& word) const {
    const auto commands = Commands();
    const auto found = std::find_if(commands.begin(), commands.end(), [&](const CLI::App* command) { return command->get_name() == word; });
    return found == commands.end() || positionals_ > 0 ? nullptr : *found;
  }
  const CLI::Option* Find(const std::string& name) const {
    for (const CLI::Option* option : app_->get_options()) {
      if (option->nonpositional() && option->check_name(name)) return option;
    }
    return nullptr;
  }
  // The positional that the next word belongs to; the last one takes what is left where it may be repeated.
  const CLI::Option* Positional() const {
    int place = positionals_;
    for (const CLI::Option* option : app_->get_options()) {
      if (!option->get_positional()) continue;
      if (place < option->get_items_expected_max()) return option;
      place -= option->get_items_expected_max();
    }
    return nullptr;
  }
  void Keep(const CLI::Option& option, const std::string& value) {
    given_[option.get_positional() ? KindOf(option) : option.get_lnames().empty() ? option.get_name() : "--" + option.get_lnames()[0]] = value;
  }
  void StepOption(const std::string& word) {
    const size_t equals = word.find('=');
    const bool is_long = absl::StartsWith(word, "--");
    const CLI::Option* option = Find(is_long ? word.substr(0, equals) : word.substr(0, 2));
    if (option == nullptr || !TakesValue(*option)) return;
    if (is_long && equals != std::string::npos) {
      Keep(*option, word.substr(equals + 1));
    } else if (!is_long && word.size() > 2) {
      Keep(*option, word.substr(2));
    } else {
      pending_ = option;
    }
  }
  Completion Options(const std::string& word) const {
    Completion completion;
    for (const CLI::Option* option : app_->get_options()) {
      if (option->get_group().empty() || !option->nonpositional()) continue;
      for (const std::string& name : option->get_lnames()) {
        if (absl::StartsWith("--" + name, word)) completion.words.push_back({"--" + name, FirstLine(option->get_description())});
      }
    }
    return completion;
  }
  // before: what the word at the cursor has ahead of the value, "--output=".
  Completion Value(const CLI::Option& option, const std::string& before, const std::string& text, const CompleteValue& complete_value) const {
    Completion completion = ValueOf(option, text, given_, complete_value);
    completion.before = before + completion.before;
    std::vector<Completion::Word> fitting;
    for (Completion::Word& word : completion.words) {
      if (absl::StartsWith(word.text, text)) fitting.push_back({before + word.text, std::move(word.description)});
    }
    completion.words = std::move(fitting);
    return completion;
  }

  const CLI::App* app_;
  const CLI::Option* pending_ = nullptr;
  int positionals_ = 0;
  bool only_positionals_ = false;
  Given given_;
};

}  // namespace

Completion Complete(const CLI::App& app, const std::vector<std::string>& words, const CompleteValue& complete_value) {
  Walk walk(app);
  for (size_t i = 0; i + 1 < words.size(); ++i) walk.Step(words[i]);
  return walk.At(words.empty() ? "" : words.back(), complete_value);
}

std::string CompletionText(const Completion& completion) {
  std::string text;
  switch (completion.kind) {
    case Completion::Kind::kFiles:
      return absl::StrCat("files\t", completion.before, "\t", absl::StrJoin(completion.endings, " "), "\n");
    case Completion::Kind::kFolders:
      return absl::StrCat("folders\t", completion.before, "\n");
    case Completion::Kind::kWords:
      text = completion.whole ? "words\n" : "words open\n";
      break;
  }
  const auto plain = [](const std::string& part) { return absl::StrReplaceAll(part, {{"\n", " "}, {"\t", " "}}); };
  for (const Completion::Word& word : completion.words) {
    absl::StrAppend(&text, plain(word.text), word.description.empty() ? "" : "\t", plain(word.description), "\n");
  }
  return text;
}

}  // namespace bitstair::client
