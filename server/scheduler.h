// The first scheduler: first come, first served; gangs all or none. Pure.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bitstair/v1/fleet.pb.h"
#include "server/domain.h"

namespace bitstair::server {

struct SchedulerWorker {
  std::string id;
  std::string numeric_profile;
  std::vector<v1::Slot> slots;
  std::set<int> busy;      // slot indexes
  bool available = false;  // connected and READY; otherwise its slots count for nothing
};

struct PendingStage {
  std::string stage;  // jobs/ID/stages/NAME
  int ranks = 1;
  std::string data;                // how people know the data set: its name or path
  std::set<std::string> eligible;  // workers that offer the data with the job's digest
  std::string preferred_profile;   // of the attempt it goes on from; empty: none
};

struct Placement {
  std::string stage;
  std::vector<records::RankRecord> ranks;
  std::string numeric_profile;  // of rank 0's worker; "mixed" if the workers differ
};

struct Schedule {
  std::vector<Placement> placements;
  // For each stage that stays pending: what it waits for, for people.
  std::map<std::string, std::string> reasons;
};

// `pending` in the order of submission. A gang gets slots of one kind: GPUs if the workers that offer its data have enough of them in all, else CPU slots; of
// one worker if one has enough free ones (the one with the fewest), else spread over the workers with most free ones. Workers with the preferred numeric
// profile are tried alone first. While a stage waits for busy slots, later ones do not take slots of that kind on its eligible workers; a stage that the fleet
// cannot hold at all holds up nobody.
Schedule PlaceStages(const std::vector<PendingStage>& pending, std::vector<SchedulerWorker> workers);

}  // namespace bitstair::server
