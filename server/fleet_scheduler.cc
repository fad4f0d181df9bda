#include "server/fleet_scheduler.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/state_machine.h"

namespace bitstair::server {
namespace {

// The calls that follow are made from a state that the state machine keeps consistent; an error would be ours.
void Expect(const absl::Status& status, const std::string& what) {
  if (!status.ok()) spdlog::error("scheduler: {}: {}", what, std::string(status.message()));
}

scheduling::SlotKind KindOf(v1::SlotKind kind) {
  return kind == v1::SLOT_KIND_GPU ? scheduling::SlotKind::kGpu : scheduling::SlotKind::kCpu;
}

scheduling::Priority PriorityOf(v1::PriorityClass priority) {
  return priority == v1::PRIORITY_CLASS_LOW    ? scheduling::Priority::kLow
         : priority == v1::PRIORITY_CLASS_HIGH ? scheduling::Priority::kHigh
                                               : scheduling::Priority::kNormal;
}

// The scheduler knows the queue of jobs that name none as "".
std::string InScheduler(const std::string& queue) {
  return queue == "default" ? "" : queue;
}

}  // namespace

std::string DataKey(const v1::DataSpec& data, const std::string& digest, const std::string& weights_path, const std::string& weights_digest) {
  return absl::StrCat(data.name(), "\n", data.path(), "\n", digest, weights_path.empty() ? "" : absl::StrCat("\n", weights_path, "\n", weights_digest));
}

std::string DataKey(const v1::StageSpec& stage) {
  return DataKey(stage.data(), stage.data_digest(), stage.initial_weights().path(), stage.initial_weights_digest());
}

void FleetScheduler::SetWorker(const std::string& id, const v1::WorkerHello& hello, scheduling::WorkerState state, const std::set<int>& reserved,
                               const std::set<std::string>& offers) {
  scheduling::WorkerInfo worker;
  worker.id = id;
  worker.host = hello.hostname();
  worker.subnet = hello.subnet();
  worker.labels = {hello.labels().begin(), hello.labels().end()};
  worker.numeric_profile = hello.numeric_profile();
  for (const auto& slot : hello.slots()) {
    worker.slots.push_back({slot.index(), KindOf(slot.kind()), slot.has_island() ? slot.island() : -1, slot.memory_bytes()});
  }
  worker.busy = reserved;
  worker.state = state;
  worker.data = offers;
  hosts_[id] = worker.host.empty() ? id : worker.host;
  Expect(scheduler_.UpsertWorker(worker), "worker " + id);
}

void FleetScheduler::RemoveWorker(const std::string& id) {
  if (hosts_.erase(id) > 0) Expect(scheduler_.RemoveWorker(id), "worker " + id);
}

scheduling::StageRequest FleetScheduler::Request(const State& state, const Stage& stage) const {
  const v1::StageSpec& spec = stage.record.spec();
  scheduling::StageRequest request;
  request.key = request.name = StageName(stage);
  request.min_ranks = LeastRanks(spec);
  request.max_ranks = MostRanks(spec);
  if (spec.reduction() == v1::REDUCTION_FIXED_SHARDS) request.shards = SetsOf(spec) * spec.shards();
  if (spec.placement() == v1::PAIR_PLACEMENT_SPLIT) request.layout = scheduling::GangLayout::kSplitPair;
  request.data_key = DataKey(spec);
  request.data_name = spec.data().name().empty() ? spec.data().path() : spec.data().name();
  request.preemptible = true;
  bool first = true;
  for (const auto& id : stage.jobs) {
    const auto& job = state.jobs.at(id).record;
    if (job.state() == v1::JOB_STATE_PAUSED) continue;
    request.waiters.push_back({id, InScheduler(job.spec().queue()), PriorityOf(job.spec().priority()), FromStamp(job.create_time())});
    request.preemptible = request.preemptible && (!job.spec().has_preemptible() || job.spec().preemptible());
    // Where jobs ask for different labels, workers that one of them would take are good enough for all.
    const std::map<std::string, std::string> labels(job.spec().labels().begin(), job.spec().labels().end());
    if (first || labels.size() < request.labels.size()) request.labels = labels;
    first = false;
  }
  for (const auto& worker : stage.failed_on) {
    const auto host = hosts_.find(worker);
    if (host != hosts_.end()) request.avoid_hosts.insert(host->second);
  }
  if (stage.record.has_checkpoint()) request.preferred_profile = stage.record.numeric_profile();
  if (const auto seconds = estimates_->SecondsLeft(stage)) request.expected_duration = absl::Seconds(*seconds);
  request.wait_until = stage.retry_after;
  request.memory_bytes = estimates_->MemoryBytes(spec).value_or(0);
  return request;
}

void FleetScheduler::UpdateStage(const State& state, const Stage& stage, absl::Time now) {
  const std::string name = StageName(stage);
  if (running_.count(name) > 0 && !stage.attempt.has_value()) {
    running_.erase(name);
    Expect(scheduler_.MarkEnded(name, now), name);
  }
  const bool waits = stage.record.state() == v1::STAGE_STATE_PENDING && IsWanted(state, stage);
  if (waits) {
    waiting_.insert(name);
    return Expect(scheduler_.UpsertStage(Request(state, stage)), name);
  }
  if (!stage.attempt.has_value()) {
    if (waiting_.erase(name) > 0) Expect(scheduler_.RemoveStage(name), name);
    return;
  }
  scheduling::StageRequest request = Request(state, stage);
  if (waiting_.erase(name) == 0 && running_.count(name) == 0) {
    // As loaded, or with nobody left who waits for it: it must have been waiting once.
    if (request.waiters.empty()) request.waiters.push_back({stage.record.job_id(), "", scheduling::Priority::kNormal, now});
    Expect(scheduler_.UpsertStage(request), name);
  } else if (running_.count(name) > 0 && !request.waiters.empty()) {
    // While it stops with nobody left who waits, those who paid so far go on paying.
    Expect(scheduler_.UpsertStage(request), name);
  }
  scheduling::Placement placement;
  placement.key = name;
  for (const auto& rank : stage.attempt->ranks) placement.ranks.push_back({rank.worker_id, rank.slot});
  placement.numeric_profile = stage.record.numeric_profile();
  absl::Time end = absl::InfiniteFuture();
  if (stage.attempt->stopping) {
    end = now;
  } else if (stage.progress.has_value() && stage.progress->seconds_left() >= 0) {
    end = now + absl::Seconds(stage.progress->seconds_left());
  } else if (request.expected_duration.has_value()) {
    end = now + *request.expected_duration;
  }
  running_.insert(name);
  Expect(scheduler_.MarkRunning(name, placement, stage.attempt->start, end), name);
}

absl::Time FleetScheduler::ExpectedStart(const std::string& stage, absl::Time now) const {
  if (waiting_.count(stage) == 0) return absl::InfiniteFuture();
  const auto explanation = scheduler_.Explain(stage, now);
  return explanation.ok() ? explanation->expected_start : absl::InfiniteFuture();
}

std::string FleetScheduler::Explain(const std::string& stage, absl::Time now) const {
  if (waiting_.count(stage) == 0) return "";
  const auto explanation = scheduler_.Explain(stage, now);
  return explanation.ok() ? explanation->sentence : "";
}

std::vector<scheduling::QueueUsage> FleetScheduler::Usage(absl::Time now) const {
  std::vector<scheduling::QueueUsage> usage = scheduler_.Usage(now);
  for (scheduling::QueueUsage& queue : usage) {
    if (queue.name.empty()) queue.name = "default";
  }
  return usage;
}

absl::Status FleetScheduler::RestoreUsage(const std::string& queue, double slot_seconds, absl::Time saved) {
  return scheduler_.RestoreUsage(InScheduler(queue), slot_seconds, saved);
}

}  // namespace bitstair::server
