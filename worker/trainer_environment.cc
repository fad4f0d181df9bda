#include "worker/trainer_environment.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

extern char** environ;

namespace bitstair::worker {

absl::Status CheckRecipeVariable(absl::string_view name, absl::string_view value) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("environment variable \"", name, "\" of the recipe is not allowed: ", why));
  };
  if (!absl::StartsWith(name, "NCCL_") && !absl::StartsWith(name, "GLOO_") && !absl::StartsWith(name, "OMP_")) return refuse("only NCCL_*, GLOO_*, OMP_* are");
  const auto legal = [](char c) {
    return absl::ascii_isupper(static_cast<unsigned char>(c)) || absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_';
  };
  if (!std::all_of(name.begin(), name.end(), legal)) return refuse("its name has other characters than A-Z, 0-9 and _");
  for (const absl::string_view word : {"FILE", "PATH", "DIR", "PLUGIN", "LIBRAR", "TOOL"}) {
    if (absl::StrContains(name, word)) return refuse("it names a file or a library");
  }
  if (absl::StrContains(value, "/") || value.find('\0') != absl::string_view::npos) return refuse("its value names a file");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> TrainerEnvironment(const std::map<std::string, std::string>& recipe, int threads) {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos && equals > 0) variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  for (const auto& [name, value] : recipe) {
    if (const absl::Status status = CheckRecipeVariable(name, value); !status.ok()) return status;
    variables[name] = value;
  }
  variables["OMP_NUM_THREADS"] = absl::StrCat(threads);
  variables["MKL_NUM_THREADS"] = absl::StrCat(threads);
  variables.emplace("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", "1099511627776");  // a data set of gigabytes is no news
  std::vector<std::string> result;
  for (const auto& [name, value] : variables) result.push_back(absl::StrCat(name, "=", value));
  return result;
}

}  // namespace bitstair::worker
