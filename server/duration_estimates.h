// How long stages take, and how much memory, from epochs that were measured. Pure.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "server/domain.h"

namespace bitstair::server {

// Remembers the newest seconds per epoch of trainings of one kind: network, widths, methods, data, ranks, batch size, numerics. With fixed shards the kind has
// their number, and times at each number of ranks; what was not measured at some number is scaled by ranks from the nearest one that was. Filled from the store
// when the coordinator starts, since epochs are durable.
class DurationEstimates {
 public:
  // An epoch of `stage` took so long, with the ranks of its newest attempt. By numeric profile, and for any.
  void Learn(const Stage& stage, double seconds);

  // So much memory one of its ranks had at the most.
  void LearnMemory(const Stage& stage, int64_t bytes);

  // Seconds that the rest of the stage will take from its newest checkpoint, or from its start; nothing where no such stage was measured. Those measured on the
  // stage's own numeric profile count first. With the ranks that it has; while it has none, with the fewest that it may have.
  std::optional<double> SecondsLeft(const Stage& stage) const;
  // Of a stage that is only planned; whole, with the fewest ranks that it may have.
  std::optional<double> Seconds(const v1::StageSpec& spec) const;
  // Of one rank, in bytes; nothing where none was measured.
  std::optional<int64_t> MemoryBytes(const v1::StageSpec& spec) const;

 private:
  std::optional<double> PerEpoch(const v1::StageSpec& spec, const std::string& profile, int ranks) const;

  std::map<std::string, std::map<int, double>> per_epoch_;  // kind, or kind and profile -> ranks -> seconds
  std::map<std::string, int64_t> memory_;                   // kind -> bytes
};

}  // namespace bitstair::server
