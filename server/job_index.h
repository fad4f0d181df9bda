// Finds jobs for ListJobs without looking at all of them. Owned by the coordinator's strand.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "bitstair/v1/job.pb.h"
#include "server/resource_names.h"

namespace bitstair::server {

class JobIndex {
 public:
  using Place = std::pair<absl::Time, std::string>;  // (create time, id): the order of lists, backwards

  // Adds a job, or moves it to another state. Time and name never change.
  void Set(const std::string& id, absl::Time created, const std::string& name, v1::JobState state);

  // Newest first, from the one before `after` on: every job that `filter` lets pass, until `visit` returns false. Costs as much as there are jobs in the states
  // that the filter names, or of the names, whichever is less.
  void Visit(const JobFilter& filter, const std::optional<Place>& after, const std::function<bool(const Place& place)>& visit) const;

 private:
  using Places = std::set<Place>;
  struct Known {
    std::string name;
    v1::JobState state;
  };

  std::map<std::string, Known> known_;
  Places all_;
  std::map<v1::JobState, Places> by_state_;
  std::map<std::string, Places> by_name_;
};

}  // namespace bitstair::server
