#include "server/known_networks.h"

#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bitstair::server {

const std::vector<std::string>& KnownNetworks() {
  static const auto* const networks = new std::vector<std::string>{
      "alexnet",    "alexnet_cifar", "convnet28",  "preresnet20", "preresnet56", "resnet101",  "resnet110", "resnet110_b", "resnet18",  "resnet20",
      "resnet20_b", "resnet32",      "resnet32_b", "resnet34",    "resnet44",    "resnet44_b", "resnet50",  "resnet56",    "resnet56_b"};
  return *networks;
}

namespace {

// Blocks in each group of a residual network; empty for others.
std::vector<int> BlocksOf(absl::string_view network) {
  static const auto* const imagenet =
      new std::map<absl::string_view, std::vector<int>>{{"18", {2, 2, 2, 2}}, {"34", {3, 4, 6, 3}}, {"50", {3, 4, 6, 3}}, {"101", {3, 4, 23, 3}}};
  absl::ConsumeSuffix(&network, "_b");
  if (!absl::ConsumePrefix(&network, "resnet") && !absl::ConsumePrefix(&network, "preresnet")) return {};
  if (const auto known = imagenet->find(network); known != imagenet->end()) return known->second;
  int depth = 0;
  if (!absl::SimpleAtoi(network, &depth)) return {};
  return std::vector<int>(3, (depth - 2) / 6);
}

}  // namespace

std::vector<std::string> KnownHintPoints(const std::string& network) {
  if (network == "convnet28") return {"conv1", "conv2", "conv3", "fc1", "logits"};
  if (network == "alexnet" || network == "alexnet_cifar") return {"conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "logits"};
  std::vector<std::string> points;
  const std::vector<int> blocks = BlocksOf(network);
  for (size_t g = 0; g < blocks.size(); ++g) {
    const std::string group = absl::StrCat("layer", g + 1);
    for (int i = 0; i + 1 < blocks[g]; ++i) points.push_back(absl::StrCat(group, ".", i));
    points.push_back(group);
  }
  if (!points.empty()) points.push_back("logits");
  return points;
}

}  // namespace bitstair::server
