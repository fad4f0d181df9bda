// Why a stage does not run, for people. Worked out on demand, so that thousands of waiting stages cost nothing.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/scheduling/state.h"

namespace bitstair::server::scheduling {
namespace {

std::string Counted(int count, const char* thing) {
  return absl::StrCat(count, " ", thing, count == 1 ? "" : "s");
}

class Explainer {
 public:
  Explainer(const State& state, int stage, absl::Time now)
      : state_(state),
        stage_(state.stages[stage]),
        request_(stage_.request),
        now_(now),
        shape_(state.shapes.Refreshed(state.fleet, stage_.shape)),
        least_(shape_.allowed_ranks.back()) {}

  Explanation Explain() const {
    if (stage_.running) return {"runs", "", stage_.start};
    if (stage_.delayed && request_.wait_until > now_) {
      const std::string time = Time(request_.wait_until, "%H:%M:%S");
      return {absl::StrCat("retries at ", time), time};
    }
    if (shape_.candidates.empty()) return NoCandidate();
    if (!shape_.possible) return Impossible();
    if (const std::string* first = GoesFirst()) return {absl::StrCat("made room for ", *first, ", which goes first"), absl::StrCat(*first, " starts")};
    if (auto quota = OverQuota(); !quota.sentence.empty()) return quota;
    return Waits();
  }

 private:
  std::string Slots(int count) const { return Counted(count, "slot"); }
  std::string WaitsFor() const { return absl::StrCat("waits for ", Slots(least_)); }

  std::string Time(absl::Time time, const char* format) const {
    const auto zone = state_.config.time_zone;
    const bool same_day = absl::ToCivilDay(time, zone) == absl::ToCivilDay(now_, zone);
    return absl::FormatTime(same_day ? format : absl::StrCat("%Y-%m-%d ", format), time, zone);
  }

  Explanation NoCandidate() const {
    int known = 0, with_data = 0;
    for (int i = 0; i < state_.fleet.size(); ++i) {
      const FleetWorker& worker = state_.fleet.worker(i);
      if (worker.known && worker.info.state == WorkerState::kCordoned) ++known;
      if (worker.usable() && (request_.data_key.empty() || worker.info.data.count(request_.data_key) > 0)) ++with_data;
    }
    if (state_.fleet.usable_workers() == 0) {
      if (known > 0) return {absl::StrCat(WaitsFor(), "; every connected worker is cordoned"), "a worker is uncordoned, or another one connects"};
      return {absl::StrCat(WaitsFor(), "; no worker is connected"), "a worker connects"};
    }
    if (with_data == 0) {
      return {absl::StrCat("no connected worker offers data set ", request_.data_name, " with the job's digest"),
              absl::StrCat("a worker that offers data set ", request_.data_name, " connects")};
    }
    std::string labels;
    for (const auto& [name, value] : request_.labels) absl::StrAppend(&labels, labels.empty() ? "" : ", ", name, "=", value);
    const std::string data = request_.data_key.empty() ? "" : absl::StrCat(" and offers data set ", request_.data_name);
    const std::string what = absl::StrCat("label", request_.labels.size() == 1 ? " " : "s ", labels, data);
    return {absl::StrCat("no connected worker has ", what), absl::StrCat("a worker with ", what, " connects")};
  }

  Explanation Impossible() const {
    const std::string unblocked_by = "larger workers, or more of them, connect";
    const bool all = static_cast<int>(shape_.candidates.size()) == state_.fleet.usable_workers();
    std::string who = all                       ? "the fleet has "
                      : request_.labels.empty() ? absl::StrCat("the workers that offer data set ", request_.data_name, " have ")
                                                : "the workers that qualify have ";
    if (request_.one_host) who = "the largest host has ";
    // Of each kind: slots, and slots with enough memory.
    int slots = 0, large = 0;
    for (const SlotKind kind : {SlotKind::kCpu, SlotKind::kGpu}) {
      int slots_of_kind = 0, large_of_kind = 0;
      for (const int worker : shape_.candidates) {
        slots_of_kind += state_.fleet.Capacity(worker, {kind, 0});
        large_of_kind += state_.fleet.Capacity(worker, {kind, request_.memory_bytes});
      }
      if (slots_of_kind > slots) {
        slots = slots_of_kind;
        large = large_of_kind;
      }
    }
    if (!request_.one_host && slots >= least_ && large < least_) {
      return {absl::StrFormat("%s with %.1f GiB of memory each; %s%d in all", WaitsFor(), static_cast<double>(request_.memory_bytes) / (1 << 30), who, large),
              unblocked_by};
    }
    return {absl::StrCat(WaitsFor(), request_.one_host ? " on one host; " : "; ", who, shape_.capacity, " in all"), unblocked_by};
  }

  // The name of the stage that it was stopped for; null: none that waits.
  const std::string* GoesFirst() const {
    const auto other = state_.yields_to.find(request_.key);
    const int first = other == state_.yields_to.end() ? -1 : state_.Find(other->second);
    if (first < 0 || state_.stages[first].running || state_.stages[first].outcome != Outcome::kWaits) return nullptr;
    return &state_.stages[first].request.name;
  }

  Explanation OverQuota() const {
    Queues queues = state_.queues;
    if (!queues.Split(request_.waiters, least_).empty()) return {};
    const Waiter& waiter = request_.waiters.front();
    const int queue = queues.Number(waiter.queue);
    const QueueLimits& limits = queues.limits(queue);
    const std::string name = waiter.queue.empty() ? "the default queue" : absl::StrCat("queue ", waiter.queue);
    if (!queues.HasRoomForJob(queue, waiter.job_id)) {
      return {absl::StrCat(name, " is at its quota of ", Counted(*limits.max_jobs, "job")),
              absl::StrCat("another job of ", name, " ends, or its quota is raised")};
    }
    if (!limits.max_slots) return {absl::StrCat(name, " has no room for it"), ""};
    if (*limits.max_slots < least_) {
      return {absl::StrCat("needs ", Slots(least_), "; the quota of ", name, " is ", Slots(*limits.max_slots)),
              absl::StrCat("the quota of ", name, " is raised")};
    }
    const int left = static_cast<int>(*limits.max_slots - queues.slots(queue) + 1e-6);
    const std::string unblocked_by = absl::StrCat("stages of ", name, " end, or its quota is raised");
    if (left <= 0) return {absl::StrCat(name, " is at its quota of ", Slots(*limits.max_slots)), unblocked_by};
    return {absl::StrCat(WaitsFor(), "; ", name, " has ", left, " of its quota of ", *limits.max_slots, " left"), unblocked_by};
  }

  const Head* HeadOfPool() const {
    for (const Head& head : state_.heads) {
      if (head.kind != shape_.kind) continue;
      for (const int worker : shape_.workers) {
        if (worker < static_cast<int>(head.workers.size()) && head.workers[worker] != 0 && head.key != request_.key) return &head;
      }
    }
    return nullptr;
  }

  Explanation Waits() const {
    const auto own = std::find_if(state_.heads.begin(), state_.heads.end(), [&](const Head& head) { return head.key == request_.key; });
    const bool is_head = own != state_.heads.end();
    const absl::Time start = is_head ? own->start : absl::InfiniteFuture();
    const bool soon = start > now_ && start < absl::InfiniteFuture();
    const Head* ahead = is_head ? nullptr : HeadOfPool();
    if (ahead != nullptr && ahead->start > now_ && ahead->start < absl::InfiniteFuture()) {
      return {absl::StrCat("waits behind ", ahead->name, ", which is expected to start about ", Time(ahead->start, "%H:%M")),
              absl::StrCat(ahead->name, " starts")};
    }
    int free = 0, on_best_host = 0;
    std::map<int, int> by_host;
    for (const int worker : shape_.workers) {
      const int count = state_.fleet.Count(worker, shape_.Filter());
      free += count;
      on_best_host = std::max(on_best_host, by_host[state_.fleet.worker(worker).host] += count);
    }
    Explanation explanation;
    explanation.expected_start = start;
    if (request_.one_host) {
      const std::string wanted = Counted(least_, shape_.kind == SlotKind::kGpu ? "GPU" : "slot");
      explanation.sentence = absl::StrCat("waits for ", wanted, " on one host; best host has ", on_best_host, " free",
                                          soon ? absl::StrCat(" until about ", Time(start, "%H:%M")) : "");
      explanation.unblocked_by = absl::StrCat(Slots(std::max(1, least_ - on_best_host)), " more on one host");
    } else {
      explanation.sentence = absl::StrCat(WaitsFor(), "; ", free, " of ", shape_.capacity, free == 1 ? " is free" : " are free");
      if (soon) absl::StrAppend(&explanation.sentence, ", expected to start about ", Time(start, "%H:%M"));
      explanation.unblocked_by = free < least_ ? absl::StrCat(least_ - free, " more ", least_ - free == 1 ? "slot becomes free" : "slots become free") : "";
    }
    if (const auto way = state_.makes_way.find(request_.key); way != state_.makes_way.end()) {
      const std::string& stops = state_.stages[state_.Find(*way->second.begin())].request.name;
      absl::StrAppend(&explanation.sentence, "; ", stops, way->second.size() > 1 ? absl::StrCat(" and ", way->second.size() - 1, " more stop") : " stops",
                      " at a checkpoint to make room");
    }
    if (ahead != nullptr) {
      absl::StrAppend(&explanation.sentence, ", after ", ahead->name);
      if (free >= least_) explanation.unblocked_by = absl::StrCat(ahead->name, " starts");
    }
    return explanation;
  }

  const State& state_;
  const StageState& stage_;
  const StageRequest& request_;
  const absl::Time now_;
  const Shape shape_;
  const int least_;
};

}  // namespace

Explanation ExplainStage(const State& state, int stage, absl::Time now) {
  return Explainer(state, stage, now).Explain();
}

}  // namespace bitstair::server::scheduling
