// The state machine and the scheduler together, over random histories: submissions, cancels, pauses, crashes, lost workers, restarts of the coordinator,
// messages that come late or twice. Everything is as in server/coordinator.cc, but for the store, the streams and the clock.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/fleet_scheduler.h"
#include "server/job_spec.h"
#include "server/state_machine.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

constexpr int kHistories = 10'000;
constexpr int kStepsEach = 60;
constexpr int kSmallQueueSlots = 2;

struct FakeWorker {
  v1::WorkerHello hello;
  bool here = false;
};

// A rank's process somewhere in the fleet.
struct FakeTrainer {
  v1::AssignAttempt assign;
  int rank = 0;
  std::string worker;
  int epoch = 0;  // done
};

class History {
 public:
  explicit History(uint32_t seed) : random_(seed) {
    StartScheduler();
    for (int i = 0; i < 3; ++i) {
      FakeWorker worker;
      worker.hello.set_worker_id(absl::StrCat("w", i));
      worker.hello.set_hostname(absl::StrCat("host", i));
      worker.hello.set_numeric_profile(i == 2 ? "other" : "cpu");
      for (int s = 0; s < 2; ++s) {
        worker.hello.add_slots()->set_index(s);
        worker.hello.mutable_slots(s)->set_kind(v1::SLOT_KIND_CPU);
      }
      workers_[worker.hello.worker_id()] = worker;
    }
  }

  void Run() {
    for (int step = 0; step < kStepsEach && !::testing::Test::HasFatalFailure(); ++step) Step();
    Drain();
  }

 private:
  int Pick(int n) { return static_cast<int>(random_() % n); }

  void StartScheduler() {
    scheduling::Scheduler scheduler;
    ASSERT_TRUE(scheduler.SetQueue("small", {.max_slots = kSmallQueueSlots}).ok());
    estimates_ = std::make_unique<DurationEstimates>();
    scheduler_ = std::make_unique<FleetScheduler>(std::move(scheduler), estimates_.get());
    for (const auto& [id, worker] : workers_) ShowWorker(id);
  }

  void ShowWorker(const std::string& id) {
    const FakeWorker& worker = workers_.at(id);
    v1::DataSpec data;
    data.set_name("fashion_mnist");
    std::set<int> reserved;
    for (const auto& [where, slot] : reserved_) {
      if (std::get<0>(where) == id) reserved.insert(slot);
    }
    scheduler_->SetWorker(id, worker.hello, worker.here ? scheduling::WorkerState::kAvailable : scheduling::WorkerState::kUnavailable, reserved,
                          {DataKey(data, testing::kDigestA, "", "")});
  }

  void Do(const Event& event) {
    const std::map<std::string, size_t> before = EpochCounts();
    Persist(Apply(&state_, event, now_));
    if (std::holds_alternative<Placed>(event)) return;
    for (const auto& [name, epochs] : before) ASSERT_GE(state_.stages.at(name).epochs.size(), epochs) << name << " went back without a new attempt";
  }

  std::map<std::string, size_t> EpochCounts() const {
    std::map<std::string, size_t> counts;
    for (const auto& [name, stage] : state_.stages) counts[name] = stage.epochs.size();
    return counts;
  }

  void Persist(const Outcome& outcome) {
    std::set<std::string> touched = outcome.stages_changed;
    for (const auto& id : outcome.jobs_changed) {
      for (const auto& link : state_.jobs.at(id).record.job_stages()) touched.insert(link.stage());
    }
    for (const auto& name : touched) scheduler_->UpdateStage(state_, state_.stages.at(name), now_);
    for (const auto& action : outcome.actions) {
      if (const auto* send = std::get_if<SendToWorker>(&action)) Deliver(*send);
      if (const auto* reserve = std::get_if<ReserveSlot>(&action)) {
        reserved_[{reserve->worker_id, reserve->attempt.stage(), reserve->attempt.generation(), reserve->rank}] = reserve->slot;
        ShowWorker(reserve->worker_id);
      }
    }
    Check();
  }

  // What a worker does with a message, if it is there to get it.
  void Deliver(const SendToWorker& send) {
    if (!workers_.at(send.worker_id).here) return;
    if (send.message.has_assign()) {
      const auto& assign = send.message.assign();
      for (const auto& rank : assign.ranks()) {
        ASSERT_TRUE(started_.insert({assign.attempt().stage(), assign.attempt().generation(), rank.rank()}).second) << "a generation was started twice";
        trainers_.push_back({assign, rank.rank(), send.worker_id, assign.resume_from().epoch()});
        late_.push_back(RankRan{assign.attempt().stage(), assign.attempt().generation(), rank.rank(), 1});
      }
    }
    if (send.message.has_stop()) {
      for (size_t i = 0; i < trainers_.size();) {
        const FakeTrainer trainer = trainers_[i];
        const auto& id = trainer.assign.attempt();
        if (trainer.worker != send.worker_id || id.stage() != send.message.stop().attempt().stage() ||
            id.generation() != send.message.stop().attempt().generation()) {
          ++i;
          continue;
        }
        trainers_.erase(trainers_.begin() + static_cast<std::ptrdiff_t>(i));
        if (send.message.stop().graceful() && trainer.rank == 0) Save(trainer, false);
        late_.push_back(RankEnded{id.stage(), id.generation(), trainer.rank, v1::EXIT_CAUSE_STOPPED, ""});
      }
    }
  }

  void Save(const FakeTrainer& trainer, bool final) {
    v1::Checkpoint checkpoint;
    checkpoint.set_sha256(absl::StrCat("sha", ++checkpoints_));
    checkpoint.set_epoch(trainer.epoch);
    checkpoint.set_final(final);
    late_.push_back(CheckpointStored{trainer.assign.attempt().stage(), trainer.assign.attempt().generation(), checkpoint});
  }

  // One epoch of one gang, or its end.
  void Train(size_t index) {
    FakeTrainer& trainer = trainers_[index];
    const auto& id = trainer.assign.attempt();
    const int epochs = trainer.assign.spec().epochs();
    if (trainer.epoch < epochs) {
      ++trainer.epoch;
      if (trainer.rank != 0) return;
      v1::EpochResult result;
      result.set_epoch(trainer.epoch);
      result.set_seconds(10);
      late_.push_back(EpochFinished{id.stage(), id.generation(), result});
      if (Pick(2) == 0 || trainer.epoch == epochs) Save(trainer, trainer.epoch == epochs);
      return;
    }
    late_.push_back(RankEnded{id.stage(), id.generation(), trainer.rank, v1::EXIT_CAUSE_FINISHED, ""});
    trainers_.erase(trainers_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  void Crash(size_t index) {
    const FakeTrainer trainer = trainers_[index];
    trainers_.erase(trainers_.begin() + static_cast<std::ptrdiff_t>(index));
    late_.push_back(RankEnded{trainer.assign.attempt().stage(), trainer.assign.attempt().generation(), trainer.rank, v1::EXIT_CAUSE_CRASHED, "signal 9"});
  }

  void Schedule() {
    const scheduling::Decision decision = scheduler_->Decide(now_);
    for (const auto& placement : decision.placements) {
      const Stage& stage = state_.stages.at(placement.key);
      ASSERT_EQ(static_cast<int>(placement.ranks.size()), stage.record.spec().ranks()) << "a partial gang";
      Placed placed{placement.key, {}, "token", placement.numeric_profile};
      for (const auto& slot : placement.ranks) {
        ASSERT_TRUE(workers_.at(slot.worker_id).here);
        for (const auto& name : state_.live) {
          for (const auto& rank : state_.stages.at(name).attempt->ranks) {
            ASSERT_FALSE(rank.worker_id == slot.worker_id && rank.slot == slot.slot) << "slot " << slot.slot << " of " << slot.worker_id << " is given twice";
          }
        }
        records::RankRecord rank;
        rank.set_rank(static_cast<int>(placed.ranks.size()));
        rank.set_worker_id(slot.worker_id);
        rank.set_slot(slot.slot);
        placed.ranks.push_back(rank);
      }
      if (QueuesOf(stage) == std::set<std::string>{"small"}) {
        ASSERT_LE(SmallQueueSlots() + static_cast<int>(placed.ranks.size()), kSmallQueueSlots) << "over its quota";
        small_alone_.insert({placement.key, stage.record.generation() + 1});
      }
      Do(placed);
    }
    for (const auto& preemption : decision.preemptions) Do(StopRequested{preemption.key, "room"});
  }

  void Check() {
    std::set<std::string> keys;
    for (const auto& [name, stage] : state_.stages) {
      const auto phase = stage.record.state();
      const bool live = phase == v1::STAGE_STATE_STARTING || phase == v1::STAGE_STATE_RUNNING || phase == v1::STAGE_STATE_STOPPING;
      ASSERT_EQ(live, stage.attempt.has_value()) << name;
      ASSERT_EQ(live, state_.live.count(name) > 0) << name;
      ASSERT_TRUE(!live || keys.insert(stage.record.key()).second) << "key " << stage.record.key() << " runs twice";
      int& newest = generations_[name];
      ASSERT_GE(stage.record.generation(), newest) << name;
      newest = stage.record.generation();
      // Another queue's job has joined, and pays its part from now on.
      if (QueuesOf(stage).count("default") > 0) small_alone_.erase({name, stage.record.generation()});
      for (const auto& id : stage.jobs) ASSERT_FALSE(IsEnded(state_.jobs.at(id).record.state())) << id << " has ended and waits for " << name;
    }
  }

  std::set<std::string> QueuesOf(const Stage& stage) const {
    std::set<std::string> queues;
    for (const auto& id : stage.jobs) {
      if (state_.jobs.at(id).record.state() != v1::JOB_STATE_PAUSED) queues.insert(state_.jobs.at(id).record.spec().queue());
    }
    return queues;
  }

  // Slots of the stages that the small queue alone has paid for since they started.
  int SmallQueueSlots() const {
    int slots = 0;
    for (const auto& name : state_.live) {
      const Stage& stage = state_.stages.at(name);
      if (small_alone_.count({name, stage.record.generation()}) > 0) slots += static_cast<int>(stage.attempt->ranks.size());
    }
    return slots;
  }

  // 32 -> 8 -> {4, 2}, with gates that are reached, or missed, or do not matter: no accuracy is above 100.
  v1::JobSpec Branching() {
    v1::JobSpec spec = testing::OneStageSpec(1 + Pick(2));
    spec.clear_widths();
    spec.clear_pretrain();
    const auto add = [&](int bits, const std::string& parent) {
      v1::StageRecipe* stage = spec.add_stages();
      stage->set_weight_bits(bits);
      stage->set_parent(parent);
      stage->set_epochs(1);
      if (bits < 32) stage->set_require(Pick(3) == 0 ? "top1 >= 101" : "top1 <= 101");
      if (Pick(2) == 0) stage->set_on_gate_failure(v1::GATE_ACTION_GO_ON);
    };
    add(4, "W8A8");
    add(32, "");
    add(8, "W32A32");
    add(2, "W8A8");
    return spec;
  }

  void Submit() {
    v1::JobSpec spec = Pick(4) == 0 ? Branching() : Pick(2) == 0 ? testing::OneStageSpec(1 + Pick(2), 2) : testing::SmallSpec();
    spec.set_seed(1 + Pick(2));
    if (Pick(5) == 0) {
      for (const int seed : {1, 2}) (*spec.mutable_sweep())["seed"].add_values()->set_number_value(seed);
    }
    spec.set_queue(Pick(3) == 0 ? "small" : "default");
    spec.set_priority(static_cast<v1::PriorityClass>(1 + Pick(3)));
    if (Pick(6) == 0) spec.set_share(false);
    const std::string id = absl::StrCat("j", state_.jobs.size());
    Job& job = state_.jobs[id];
    job.record.set_job_id(id);
    *job.record.mutable_spec() = *ResolveJobSpec(std::move(spec));
    job.record.mutable_create_time()->set_seconds(absl::ToUnixSeconds(now_));
    job.record.set_state(v1::JOB_STATE_RESOLVING);
    state_.active_jobs.insert(id);
    late_.push_back(DataResolved{id, testing::kDigestA});
  }

  // Only what is stored is left.
  void Restart() {
    State loaded;
    for (auto& [id, job] : state_.jobs) {
      Job& copy = loaded.jobs[id];
      copy.record = job.record;
      copy.events = job.events;
      copy.next_event = job.next_event;
    }
    for (auto& [name, stage] : state_.stages) {
      Stage& copy = loaded.stages[name];
      copy.record = stage.record;
      copy.epochs = stage.epochs;
    }
    state_ = std::move(loaded);
    small_alone_.clear();  // who paid for what runs is forgotten: its present jobs pay
    reserved_.clear();
    StartScheduler();
    auto outcome = Reload(&state_, now_, absl::Seconds(20));
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    for (const auto& [name, stage] : state_.stages) {
      if (!IsEnded(stage.record.state())) scheduler_->UpdateStage(state_, stage, now_);
    }
    Persist(*outcome);
    for (const auto& [id, worker] : workers_) {
      if (worker.here) Hello(id, true);
    }
    for (const auto& [id, job] : state_.jobs) {
      if (job.record.state() == v1::JOB_STATE_RESOLVING) late_.push_back(DataResolved{id, testing::kDigestA});
    }
  }

  void Hello(const std::string& id, bool same_incarnation) {
    workers_.at(id).here = true;
    std::map<std::string, std::pair<int, std::set<int>>> running;
    for (size_t i = 0; i < trainers_.size();) {
      const auto& attempt = trainers_[i].assign.attempt();
      if (trainers_[i].worker != id) {
        ++i;
        continue;
      }
      const auto found = state_.stages.find(attempt.stage());
      const bool current =
          same_incarnation && found != state_.stages.end() && found->second.attempt.has_value() && found->second.record.generation() == attempt.generation();
      if (!current) {  // fenced, or gone with the old process
        trainers_.erase(trainers_.begin() + static_cast<std::ptrdiff_t>(i));
        continue;
      }
      running[attempt.stage()].first = attempt.generation();
      running[attempt.stage()].second.insert(trainers_[i].rank);
      ++i;
    }
    for (auto it = reserved_.begin(); it != reserved_.end();) it = std::get<0>(it->first) == id ? reserved_.erase(it) : std::next(it);
    ShowWorker(id);
    Do(WorkerBack{id, same_incarnation, running, absl::Seconds(8)});
  }

  void Lose(const std::string& id) {
    workers_.at(id).here = false;
    ShowWorker(id);
    Do(WorkerUnreachable{id});
    if (Pick(2) == 0) return;  // it may come back with its trainers
    for (size_t i = 0; i < trainers_.size();) {
      if (trainers_[i].worker == id) {
        trainers_.erase(trainers_.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
    for (auto it = reserved_.begin(); it != reserved_.end();) it = std::get<0>(it->first) == id ? reserved_.erase(it) : std::next(it);
    ShowWorker(id);
    Do(WorkerLost{id, "gone", false});
  }

  void DeliverLate() {
    if (late_.empty()) return;
    const Event event = late_.front();
    late_.pop_front();
    if (Pick(15) == 0) late_.push_back(event);  // once more, later
    Do(event);
  }

  std::string AnyJob() { return absl::StrCat("j", Pick(static_cast<int>(state_.jobs.size()) + 1)); }

  void Step() {
    now_ += absl::Seconds(Pick(4));
    const std::string worker = absl::StrCat("w", Pick(3));
    switch (Pick(20)) {
      case 0:
      case 1:
        if (state_.jobs.size() < 6) Submit();
        break;
      case 2:
        workers_.at(worker).here ? (Pick(4) == 0 ? Lose(worker) : (void)0) : Hello(worker, Pick(2) == 0);
        break;
      case 3:
        if (!workers_.at(worker).here) Hello(worker, true);
        break;
      case 4:
        if (!trainers_.empty() && Pick(3) == 0) Crash(Pick(static_cast<int>(trainers_.size())));
        break;
      case 5:
        Pick(3) == 0 ? Do(CancelRequested{AnyJob()}) : Do(PriorityChanged{AnyJob(), static_cast<v1::PriorityClass>(1 + Pick(3))});
        break;
      case 6:
        Pick(2) == 0 ? Do(PauseRequested{AnyJob()}) : Do(ResumeRequested{AnyJob()});
        break;
      case 7:
        if (Pick(2) == 0) Do(RetryRequested{AnyJob()});
        break;
      case 8:
        if (Pick(4) == 0) Restart();
        break;
      case 9:
        Do(Ticked{});
        break;
      case 10:
      case 11:
      case 12:
      case 13:
        if (!trainers_.empty()) Train(Pick(static_cast<int>(trainers_.size())));
        break;
      default:
        DeliverLate();
    }
    Schedule();
  }

  // Without faults, everything that is not paused comes to its end.
  void Drain() {
    for (auto& [id, job] : state_.jobs) Do(ResumeRequested{id});
    for (int round = 0; round < 3000; ++round) {
      if (::testing::Test::HasFatalFailure()) return;
      now_ += absl::Seconds(1);
      for (const auto& [id, worker] : workers_) {
        if (!worker.here) Hello(id, true);
      }
      while (!late_.empty()) {
        const Event event = late_.front();
        late_.pop_front();
        Do(event);
      }
      if (state_.active_jobs.empty()) return;
      for (const auto& id : state_.active_jobs) {  // as the coordinator asks again and again
        if (state_.jobs.at(id).record.state() == v1::JOB_STATE_RESOLVING) late_.push_back(DataResolved{id, testing::kDigestA});
      }
      Do(Ticked{});
      Schedule();
      for (size_t i = trainers_.size(); i > 0; --i) Train(i - 1);
    }
    std::string left;
    for (const auto& id : state_.active_jobs) {
      const Job& job = state_.jobs.at(id);
      absl::StrAppend(&left, "\n", id, " ", v1::JobState_Name(job.record.state()));
      for (const auto& link : job.record.job_stages()) {
        const Stage& stage = state_.stages.at(link.stage());
        absl::StrAppend(&left, "\n  ", link.stage(), " ", v1::StageState_Name(stage.record.state()), " ", stage.record.reason(), "; ",
                        scheduler_->Explain(link.stage(), now_));
      }
    }
    FAIL() << "not all jobs came to their end:" << left;
  }

  std::mt19937 random_;
  State state_;
  std::unique_ptr<DurationEstimates> estimates_;
  std::unique_ptr<FleetScheduler> scheduler_;
  std::map<std::string, FakeWorker> workers_;
  std::vector<FakeTrainer> trainers_;
  std::deque<Event> late_;                                                  // messages on their way
  std::map<std::tuple<std::string, std::string, int, int>, int> reserved_;  // (worker, stage, generation, rank) -> slot
  std::set<std::tuple<std::string, int, int>> started_;
  std::map<std::string, int> generations_;
  std::set<std::pair<std::string, int>> small_alone_;  // (stage, generation)
  int checkpoints_ = 0;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
};

TEST(HistoriesTest, NothingGoesWrongInRandomHistories) {
  for (uint32_t seed = 0; seed < kHistories; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History(seed).Run();
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace bitstair::server
