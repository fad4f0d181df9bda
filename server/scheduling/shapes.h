// Stages that ask for the same thing share a shape, so that what holds for one of them is worked out once.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "server/scheduling/fleet.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

struct ShapeKey {
  int min_ranks = 1, max_ranks = 1, shards = 0;
  GangLayout layout = GangLayout::kOneSet;
  bool one_host = false;
  int64_t memory_bytes = 0;
  std::string data_key, preferred_profile;
  std::map<std::string, std::string> labels;
  std::set<std::string> avoid_hosts;

  static ShapeKey Of(const StageRequest& stage);
  auto Tied() const { return std::tie(min_ranks, max_ranks, shards, layout, one_host, memory_bytes, data_key, preferred_profile, labels, avoid_hosts); }
  bool operator<(const ShapeKey& other) const { return Tied() < other.Tied(); }
};

// Numbers of ranks that a stage of this shape may have, largest first.
std::vector<int> AllowedRanks(const ShapeKey& key);

struct Shape {
  ShapeKey key;
  std::vector<int> allowed_ranks;  // largest first
  int users = 0;
  // Usable workers that have labels and data, by id.
  std::vector<int> candidates;
  // What follows from them; see Shapes::Refresh.
  bool stale = true;
  SlotKind kind = SlotKind::kCpu;
  std::vector<int> workers;    // those that are used: without hosts to avoid, if the rest could hold the gang
  std::vector<char> eligible;  // by worker index: is it in `workers`
  int capacity = 0;            // slots of `kind` with enough memory there, free or not
  bool possible = false;       // the gang fits if nothing else runs

  SlotFilter Filter() const { return {kind, key.memory_bytes}; }
};

class Shapes {
 public:
  // The shape's number; a release for each call.
  int Acquire(const Fleet& fleet, const ShapeKey& key);
  void Release(int shape);
  // The worker came, went, or is another than before.
  void WorkerChanged(const Fleet& fleet, int worker);
  // The shape with what follows from its candidates up to date.
  const Shape& Refresh(const Fleet& fleet, int shape);
  // A copy of it up to date, for who may not change anything.
  Shape Refreshed(const Fleet& fleet, int shape) const;

  int size() const { return static_cast<int>(shapes_.size()); }

 private:
  std::vector<Shape> shapes_;
  std::map<ShapeKey, int> index_;
  std::vector<int> unused_;
};

}  // namespace bitstair::server::scheduling
