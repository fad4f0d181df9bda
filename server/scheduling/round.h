// One decision: the stages in their order, each placed, or made to wait with slots reserved for it. round.cc has the order and the placing, room.cc what
// happens for those that find no place.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/scheduling/state.h"

namespace bitstair::server::scheduling {

class Round {
 public:
  Round(State& state, absl::Time now);
  Decision Run();

 private:
  // The head of a line. priority: after ageing. version: of the queue when its share was taken.
  struct Candidate {
    int priority = 0;
    double share = 0;
    int version = 0;
    LineKey key;
    const Line* line = nullptr;
    std::set<LineEntry>::const_iterator entry;
  };
  // What is known of a shape so far. Slots only become fewer within a decision, so what failed once fails again.
  struct ShapeRound {
    bool impossible = false;
    bool joined = false;     // it belongs to a head's pool
    std::vector<int> asked;  // its stages for which others were asked to stop
    bool failed = false;
    absl::Time failed_end;          // of the stage that failed: others that end no earlier fail, too
    std::array<bool, 3> no_room{};  // by priority: nobody can make room
  };
  // Slots on one host for a gang that stays on one, otherwise on all eligible workers.
  struct Region {
    std::vector<SlotRef> free, own;  // own: of stages that were asked to stop for the one in question
    struct Giver {
      int stage = 0;
      Priority priority = Priority::kLow;
      absl::Time start;
      std::vector<SlotRef> slots;  // that it can give
    };
    std::vector<Giver> givers;
  };
  using Regions = std::map<int, Region>;  // by host number; 0 where hosts do not matter

  // round.cc
  static bool Later(const Candidate& a, const Candidate& b);
  Candidate At(const LineKey& key, const Line* line, std::set<LineEntry>::const_iterator entry) const;
  void Push(const Candidate& candidate);
  void Advance(Candidate candidate);
  bool KnownToFail(int stage);
  // Does it hold for all stages of the line, or those of them that stand in no line of a higher class? Then those for which others were asked to stop get what
  // these leave, and nothing else is left to do for the line.
  bool Exhausted(const LineKey& key, const Line& line);
  Outcome Consider(int stage);
  Outcome Evaluate(int stage);
  void Commit(int stage, const Shape& shape, const std::vector<SlotRef>& slots, std::vector<Charge> charges, absl::Time end);
  absl::Time EndOf(const StageState& stage) const;
  // The latest end with which a stage finds the same slots as with `end`.
  absl::Time Normalised(absl::Time end) const;
  // The earliest of the ends that make a difference.
  absl::Time EarliestEnd() const { return reservation_times_.empty() ? absl::InfiniteFuture() : *reservation_times_.begin(); }
  int CountFree(const Shape& shape, const SlotFilter& filter) const;

  // room.cc
  void Block(int stage, const Shape& shape);
  Regions FreeRegions(const Shape& shape) const;
  // Slots of a running stage that the gang may use, at most `most`, the last ranks first.
  void Collect(const StageState& running, const Shape& shape, int most, std::map<int, std::vector<SlotRef>>& by_region) const;
  // The stages were asked earlier and some have not ended yet. Reserves what they leave. False: it is not enough.
  bool ReserveOwn(int stage, const Shape& shape);
  bool MakeRoom(int stage, const Shape& shape);
  bool AskElastic(int stage, const Shape& shape);
  bool AskPreemptible(int stage, const Shape& shape);
  // Are there enough slots on its workers, free or held by preemptible stages of lower classes? If not, there is no need to look closer.
  bool MayPreempt(Priority priority, const Shape& shape) const;
  static std::vector<Region::Giver> Pick(const std::vector<Region::Giver>& givers, int missing);
  // Of the regions in which enough givers are found, the one that needs the fewest; null: none.
  static const Region* Cheapest(const Regions& regions, int least, std::vector<Region::Giver>& givers);
  void Ask(int asked, int beneficiary, int resize_to);
  // False: the stage is the first one that waits for any of these workers.
  bool JoinPool(const Shape& shape);
  void ReserveEarliest(int stage, const Shape& shape);
  void AddHead(int stage, const Shape& shape, absl::Time start);
  void Grow();
  bool GrowOne(int stage);

  State& state_;
  const absl::Time now_;
  Decision decision_;
  std::vector<Candidate> heap_;
  std::vector<ShapeRound> shapes_;
  std::set<absl::Time> reservation_times_;
  std::vector<std::vector<Charge>> charges_;
  bool anyone_waits_ = false;
  // Elastic stages with ranks to give, once somebody asked.
  struct Donor {
    int stage = 0;
    int surplus = 0;
  };
  std::optional<std::vector<Donor>> donors_;
};

}  // namespace bitstair::server::scheduling
