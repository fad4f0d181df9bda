#include "server/scheduling/shapes.h"

#include <algorithm>

namespace bitstair::server::scheduling {
namespace {

bool Qualifies(const FleetWorker& worker, const ShapeKey& key) {
  if (!worker.usable()) return false;
  if (!key.data_key.empty() && worker.info.data.count(key.data_key) == 0) return false;
  return std::all_of(key.labels.begin(), key.labels.end(), [&](const auto& label) {
    const auto found = worker.info.labels.find(label.first);
    return found != worker.info.labels.end() && found->second == label.second;
  });
}

// Slots of the workers in all; for a gang that stays on one host, of the host that has most.
int CapacityFor(const Fleet& fleet, const ShapeKey& key, const SlotFilter& filter, const std::vector<int>& workers) {
  int most = 0, sum = 0;
  std::map<int, int> by_host;
  for (const int worker : workers) {
    const int capacity = fleet.Capacity(worker, filter);
    sum += capacity;
    if (key.one_host) most = std::max(most, by_host[fleet.worker(worker).host] += capacity);
  }
  return key.one_host ? most : sum;
}

void Derive(const Fleet& fleet, Shape& shape) {
  const int least = shape.allowed_ranks.back();
  const SlotFilter gpus{SlotKind::kGpu, shape.key.memory_bytes};
  shape.kind = CapacityFor(fleet, shape.key, gpus, shape.candidates) >= least ? SlotKind::kGpu : SlotKind::kCpu;
  shape.workers = shape.candidates;
  if (!shape.key.avoid_hosts.empty()) {
    std::vector<int> rest;
    for (const int worker : shape.candidates) {
      const WorkerInfo& info = fleet.worker(worker).info;
      if (shape.key.avoid_hosts.count(info.host.empty() ? info.id : info.host) == 0) rest.push_back(worker);
    }
    if (CapacityFor(fleet, shape.key, shape.Filter(), rest) >= least) shape.workers = std::move(rest);
  }
  shape.capacity = CapacityFor(fleet, shape.key, shape.Filter(), shape.workers);
  shape.possible = shape.capacity >= least;
  shape.eligible.assign(fleet.size(), 0);
  for (const int worker : shape.workers) shape.eligible[worker] = 1;
  shape.stale = false;
}

}  // namespace

ShapeKey ShapeKey::Of(const StageRequest& stage) {
  return {stage.min_ranks, stage.max_ranks,         stage.shards, stage.layout,     stage.one_host, stage.memory_bytes,
          stage.data_key,  stage.preferred_profile, stage.labels, stage.avoid_hosts};
}

std::vector<int> AllowedRanks(const ShapeKey& key) {
  std::vector<int> allowed;
  for (int ranks = key.max_ranks; ranks >= std::max(1, key.min_ranks); --ranks) {
    if (key.shards > 0 && key.shards % ranks != 0) continue;
    if (key.layout == GangLayout::kSplitPair && ranks % 2 != 0) continue;
    allowed.push_back(ranks);
  }
  return allowed;
}

int Shapes::Acquire(const Fleet& fleet, const ShapeKey& key) {
  auto [found, added] = index_.emplace(key, 0);
  if (added) {
    if (unused_.empty()) {
      found->second = size();
      shapes_.emplace_back();
    } else {
      found->second = unused_.back();
      unused_.pop_back();
    }
    Shape& shape = shapes_[found->second];
    shape = Shape();
    shape.key = key;
    shape.allowed_ranks = AllowedRanks(key);
    for (int worker = 0; worker < fleet.size(); ++worker) {
      if (Qualifies(fleet.worker(worker), key)) shape.candidates.push_back(worker);
    }
    std::sort(shape.candidates.begin(), shape.candidates.end(), [&](int a, int b) { return fleet.worker(a).info.id < fleet.worker(b).info.id; });
  }
  ++shapes_[found->second].users;
  return found->second;
}

void Shapes::Release(int shape) {
  if (--shapes_[shape].users > 0) return;
  index_.erase(shapes_[shape].key);
  shapes_[shape] = Shape();
  unused_.push_back(shape);
}

void Shapes::WorkerChanged(const Fleet& fleet, int worker) {
  const FleetWorker& changed = fleet.worker(worker);
  for (Shape& shape : shapes_) {
    if (shape.users == 0) continue;
    const bool qualifies = Qualifies(changed, shape.key);
    // Not by binary search: a worker that is gone no longer has the id by which the others are in order.
    const auto at = std::find(shape.candidates.begin(), shape.candidates.end(), worker);
    if (at == shape.candidates.end() && !qualifies) continue;
    shape.stale = true;
    if (!qualifies) {
      shape.candidates.erase(at);
    } else if (at == shape.candidates.end()) {
      const auto before = std::lower_bound(shape.candidates.begin(), shape.candidates.end(), changed.info.id,
                                           [&](int other, const std::string& id) { return fleet.worker(other).info.id < id; });
      shape.candidates.insert(before, worker);
    }
  }
}

const Shape& Shapes::Refresh(const Fleet& fleet, int shape) {
  if (shapes_[shape].stale) Derive(fleet, shapes_[shape]);
  return shapes_[shape];
}

Shape Shapes::Refreshed(const Fleet& fleet, int shape) const {
  Shape copy = shapes_[shape];
  if (copy.stale) Derive(fleet, copy);
  return copy;
}

}  // namespace bitstair::server::scheduling
