// What can stand at the cursor of a command line, from the tree of its commands and options: a new one is complete by itself.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace bitstair::client {

struct Completion {
  enum class Kind { kWords, kFiles, kFolders };
  struct Word {
    std::string text;  // all of the word at the cursor
    std::string description;
  };

  Kind kind = Kind::kWords;
  std::vector<Word> words;
  // Whether a word is whole with these; "data.name=" is not.
  bool whole = true;
  // Files: what stands before the path in the word at the cursor, "--weights=", and which endings count (none: all).
  std::string before;
  std::vector<std::string> endings;
};

// What was given before the cursor: options by their first long name, positionals by their kind ("JOB"); of several the last.
using Given = std::map<std::string, std::string>;

// Completes a value of a kind that the tree does not know: `kind` is the option's type name ("JOB"), `text` the value so far. What does not begin with `text`
// is dropped by the caller.
using CompleteValue = std::function<Completion(const std::string& kind, const std::string& text, const Given& given)>;

// words: those after the program's name; the last one is at the cursor and may be empty. Values: kinds such as "table|json|yaml" and options with a fixed set
// know theirs; RECIPE, FILE, DIR and NAME=PATH are paths; for others `complete_value` is asked.
Completion Complete(const CLI::App& app, const std::vector<std::string>& words, const CompleteValue& complete_value);

// What the shells' functions read: a line "words", "words open" (not whole), "files" or "folders", the last two with a tab and `before` and, for files, another
// and the endings; then a line for each word, with a tab and its description where it has one.
std::string CompletionText(const Completion& completion);

}  // namespace bitstair::client
