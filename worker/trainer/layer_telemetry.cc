#include "worker/trainer/layer_telemetry.h"

#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace bitstair::trainer {
namespace {

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

LayerTelemetry::LayerTelemetry(std::vector<StageNet> nets, std::vector<std::string> hint_points) : hint_points_(std::move(hint_points)) {
  for (StageNet& net : nets) nets_.push_back({std::move(net), {}, {}});
  TakeSums();
}

void LayerTelemetry::BeginStep() {
  for (Net& net : nets_) {
    net.net.network->set_clip_counts(&net.clips);
    net.net.sgd->set_gradient_norms(&net.gradient_norms);
  }
}

void LayerTelemetry::EndStep(const std::vector<double>& hints) {
  for (Net& net : nets_) {
    net.net.network->set_clip_counts(nullptr);
    net.net.sgd->set_gradient_norms(nullptr);
  }
  if (hints.size() == hint_points_.size()) hints_ = hints;  // a failed step has none
}

std::vector<double> LayerTelemetry::TakeSums() {
  std::vector<double> sums;
  for (Net& net : nets_) {
    for (const core::ClipCount& clips : net.clips) sums.insert(sums.end(), {static_cast<double>(clips.inputs), static_cast<double>(clips.passed)});
    net.clips.assign(net.net.network->activation_groups().size(), {});
    net.gradient_norms.resize(net.net.network->parameters().size());
    sums.insert(sums.end(), net.gradient_norms.begin(), net.gradient_norms.end());
    net.gradient_norms.assign(net.gradient_norms.size(), 0);
  }
  sums.insert(sums.end(), hints_.begin(), hints_.end());
  hints_.assign(hint_points_.size(), 0);
  return sums;
}

void LayerTelemetry::Add(const std::vector<double>& sums, int world_size, v1::EpochResult* result) const {
  size_t at = 0;
  const auto next = [&] { return sums.at(at++); };
  bool looked = false;
  for (const Net& net : nets_) {
    core::Network& network = *net.net.network;
    Rows rows(std::string(absl::StripSuffix(net.net.prefix, "/")), result);
    for (const core::ActivationGroup& group : network.activation_groups()) {
      const double inputs = next(), passed = next();
      if (inputs == 0) continue;
      looked = true;
      rows[group.name].set_clipped_share(1 - passed / inputs);
    }
    std::map<std::string, double> squares;
    for (const core::Parameter& parameter : network.parameters()) {
      const double norm = next() / world_size;
      if (!parameter.batch_norm && looked) squares[parameter.name.substr(0, parameter.name.rfind('.'))] += norm * norm;
    }
    for (const core::Parameter& parameter : network.parameters()) {  // in the network's order
      const auto found = squares.find(parameter.name.substr(0, parameter.name.rfind('.')));
      if (found != squares.end()) rows[found->first].set_gradient_norm(std::sqrt(found->second));
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
    const double distance = next() / world_size;
    if (!looked) continue;
    // The point may be named as a layer of the stage's own net is.
    v1::LayerTelemetry* row = nullptr;
    for (v1::LayerTelemetry& layer : *result->mutable_layers()) {
      if (layer.net().empty() && layer.name() == point) row = &layer;
    }
    (row != nullptr ? *row : rows[point]).set_hint_distance(distance);
  }
}

}  // namespace bitstair::trainer
