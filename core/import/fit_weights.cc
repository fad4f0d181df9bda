#include "core/import/fit_weights.h"

#include <ATen/ATen.h>

#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/nn/network_state.h"

namespace bitstair::core {
namespace {

constexpr size_t kShownNames = 8;

std::string Shape(const at::Tensor& tensor) {
  std::ostringstream out;
  out << tensor.sizes();
  return out.str();
}

std::string List(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kShownNames);
  return absl::StrCat(absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                      names.size() > shown ? absl::StrCat(" and ", names.size() - shown, " more") : "");
}

// The network's name for a tensor of the file.
std::string NameInNetwork(const std::string& name, const std::map<std::string, at::Tensor>& own) {
  if (!own.contains(name) && absl::StartsWith(name, "linear.")) {
    std::string renamed = absl::StrCat("fc.", name.substr(7));
    if (own.contains(renamed)) return renamed;
  }
  return name;
}

}  // namespace

absl::StatusOr<FittedWeights> FitWeights(const WeightsFile& file, Network& network, const FitOptions& options) {
  FittedWeights fitted;
  fitted.tensors = NetworkToTensors(network);
  std::map<std::string, at::Tensor> given;
  for (const auto& [name, tensor] : file.tensors) {
    if (absl::EndsWith(name, ".num_batches_tracked") || (file.is_checkpoint() && absl::StrContains(name, '/'))) continue;
    given.emplace(NameInNetwork(name, fitted.tensors), tensor);
  }
  std::vector<std::string> wrong;
  for (auto& [name, own] : fitted.tensors) {
    const auto found = given.find(name);
    if (found == given.end()) {
      fitted.missing.push_back(name);
    } else if (!found->second.is_floating_point()) {
      wrong.push_back(absl::StrCat(name, " is not of a floating-point type"));
    } else if (found->second.sizes() != own.sizes()) {
      wrong.push_back(absl::StrCat(name, " has shape ", Shape(found->second), " instead of ", Shape(own)));
    } else {
      own = found->second.scalar_type() == at::kDouble ? found->second : found->second.to(at::kFloat);
    }
  }
  for (const auto& entry : given) {
    if (!fitted.tensors.contains(entry.first)) fitted.unexpected.push_back(entry.first);
  }
  std::vector<std::string> problems;
  if (!wrong.empty()) problems.push_back(List(wrong));
  if (!fitted.missing.empty() && !options.allow_missing) problems.push_back(absl::StrCat("missing: ", List(fitted.missing)));
  if (!fitted.unexpected.empty() && !options.allow_unexpected) problems.push_back(absl::StrCat("unexpected: ", List(fitted.unexpected)));
  if (!problems.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the tensors do not fit network ", network.config().network, ": ", absl::StrJoin(problems, "; ")));
  }
  return fitted;
}

}  // namespace bitstair::core
