// Random histories: whatever happens in whatever order, the scheduler's promises hold. A failure prints the history's seed;
// BITSTAIR_HISTORY_SEED=N runs that one alone.
#include <algorithm>
#include <cstdlib>
#include <random>

#include "tests/server/scheduling/builders.h"

#include <gtest/gtest.h>

namespace bitstair::server::scheduling {
namespace {

constexpr int kHistories = 12000;
constexpr int kEvents = 40;

class History {
 public:
  explicit History(uint64_t seed) : random_(seed) {
    SchedulerConfig config;
    config.ageing = absl::Hours(Below(3) + 1);
    config.resize_interval = absl::Minutes(Below(3));
    config.preemption = Chance(70);
    config.elasticity = Chance(70);
    // In some histories nothing happens that may delay a stage with reserved slots: no worker is lost, none is preempted, nobody overtakes.
    steady_ = Chance(40);
    if (steady_) {
      config.preemption = config.elasticity = false;
      config.ageing = absl::InfiniteDuration();
    }
    scheduler_ = *Scheduler::Create(config);
  }

  void Run() {
    for (int i = 0; i <= Below(4); ++i) AddWorker(i);
    for (int event = 0; event < kEvents && !::testing::Test::HasFatalFailure(); ++event) {
      Happen();
      Step();
    }
    Drain();
  }

  // All that was decided, to compare two runs of one history.
  const std::vector<std::string>& log() const { return log_; }

 private:
  int Below(int limit) { return static_cast<int>(random_() % static_cast<uint64_t>(limit)); }
  bool Chance(int percent) { return Below(100) < percent; }

  struct Running {
    StageRequest request;
    Placement placement;
    absl::Time end;
  };

  void AddWorker(int number) {
    WorkerInfo worker = MakeWorker(absl::StrCat("w", number), 0);
    worker.host = absl::StrCat("h", number / 2);
    worker.subnet = absl::StrCat("s", number / 3);
    worker.numeric_profile = number % 2 == 0 ? "p0" : "p1";
    worker.data.clear();
    for (const char* data : {"d0", "d1"}) {
      if (Chance(80)) worker.data.insert(data);
    }
    if (Chance(50)) worker.labels["gpu"] = "h100";
    for (int i = 0; i <= Below(4); ++i) {
      worker.slots.push_back({i, Chance(50) ? SlotKind::kCpu : SlotKind::kGpu, Below(2), Chance(50) ? 0 : (Below(3) + 1) * 10});
    }
    worker.state = steady_ || Chance(85) ? WorkerState::kAvailable : Chance(50) ? WorkerState::kCordoned : WorkerState::kUnavailable;
    workers_[worker.id] = worker;
    lost_.erase(worker.id);
    ASSERT_TRUE(scheduler_.UpsertWorker(worker).ok());
  }

  Waiter RandomWaiter() {
    return {absl::StrCat("job", next_job_++), absl::StrCat("q", steady_ ? 0 : Below(3)), static_cast<Priority>(Below(3)), now_ - absl::Minutes(Below(200))};
  }

  void AddStage() {
    StageRequest stage = MakeStage(absl::StrCat("stage", next_stage_++), 1 + Below(4));
    stage.waiters = {RandomWaiter()};
    if (Chance(20)) stage.waiters.push_back(RandomWaiter());
    if (Chance(20)) stage.waiters[0].job_id = "common";
    if (Chance(25)) stage.max_ranks += Below(4);
    if (Chance(15)) {
      stage.layout = GangLayout::kSplitPair;
      stage.min_ranks = (stage.min_ranks + 1) / 2 * 2;
      stage.max_ranks = std::max(stage.min_ranks, stage.max_ranks);
    }
    stage.one_host = Chance(15);
    stage.memory_bytes = Chance(70) ? 0 : 10 * Below(4);
    stage.data_key = Chance(70) ? "d0" : "d1";
    if (Chance(20)) stage.labels["gpu"] = "h100";
    if (Chance(10)) stage.avoid_hosts.insert(absl::StrCat("h", Below(2)));
    if (Chance(20)) stage.preferred_profile = Chance(50) ? "p0" : "p1";
    if (steady_ || Chance(70)) stage.expected_duration = absl::Minutes(1 + Below(60));
    stage.preemptible = Chance(50);
    if (!steady_ && Chance(10)) stage.wait_until = now_ + absl::Minutes(Below(30));
    pending_[stage.key] = stage;
    ASSERT_TRUE(scheduler_.UpsertStage(stage).ok());
  }

  template <typename Map>
  auto Any(Map& map) {
    auto chosen = map.begin();
    std::advance(chosen, Below(static_cast<int>(map.size())));
    return chosen;
  }

  void End(const std::string& key, bool goes_on) {
    Running ended = running_.at(key);
    running_.erase(key);
    ASSERT_TRUE(scheduler_.MarkEnded(key, now_).ok());
    if (!goes_on || ended.request.waiters.empty()) return;
    if (!steady_ && Chance(20)) {
      ended.request.wait_until = now_ + absl::Minutes(Below(10));
      ended.request.avoid_hosts.insert(workers_.at(ended.placement.ranks[0].worker_id).host);
    }
    pending_[key] = ended.request;
    ASSERT_TRUE(scheduler_.UpsertStage(ended.request).ok());
  }

  void Happen() {
    switch (const int kind = Below(100); kind / 5) {
      case 0:
        if (!steady_) AddWorker(Below(5));
        break;
      case 1:  // lost, and what ran there ends a little later or at once
        if (!steady_) {
          const auto worker = Any(workers_);
          ASSERT_EQ(scheduler_.RemoveWorker(worker->first).ok(), lost_.insert(worker->first).second);
          if (Chance(50)) EndThoseOn(worker->first);
        }
        break;
      case 2:
        if (!lost_.empty()) {
          ASSERT_TRUE(scheduler_.UpsertWorker(workers_.at(*lost_.begin())).ok());
          lost_.erase(lost_.begin());
        }
        break;
      case 3:
        if (!pending_.empty()) {
          const auto cancelled = Any(pending_);
          ASSERT_TRUE(scheduler_.RemoveStage(cancelled->first).ok());
          std::erase_if(made_room_for_, [&](const auto& pair) { return pair.first == cancelled->first || pair.second == cancelled->first; });
          pending_.erase(cancelled);
        }
        break;
      case 4:
        ChangeWaiters();
        break;
      case 5:
        if (!steady_) SetQuota(absl::StrCat("q", Below(3)));
        break;
      case 6:
        if (!running_.empty() && !steady_) End(Any(running_)->first, true);
        break;
      case 7:
      case 8:
      case 9:
        now_ += absl::Minutes(Below(40));
        break;
      default:
        AddStage();
    }
  }

  void EndThoseOn(const std::string& worker_id) {
    std::vector<std::string> keys;
    for (const auto& [key, running] : running_) {
      const auto& ranks = running.placement.ranks;
      if (std::any_of(ranks.begin(), ranks.end(), [&](const RankSlot& rank) { return rank.worker_id == worker_id; })) keys.push_back(key);
    }
    for (const std::string& key : keys) End(key, Chance(80));
  }

  void SetQuota(const std::string& queue) {
    QueueLimits limits;
    limits.weight = 1 + Below(3);
    if (Chance(50)) limits.max_slots = Below(8);
    if (Chance(50)) limits.max_jobs = Below(4);
    limits_[queue] = limits;
    ASSERT_TRUE(scheduler_.SetQueue(queue, limits).ok());
  }

  void ChangeWaiters() {
    const bool of_running = Chance(50) && !running_.empty();
    if (!of_running && pending_.empty()) return;
    StageRequest& request = of_running ? Any(running_)->second.request : Any(pending_)->second;
    if (Chance(50)) {
      request.waiters.push_back(RandomWaiter());
    } else if (request.waiters.size() > 1 || of_running) {
      if (!request.waiters.empty()) request.waiters.pop_back();
    }
    ASSERT_TRUE(scheduler_.UpsertStage(request).ok());
  }

  // Ends what is due, decides until nothing more is placed, and checks it all.
  void Step() {
    std::vector<std::string> due;
    for (const auto& [key, running] : running_) {
      if (running.end <= now_) due.push_back(key);
    }
    for (const std::string& key : due) End(key, false);
    const Decision decision = scheduler_.Decide(now_);
    ASSERT_NO_FATAL_FAILURE(Apply(decision));
    for (const Preemption& preemption : decision.preemptions) {
      ASSERT_TRUE(running_.count(preemption.key) > 0 && running_.at(preemption.key).request.preemptible);
      if (Chance(50)) End(preemption.key, Chance(90));
    }
    for (const Resize& resize : decision.resizes) {
      ASSERT_TRUE(running_.count(resize.key) > 0);
      const StageRequest& request = running_.at(resize.key).request;
      ASSERT_TRUE(resize.ranks >= request.min_ranks && resize.ranks <= request.max_ranks);
      if (Chance(50)) End(resize.key, true);
    }
    if (!pending_.empty()) {
      ASSERT_FALSE(scheduler_.Explain(Any(pending_)->first, now_)->sentence.empty());
    }
    ASSERT_EQ(scheduler_.pending(), static_cast<int>(pending_.size()));
    ASSERT_EQ(scheduler_.running(), static_cast<int>(running_.size()));
    CheckReservation();
  }

  void Apply(const Decision& decision) {
    for (const std::string& text : Shown(decision)) log_.push_back(text);
    for (const Preemption& preemption : decision.preemptions) made_room_for_[preemption.key] = preemption.makes_room_for;
    for (const Placement& placement : decision.placements) {
      ASSERT_EQ(running_.count(placement.key), 0u) << placement.key << " runs twice";
      ASSERT_EQ(pending_.count(placement.key), 1u) << placement.key << " was cancelled";
      const StageRequest request = pending_.at(placement.key);
      ASSERT_NO_FATAL_FAILURE(CheckGang(request, placement));
      ASSERT_NO_FATAL_FAILURE(CheckYields(placement.key));
      const absl::Time end = now_ + request.expected_duration.value_or(absl::Minutes(30));
      std::map<std::string, std::pair<double, int>> before;
      for (const auto& [queue, limits] : limits_) before[queue] = {scheduler_.SlotsOf(queue), scheduler_.JobsOf(queue)};
      ASSERT_TRUE(scheduler_.MarkRunning(placement.key, placement, now_, request.expected_duration ? end : absl::InfiniteFuture()).ok());
      pending_.erase(placement.key);
      std::erase_if(made_room_for_, [&](const auto& pair) { return pair.second == placement.key; });
      running_[placement.key] = {request, placement, end};
      for (const auto& [queue, limits] : limits_) {
        const auto [slots, jobs] = before.at(queue);
        ASSERT_TRUE(scheduler_.SlotsOf(queue) <= slots + 1e-6 || !limits.max_slots || scheduler_.SlotsOf(queue) <= *limits.max_slots + 1e-6)
            << "slots of " << queue;
        ASSERT_TRUE(scheduler_.JobsOf(queue) <= jobs || !limits.max_jobs || scheduler_.JobsOf(queue) <= *limits.max_jobs) << "jobs of " << queue;
      }
    }
  }

  // A stage that made room for another does not start before it, unless the other could not start anyway.
  void CheckYields(const std::string& key) {
    const auto made_room = made_room_for_.find(key);
    if (made_room == made_room_for_.end()) return;
    if (pending_.count(made_room->second) > 0) {
      const std::string why = scheduler_.Explain(made_room->second, now_)->sentence;
      ASSERT_EQ(why.find(" free"), std::string::npos) << key << " goes before " << made_room->second << ", which " << why;
      ASSERT_EQ(why.find("waits behind"), std::string::npos) << key << " goes before " << made_room->second << ", which " << why;
    }
    made_room_for_.erase(made_room);
  }

  void CheckGang(const StageRequest& request, const Placement& placement) {
    const int ranks = static_cast<int>(placement.ranks.size());
    ASSERT_TRUE(ranks >= request.min_ranks && ranks <= request.max_ranks) << "partial gang: " << Show(placement);
    ASSERT_TRUE(request.layout == GangLayout::kOneSet || ranks % 2 == 0) << "half a pair: " << Show(placement);
    ASSERT_LE(request.wait_until, now_);
    std::set<std::pair<std::string, int>> taken;
    for (const auto& [key, running] : running_) {
      for (const RankSlot& rank : running.placement.ranks) taken.insert({rank.worker_id, rank.slot});
    }
    std::set<std::string> hosts;
    for (const RankSlot& rank : placement.ranks) {
      ASSERT_TRUE(taken.insert({rank.worker_id, rank.slot}).second) << "slot given twice: " << Show(placement);
      ASSERT_EQ(lost_.count(rank.worker_id), 0u) << "a lost worker: " << Show(placement);
      const WorkerInfo& worker = workers_.at(rank.worker_id);
      ASSERT_EQ(worker.state, WorkerState::kAvailable);
      ASSERT_EQ(worker.data.count(request.data_key), 1u) << "not eligible: " << Show(placement);
      for (const auto& label : request.labels) ASSERT_TRUE(worker.labels.count(label.first) > 0 && worker.labels.at(label.first) == label.second);
      const auto slot = std::find_if(worker.slots.begin(), worker.slots.end(), [&](const Slot& other) { return other.index == rank.slot; });
      ASSERT_TRUE(slot != worker.slots.end());
      ASSERT_EQ(slot->kind, placement.kind);
      ASSERT_TRUE(slot->memory_bytes == 0 || slot->memory_bytes >= request.memory_bytes);
      hosts.insert(worker.host);
    }
    ASSERT_TRUE(!request.one_host || hosts.size() == 1) << "spread: " << Show(placement);
  }

  // What a head was promised comes true if from now on nothing happens but the ends of what runs, at the times that were told.
  void CheckReservation() {
    if (!steady_ || !Chance(30)) return;
    for (const auto& [head, request] : pending_) {
      const absl::Time promised = scheduler_.Explain(head, now_)->expected_start;
      if (promised == absl::InfiniteFuture()) continue;
      Scheduler future = scheduler_;
      std::map<std::string, absl::Time> ends;
      for (const auto& [key, running] : running_) ends[key] = running.end;
      while (ends.count(head) == 0) {
        absl::Time next = absl::InfiniteFuture();
        for (const auto& [key, end] : ends) next = std::min(next, end);
        ASSERT_LE(next, promised) << head << " does not start when it was to";
        for (auto end = ends.begin(); end != ends.end();) {
          if (end->second > next) {
            ++end;
            continue;
          }
          ASSERT_TRUE(future.MarkEnded(end->first, next).ok());
          end = ends.erase(end);
        }
        for (const Placement& placement : future.Decide(next).placements) {
          ends[placement.key] = next + *pending_.at(placement.key).expected_duration;
          ASSERT_TRUE(future.MarkRunning(placement.key, placement, next, ends[placement.key]).ok());
        }
      }
    }
  }

  // All workers are back, one more could hold everything, and there are no quotas: then every stage runs and ends.
  void Drain() {
    for (auto& [id, worker] : workers_) {
      worker.state = WorkerState::kAvailable;
      ASSERT_TRUE(scheduler_.UpsertWorker(worker).ok());
    }
    lost_.clear();
    WorkerInfo large = MakeWorker("large", 8, 8);
    large.data = {"d0", "d1"};
    large.labels["gpu"] = "h100";
    workers_[large.id] = large;
    ASSERT_TRUE(scheduler_.UpsertWorker(large).ok());
    for (const char* queue : {"q0", "q1", "q2"}) ASSERT_TRUE(scheduler_.SetQueue(queue, {}).ok());
    limits_.clear();
    std::set<std::string> asked;
    for (int step = 0; step < 2000 && !(pending_.empty() && running_.empty()); ++step) {
      for (const std::string& key : asked) {
        if (running_.count(key) > 0) End(key, true);
      }
      asked.clear();
      std::vector<std::string> due;
      for (const auto& [key, running] : running_) {
        if (running.end <= now_) due.push_back(key);
      }
      for (const std::string& key : due) End(key, false);
      const Decision decision = scheduler_.Decide(now_);
      ASSERT_NO_FATAL_FAILURE(Apply(decision));
      for (const Preemption& preemption : decision.preemptions) asked.insert(preemption.key);
      for (const Resize& resize : decision.resizes) asked.insert(resize.key);
      absl::Time next = asked.empty() ? decision.wake_at : now_;
      for (const auto& [key, running] : running_) next = std::min(next, running.end);
      if (next < absl::InfiniteFuture()) now_ = std::max(now_, next);
      ASSERT_TRUE(next < absl::InfiniteFuture() || pending_.empty())
          << pending_.begin()->first << " never runs: " << scheduler_.Explain(pending_.begin()->first, now_)->sentence;
    }
    ASSERT_TRUE(pending_.empty() && running_.empty()) << "still waiting after 2000 steps: " << pending_.size();
  }

  std::mt19937_64 random_;
  Scheduler scheduler_;
  bool steady_ = false;
  absl::Time now_ = At(0);
  std::map<std::string, WorkerInfo> workers_;
  std::set<std::string> lost_;
  std::map<std::string, StageRequest> pending_;
  std::map<std::string, Running> running_;
  std::map<std::string, QueueLimits> limits_;
  std::map<std::string, std::string> made_room_for_;
  std::vector<std::string> log_;
  int next_stage_ = 0, next_job_ = 0;
};

TEST(HistoriesTest, PromisesHoldWhateverHappens) {
  const char* chosen = std::getenv("BITSTAIR_HISTORY_SEED");
  const uint64_t first = chosen == nullptr ? 1 : std::strtoull(chosen, nullptr, 10);
  const uint64_t last = chosen == nullptr ? kHistories : first;
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(absl::StrCat("BITSTAIR_HISTORY_SEED=", seed));
    History history(seed);
    history.Run();
    if (HasFailure()) return;
    if (seed % 10 != 0) continue;
    History again(seed);
    again.Run();
    ASSERT_EQ(history.log(), again.log()) << "the same history, another decision";
  }
}

}  // namespace
}  // namespace bitstair::server::scheduling
