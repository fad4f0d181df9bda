// The stages that are ready and wait, in lines.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

// Ageing is the same for all stages of a line, and so is what they ask for: who is first in a line stays first. A decision looks at the lines' heads only.
struct LineKey {
  int queue = 0;
  Priority priority = Priority::kNormal;
  int shape = 0;
  bool operator==(const LineKey&) const = default;
  bool operator<(const LineKey& other) const { return std::tie(queue, priority, shape) < std::tie(other.queue, other.priority, other.shape); }
};

struct LineEntry {
  absl::Time submitted;
  int64_t sequence = 0;  // of arrival; breaks ties
  int stage = 0;
  bool operator<(const LineEntry& other) const { return submitted != other.submitted ? submitted < other.submitted : sequence < other.sequence; }
};

struct Line {
  std::set<LineEntry> entries;
  std::multiset<absl::Duration> durations;  // expected ones of its stages; infinite: not known
};

// A stage with waiters in several queues or classes stands in several lines.
struct LinePlace {
  LineKey line;
  LineEntry entry;
  absl::Duration duration;
};

class Backlog {
 public:
  void Add(const LinePlace& place) {
    Line& line = lines_[place.line];
    line.entries.insert(place.entry);
    line.durations.insert(place.duration);
  }
  void Remove(const LinePlace& place) {
    const auto line = lines_.find(place.line);
    line->second.entries.erase(place.entry);
    line->second.durations.erase(line->second.durations.find(place.duration));
    if (line->second.entries.empty()) lines_.erase(line);
  }
  // None is empty.
  const std::map<LineKey, Line>& lines() const { return lines_; }

 private:
  std::map<LineKey, Line> lines_;
};

}  // namespace bitstair::server::scheduling
