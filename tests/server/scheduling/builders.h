// Short ways to say what the scheduler's tests are about.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/scheduling/scheduler.h"

namespace bitstair::server::scheduling {

// Seconds after a fixed day's midnight.
inline absl::Time At(double seconds) {
  return absl::FromCivil(absl::CivilSecond(2026, 3, 2, 0, 0, 0), absl::UTCTimeZone()) + absl::Seconds(seconds);
}

inline WorkerInfo MakeWorker(const std::string& id, int cpu, int gpu = 0) {
  WorkerInfo worker;
  worker.id = id;
  worker.host = "host-" + id;
  worker.numeric_profile = "cpu";
  worker.data = {"digest"};
  for (int i = 0; i < cpu + gpu; ++i) worker.slots.push_back({i, i < cpu ? SlotKind::kCpu : SlotKind::kGpu});
  return worker;
}

// Key and job are the same word; its data set is mnist.
inline StageRequest MakeStage(const std::string& key, int ranks, double submitted = 0, const std::string& queue = "", Priority priority = Priority::kNormal) {
  StageRequest stage;
  stage.key = key;
  stage.name = "jobs/" + key + "/stages/W4A4";
  stage.waiters = {{key, queue, priority, At(submitted)}};
  stage.min_ranks = stage.max_ranks = ranks;
  stage.data_key = "digest";
  stage.data_name = "mnist";
  return stage;
}

// "j: a/0 a/1"
inline std::string Show(const Placement& placement) {
  std::string text = placement.key + ":";
  for (const RankSlot& rank : placement.ranks) absl::StrAppend(&text, " ", rank.worker_id, "/", rank.slot);
  return text;
}

inline std::vector<std::string> Shown(const Decision& decision) {
  std::vector<std::string> shown;
  for (const Placement& placement : decision.placements) shown.push_back(Show(placement));
  for (const Preemption& preemption : decision.preemptions) shown.push_back(absl::StrCat("stop ", preemption.key, " for ", preemption.makes_room_for));
  for (const Resize& resize : decision.resizes) {
    shown.push_back(absl::StrCat("resize ", resize.key, " to ", resize.ranks, resize.makes_room_for.empty() ? "" : " for ", resize.makes_room_for));
  }
  return shown;
}

}  // namespace bitstair::server::scheduling
