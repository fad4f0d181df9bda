#include "server/scheduler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {

std::vector<int> SlotsOf(const SchedulerWorker& worker, v1::SlotKind kind, bool free_only) {
  std::vector<int> slots;
  for (const auto& slot : worker.slots) {
    if (slot.kind() == kind && !(free_only && worker.busy.count(slot.index()) > 0)) slots.push_back(slot.index());
  }
  std::sort(slots.begin(), slots.end());
  return slots;
}

int Count(const std::vector<SchedulerWorker*>& workers, v1::SlotKind kind, bool free_only) {
  int count = 0;
  for (const auto* worker : workers) count += static_cast<int>(SlotsOf(*worker, kind, free_only).size());
  return count;
}

// The workers that give the gang's slots, in rank order; empty if there are not enough free ones.
std::vector<SchedulerWorker*> Choose(std::vector<SchedulerWorker*> workers, v1::SlotKind kind, int ranks) {
  const auto free = [kind](const SchedulerWorker* worker) { return static_cast<int>(SlotsOf(*worker, kind, true).size()); };
  SchedulerWorker* best = nullptr;
  for (auto* worker : workers) {
    if (free(worker) >= ranks && (best == nullptr || free(worker) < free(best))) best = worker;
  }
  if (best != nullptr) return {best};
  if (Count(workers, kind, true) < ranks) return {};
  std::stable_sort(workers.begin(), workers.end(), [&](const auto* a, const auto* b) { return free(a) > free(b); });
  return workers;
}

Placement Take(const PendingStage& stage, const std::vector<SchedulerWorker*>& workers, v1::SlotKind kind) {
  Placement placement{stage.stage, {}, ""};
  for (auto* worker : workers) {
    for (const int slot : SlotsOf(*worker, kind, true)) {
      if (static_cast<int>(placement.ranks.size()) == stage.ranks) return placement;
      records::RankRecord rank;
      rank.set_rank(static_cast<int>(placement.ranks.size()));
      rank.set_worker_id(worker->id);
      rank.set_slot(slot);
      placement.ranks.push_back(std::move(rank));
      worker->busy.insert(slot);
      if (placement.numeric_profile.empty()) placement.numeric_profile = worker->numeric_profile;
      if (placement.numeric_profile != worker->numeric_profile) placement.numeric_profile = "mixed";
    }
  }
  return placement;
}

std::string Slots(int count) {
  return absl::StrCat(count, count == 1 ? " slot" : " slots");
}

}  // namespace

Schedule PlaceStages(const std::vector<PendingStage>& pending, std::vector<SchedulerWorker> workers) {
  Schedule schedule;
  std::sort(workers.begin(), workers.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  std::map<std::pair<std::string, v1::SlotKind>, std::string> claimed;  // (worker, kind) -> the stage that waits for its slots
  for (const auto& stage : pending) {
    auto& reason = schedule.reasons[stage.stage];
    std::vector<SchedulerWorker*> fleet, eligible;
    for (auto& worker : workers) {
      if (!worker.available) continue;
      fleet.push_back(&worker);
      if (stage.eligible.count(worker.id) > 0) eligible.push_back(&worker);
    }
    if (fleet.empty()) {
      reason = absl::StrCat("waits for ", Slots(stage.ranks), "; no worker is connected");
      continue;
    }
    if (eligible.empty()) {
      reason = absl::StrCat("no connected worker offers data set ", stage.data, " with the job's digest");
      continue;
    }
    const v1::SlotKind kind = Count(eligible, v1::SLOT_KIND_GPU, false) >= stage.ranks ? v1::SLOT_KIND_GPU : v1::SLOT_KIND_CPU;
    const int total = Count(eligible, kind, false);
    if (total < stage.ranks) {
      reason = eligible.size() == fleet.size()
                   ? absl::StrCat("waits for ", Slots(stage.ranks), "; the fleet has ", total, " in all")
                   : absl::StrCat("waits for ", Slots(stage.ranks), "; the workers that offer data set ", stage.data, " have ", total, " in all");
      continue;
    }
    std::vector<SchedulerWorker*> open, same_profile;
    const std::string* ahead = nullptr;
    for (auto* worker : eligible) {
      const auto claim = claimed.find({worker->id, kind});
      if (claim != claimed.end()) {
        ahead = &claim->second;
        continue;
      }
      open.push_back(worker);
      if (worker->numeric_profile == stage.preferred_profile) same_profile.push_back(worker);
    }
    std::vector<SchedulerWorker*> chosen = Choose(same_profile, kind, stage.ranks);
    if (chosen.empty()) chosen = Choose(open, kind, stage.ranks);
    if (!chosen.empty()) {
      schedule.placements.push_back(Take(stage, chosen, kind));
      schedule.reasons.erase(stage.stage);
      continue;
    }
    const int free = Count(eligible, kind, true);
    reason = absl::StrCat("waits for ", Slots(stage.ranks), "; ", free, " of ", total, free == 1 ? " is free" : " are free");
    if (ahead != nullptr) absl::StrAppend(&reason, ", after ", *ahead);
    for (auto* worker : eligible) claimed.emplace(std::make_pair(worker->id, kind), stage.stage);
  }
  return schedule;
}

}  // namespace bitstair::server
