#include "worker/trainer/layer_telemetry.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace bitstair::trainer {
namespace {

constexpr size_t kNoLayer = std::numeric_limits<size_t>::max();

// A net's rows, in the order in which their names come up first.
class Rows {
 public:
  Rows(const std::string& net, v1::EpochResult* result) : net_(net), result_(result) {}
  v1::LayerTelemetry& operator[](const std::string& name) {
    const auto [found, added] = index_.try_emplace(name, result_->layers_size());
    if (added) {
      result_->add_layers()->set_net(net_);
      result_->mutable_layers(found->second)->set_name(name);
    }
    return *result_->mutable_layers(found->second);
  }

 private:
  const std::string net_;
  v1::EpochResult* const result_;
  std::map<std::string, int> index_;
};

}  // namespace

LayerTelemetry::LayerTelemetry(std::vector<StageNet> nets, std::vector<std::string> hint_points, size_t parts, std::optional<size_t> only)
    : hint_points_(std::move(hint_points)), parts_(parts), only_(only) {
  for (StageNet& stage_net : nets) {
    Net& net = nets_.emplace_back();
    net.net = std::move(stage_net);
    for (const core::Parameter& parameter : net.net.network->parameters()) {
      if (parameter.batch_norm) {
        net.layer_of.push_back(kNoLayer);
        continue;
      }
      const std::string layer = parameter.name.substr(0, parameter.name.rfind('.'));
      const auto found = std::find(net.layers.begin(), net.layers.end(), layer);
      net.layer_of.push_back(static_cast<size_t>(found - net.layers.begin()));
      if (found == net.layers.end()) net.layers.push_back(layer);
    }
  }
  Forget();
}

void LayerTelemetry::Forget() {
  for (Net& net : nets_) {
    net.clips.assign(parts_, std::vector<core::ClipCount>(net.net.network->activation_groups().size()));
    net.gradient_norms.assign(net.layers.size(), 0);
  }
  hints_.assign(parts_, std::vector<double>(hint_points_.size()));
  steps_ = norm_steps_ = 0;
}

void LayerTelemetry::BeginStep(int64_t step) {
  takes_norms_ = step % kNormsEvery == 0;
  for (size_t i = 0; i < nets_.size(); ++i) {
    if (takes_norms_ && Trains(i)) nets_[i].net.sgd->set_gradient_norms(&nets_[i].step_norms);
  }
}

void LayerTelemetry::BeginPart(size_t part) {
  for (Net& net : nets_) net.net.network->set_clip_counts(&net.clips.at(part));
}

void LayerTelemetry::EndPart(size_t part, const std::vector<double>& hints) {
  for (Net& net : nets_) net.net.network->set_clip_counts(nullptr);
  for (size_t i = 0; i < hint_points_.size(); ++i) hints_.at(part)[i] += hints.at(i);
}

void LayerTelemetry::EndStep() {
  for (size_t n = 0; n < nets_.size(); ++n) {
    Net& net = nets_[n];
    if (!takes_norms_ || !Trains(n)) continue;
    net.net.sgd->set_gradient_norms(nullptr);
    std::vector<double> squares(net.layers.size());
    for (size_t i = 0; i < net.layer_of.size(); ++i) {
      if (net.layer_of[i] != kNoLayer) squares[net.layer_of[i]] += net.step_norms.at(i) * net.step_norms.at(i);
    }
    for (size_t i = 0; i < net.layers.size(); ++i) net.gradient_norms[i] += std::sqrt(squares[i]);
  }
  ++steps_;
  if (takes_norms_) ++norm_steps_;
}

std::vector<double> LayerTelemetry::Sums(size_t part) const {
  std::vector<double> sums{static_cast<double>(steps_), static_cast<double>(norm_steps_)};
  // Steps and hints are counted by the set of the first net.
  if (!Trains(0)) sums = {0, 0};
  for (size_t i = 0; i < nets_.size(); ++i) {
    const Net& net = nets_[i];
    if (!Trains(i)) {
      sums.resize(sums.size() + 2 * net.clips.at(part).size() + net.gradient_norms.size(), 0);
      continue;
    }
    for (const core::ClipCount& clips : net.clips.at(part)) sums.insert(sums.end(), {static_cast<double>(clips.inputs), static_cast<double>(clips.passed)});
    sums.insert(sums.end(), net.gradient_norms.begin(), net.gradient_norms.end());
  }
  for (const double hint : hints_.at(part)) sums.push_back(Trains(0) ? hint : 0);
  return sums;
}

absl::Status LayerTelemetry::Restore(size_t part, const std::vector<double>& sums) {
  const size_t expected = Sums(part).size();
  if (sums.size() != expected) return absl::InvalidArgumentError(absl::StrCat("the checkpoint has ", sums.size(), " numbers of telemetry, not ", expected));
  size_t at = 0;
  const auto next = [&] { return sums[at++]; };
  steps_ = static_cast<int64_t>(next());
  norm_steps_ = static_cast<int64_t>(next());
  for (Net& net : nets_) {
    for (core::ClipCount& clips : net.clips.at(part)) {
      clips.inputs = static_cast<int64_t>(next());
      clips.passed = static_cast<int64_t>(next());
    }
    for (double& norm : net.gradient_norms) norm = next();
  }
  for (double& hint : hints_.at(part)) hint = next();
  return absl::OkStatus();
}

void LayerTelemetry::Add(const std::vector<double>& sums, v1::EpochResult* result) const {
  size_t at = 0;
  const auto next = [&] { return sums.at(at++); };
  const double steps = next(), norm_steps = next();  // of all parts
  for (const Net& net : nets_) {
    core::Network& network = *net.net.network;
    Rows rows(std::string(absl::StripSuffix(net.net.prefix, "/")), result);
    for (const core::ActivationGroup& group : network.activation_groups()) {
      const double inputs = next(), passed = next();
      if (inputs > 0) rows[group.name].set_clipped_share(1 - passed / inputs);
    }
    for (const std::string& layer : net.layers) {
      const double norm = next();
      if (norm_steps > 0) rows[layer].set_gradient_norm(norm / norm_steps);
    }
    for (const core::WeightLevels& levels : network.CountWeightLevels()) {
      v1::LayerTelemetry& row = rows[levels.layer];
      double all = 0;
      for (const auto& [code, count] : levels.counts) all += static_cast<double>(count);
      for (const auto& [code, count] : levels.counts) {
        row.add_levels(static_cast<int32_t>(code));
        row.add_level_shares(static_cast<float>(static_cast<double>(count) / all));
      }
    }
  }
  Rows rows(std::string(absl::StripSuffix(nets_[0].net.prefix, "/")), result);
  for (const std::string& point : hint_points_) {
    const double distance = next();
    if (steps == 0) continue;
    // The point may be named as a layer of the stage's own net is.
    v1::LayerTelemetry* row = nullptr;
    for (v1::LayerTelemetry& layer : *result->mutable_layers()) {
      if (layer.net().empty() && layer.name() == point) row = &layer;
    }
    (row != nullptr ? *row : rows[point]).set_hint_distance(distance / steps);
  }
}

}  // namespace bitstair::trainer
