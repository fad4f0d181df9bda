#include "server/scheduling/placement.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace bitstair::server::scheduling {
namespace {

// A worker and how many of its slots match.
struct Offer {
  int worker = 0;
  int slots = 0;
};

int Sum(const std::vector<Offer>& offers) {
  int sum = 0;
  for (const Offer& offer : offers) sum += offer.slots;
  return sum;
}

class Chooser {
 public:
  Chooser(const Fleet& fleet, const ShapeKey& shape, const SlotFilter& filter, int ranks) : fleet_(fleet), shape_(shape), filter_(filter), ranks_(ranks) {}

  std::vector<SlotRef> Choose(const std::vector<Offer>& offers) {
    if (Sum(offers) < ranks_) return {};
    if (OneWorker(offers)) return slots_;
    if (Grouped(offers, fleet_.hosts(), [](const FleetWorker& worker) { return worker.host; })) return slots_;
    if (shape_.one_host) return {};
    if (fleet_.subnets() > 1 && Grouped(offers, fleet_.subnets(), [](const FleetWorker& worker) { return worker.subnet; })) return slots_;
    TakeFrom(Fewest(offers));
    return slots_;
  }

 private:
  // Matching slots of a worker by island: number of slots and their positions.
  std::map<int, std::vector<int>> Islands(int worker) const {
    std::map<int, std::vector<int>> islands;
    const auto& slots = fleet_.worker(worker).slots;
    for (int i = 0; i < static_cast<int>(slots.size()); ++i) {
      if (filter_.Matches(slots[i])) islands[slots[i].slot.island].push_back(i);
    }
    return islands;
  }

  // The same without positions, into counts_: most workers are only looked at.
  void CountIslands(int worker) {
    counts_.clear();
    for (const SlotState& state : fleet_.worker(worker).slots) {
      if (!filter_.Matches(state)) continue;
      auto island = std::find_if(counts_.begin(), counts_.end(), [&](const auto& other) { return other.first == state.slot.island; });
      if (island == counts_.end()) island = counts_.insert(counts_.end(), {state.slot.island, 0});
      ++island->second;
    }
  }

  bool OneWorker(const std::vector<Offer>& offers) {
    int worker = -1;
    auto best = std::make_tuple(2, 0, 0);  // on several islands, left on the island, left on the worker
    for (const Offer& offer : offers) {
      const int left = offer.slots - ranks_;
      // No island leaves fewer over than none.
      if (left < 0 || best <= std::make_tuple(0, 0, left)) continue;
      auto score = std::make_tuple(1, left, left);
      CountIslands(offer.worker);
      for (const auto& [island, size] : counts_) {
        if (size >= ranks_) score = std::min(score, std::make_tuple(0, size - ranks_, left));
      }
      if (score < best) {
        best = score;
        worker = offer.worker;
      }
    }
    if (worker >= 0) TakeFrom({{worker, ranks_}});
    return worker >= 0;
  }

  // The group of offers that holds the gang with the fewest workers, and leaves the fewest slots over.
  template <typename Number>
  bool Grouped(const std::vector<Offer>& offers, int groups, Number number) {
    std::vector<int> sums(groups, 0);
    for (const Offer& offer : offers) sums[number(fleet_.worker(offer.worker))] += offer.slots;
    std::vector<std::vector<Offer>> members(groups);
    for (const Offer& offer : offers) {
      const int group = number(fleet_.worker(offer.worker));
      if (sums[group] >= ranks_) members[group].push_back(offer);
    }
    std::vector<Offer> best;
    auto best_score = std::make_tuple(size_t{0}, 0, std::string());
    for (const auto& group : members) {
      if (group.empty()) continue;
      auto chosen = Fewest(group);
      auto score = std::make_tuple(chosen.size(), Sum(group) - ranks_, fleet_.worker(group.front().worker).info.id);
      if (!best.empty() && best_score <= score) continue;
      best = std::move(chosen);
      best_score = std::move(score);
    }
    if (!best.empty()) TakeFrom(best);
    return !best.empty();
  }

  // The fewest workers that give the gang's slots: the largest offers, but the last one no larger than needed. A split pair takes even numbers where it can, so
  // that each rank has its counterpart beside it.
  std::vector<Offer> Fewest(std::vector<Offer> offers) const {
    if (shape_.layout == GangLayout::kSplitPair) {
      std::vector<Offer> even = offers;
      for (Offer& offer : even) offer.slots -= offer.slots % 2;
      if (Sum(even) >= ranks_) offers = std::move(even);
    }
    std::stable_sort(offers.begin(), offers.end(), [](const Offer& a, const Offer& b) { return a.slots > b.slots; });
    std::vector<Offer> chosen;
    int missing = ranks_;
    for (size_t i = 0; missing > 0; ++i) {
      Offer offer = offers[i];
      if (offer.slots >= missing) {
        for (size_t j = i + 1; j < offers.size() && offers[j].slots >= missing; ++j) {
          if (offers[j].slots < offer.slots) offer = offers[j];
        }
        offer.slots = missing;
      }
      missing -= offer.slots;
      chosen.push_back(offer);
    }
    return chosen;
  }

  // Sets slots_, in rank order.
  void TakeFrom(const std::vector<Offer>& offers) {
    slots_.clear();
    for (const Offer& offer : offers) {
      auto islands = Islands(offer.worker);
      // The island that holds all with the fewest left over, else the largest ones first.
      std::vector<std::vector<int>*> order;
      for (auto& island : islands) order.push_back(&island.second);
      const auto wanted = static_cast<size_t>(offer.slots);
      std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) {
        const bool a_holds = a->size() >= wanted, b_holds = b->size() >= wanted;
        if (a_holds != b_holds) return a_holds;
        return a_holds ? a->size() < b->size() : a->size() > b->size();
      });
      int missing = offer.slots;
      for (const auto* positions : order) {
        for (size_t i = 0; i < positions->size() && missing > 0; ++i, --missing) slots_.push_back({offer.worker, (*positions)[i]});
      }
    }
    if (shape_.layout != GangLayout::kSplitPair) return;
    // Neighbours become rank i of one set and rank i of the other.
    std::vector<SlotRef> pairs(slots_.size());
    const size_t half = slots_.size() / 2;
    for (size_t i = 0; i < half; ++i) {
      pairs[i] = slots_[2 * i];
      pairs[i + half] = slots_[2 * i + 1];
    }
    slots_ = std::move(pairs);
  }

  const Fleet& fleet_;
  const ShapeKey& shape_;
  const SlotFilter& filter_;
  const int ranks_;
  std::vector<SlotRef> slots_;
  std::vector<std::pair<int, int>> counts_;
};

}  // namespace

std::vector<SlotRef> ChooseSlots(const Fleet& fleet, const ShapeKey& shape, const std::vector<int>& workers, const SlotFilter& filter, int ranks) {
  std::vector<Offer> offers;
  for (const int worker : workers) {
    if (const int slots = fleet.Count(worker, filter); slots > 0) offers.push_back({worker, slots});
  }
  Chooser chooser(fleet, shape, filter, ranks);
  if (!shape.preferred_profile.empty()) {
    std::vector<Offer> same;
    const int profile = fleet.ProfileNumber(shape.preferred_profile);
    for (const Offer& offer : offers) {
      if (fleet.worker(offer.worker).profile == profile) same.push_back(offer);
    }
    if (auto slots = chooser.Choose(same); !slots.empty()) return slots;
  }
  return chooser.Choose(offers);
}

}  // namespace bitstair::server::scheduling
