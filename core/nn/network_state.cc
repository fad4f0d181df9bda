#include "core/nn/network_state.h"

#include <sstream>
#include <vector>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace bitstair::core {
namespace {

// name -> tensor that the network owns.
std::map<std::string, at::Tensor> Owned(Network& network) {
  std::map<std::string, at::Tensor> owned;
  for (const Parameter& p : network.parameters()) owned[p.name] = p.latent.detach();
  for (const Buffer& b : network.buffers()) owned[b.name] = b.value;
  return owned;
}

std::string Shape(const at::Tensor& tensor) {
  std::ostringstream out;
  out << tensor.sizes();
  return out.str();
}

}  // namespace

std::map<std::string, at::Tensor> NetworkToTensors(Network& network) {
  std::map<std::string, at::Tensor> tensors = Owned(network);
  for (auto& [name, tensor] : tensors) tensor = tensor.clone();
  return tensors;
}

absl::Status NetworkFromTensors(const std::map<std::string, at::Tensor>& tensors, Network& network) {
  std::map<std::string, at::Tensor> owned = Owned(network);
  std::vector<std::string> problems;
  for (const auto& [name, tensor] : owned) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      problems.push_back(absl::StrCat(name, " is missing"));
    } else if (!found->second.is_floating_point()) {
      problems.push_back(absl::StrCat(name, " is not of a floating-point type"));
    } else if (found->second.sizes() != tensor.sizes()) {
      problems.push_back(absl::StrCat(name, " has shape ", Shape(found->second), " instead of ", Shape(tensor)));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!owned.contains(name)) problems.push_back(absl::StrCat(name, " is unknown"));
  }
  if (!problems.empty()) {
    const size_t count = problems.size();
    if (count > 8) problems.resize(8);
    return absl::InvalidArgumentError(absl::StrCat("tensors do not fit network ", network.config().network, ": ", absl::StrJoin(problems, ", "),
                                                   count > 8 ? absl::StrCat(" and ", count - 8, " more") : ""));
  }
  for (auto& [name, tensor] : owned) tensor.copy_(tensors.at(name));
  try {
    network.QuantizeWeights();
  } catch (const NotANumber& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return absl::OkStatus();
}

}  // namespace bitstair::core
