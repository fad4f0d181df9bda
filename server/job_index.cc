#include "server/job_index.h"

#include <queue>

#include "absl/strings/match.h"

namespace bitstair::server {

void JobIndex::Set(const std::string& id, absl::Time created, const std::string& name, v1::JobState state) {
  const Place place{created, id};
  const auto [known, added] = known_.try_emplace(id, Known{name, state});
  if (added) {
    all_.insert(place);
    by_name_[name].insert(place);
  } else if (known->second.state == state) {
    return;
  } else {
    by_state_[known->second.state].erase(place);
    known->second.state = state;
  }
  by_state_[state].insert(place);
}

void JobIndex::Visit(const JobFilter& filter, const std::optional<Place>& after, const std::function<bool(const Place& place)>& visit) const {
  std::vector<const Places*> by_state, by_name;
  size_t states = 0, names = 0;
  for (const auto& [state, places] : by_state_) {
    if (!filter.Passes(state)) continue;
    by_state.push_back(&places);
    states += places.size();
  }
  if (filter.name.empty()) {
    by_name.push_back(&all_);
    names = all_.size();
  } else {
    for (auto it = by_name_.lower_bound(filter.name); it != by_name_.end() && absl::StartsWith(it->first, filter.name); ++it) {
      if (!filter.Passes(it->first)) continue;
      by_name.push_back(&it->second);
      names += it->second.size();
    }
  }
  // The newest of each set on top; each is followed by the next older of its set.
  using Position = std::pair<Places::const_reverse_iterator, const Places*>;
  const auto older = [](const Position& a, const Position& b) { return *a.first < *b.first; };
  std::priority_queue<Position, std::vector<Position>, decltype(older)> newest(older);
  for (const Places* places : states < names ? by_state : by_name) {
    const auto begin = after.has_value() ? std::make_reverse_iterator(places->lower_bound(*after)) : places->rbegin();
    if (begin != places->rend()) newest.push({begin, places});
  }
  while (!newest.empty()) {
    auto [at, places] = newest.top();
    newest.pop();
    const Known& job = known_.at(at->second);
    if (filter.Passes(job.state) && filter.Passes(job.name) && !visit(*at)) return;
    if (++at != places->rend()) newest.push({at, places});
  }
}

}  // namespace bitstair::server
