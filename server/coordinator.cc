#include "server/coordinator.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <future>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/files/durable_file.h"
#include "core/random/secure_random.h"
#include "server/job_view.h"
#include "server/resource_names.h"

namespace bitstair::server {
namespace {

constexpr auto kTick = std::chrono::milliseconds(200);
constexpr absl::Duration kSaveUsage = absl::Seconds(30);
// Events of a job beyond this many are dropped, the oldest first, some at a time; watchers that ask for them get OUT_OF_RANGE.
constexpr size_t kMaxEvents = 2000;
constexpr size_t kEventsDroppedAtOnce = 50;
constexpr absl::Duration kGoodbyePatience = absl::Seconds(20);
// A replaced checkpoint stays this long: its bytes may just be on the way to become another stage's.
constexpr absl::Duration kUnusedCheckpointKept = absl::Minutes(1);
constexpr size_t kRendezvousTokenBytes = 16;

std::string JobKey(const std::string& job_id) {
  return absl::StrCat("job/", job_id);
}
std::string StageKeyOf(const std::string& job_id, const std::string& stage) {
  return absl::StrCat("stage/", job_id, "/", stage);
}
std::string EpochKey(const std::string& job_id, const std::string& stage, int epoch) {
  return absl::StrFormat("epoch/%s/%s/%08d", job_id, stage, epoch);
}
std::string EventKey(const std::string& job_id, int64_t number) {
  return absl::StrFormat("event/%s/%08d", job_id, number);
}

template <typename Record>
absl::Status Parse(const StoreEntry& entry, Record* record) {
  if (record->ParseFromString(entry.value)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the job store's record ", entry.key, " cannot be read"));
}

// As many commits as the store's limits ask for, in order.
std::vector<StoreCommit> Split(std::vector<StorePut> puts, std::vector<std::string> deletes, int64_t fence) {
  std::vector<StoreCommit> commits;
  size_t operations = JobStore::kMaxOperations, bytes = 0;
  const auto room = [&](size_t size) -> StoreCommit& {
    if (operations == JobStore::kMaxOperations || bytes + size > JobStore::kMaxCommitBytes) {
      commits.emplace_back().fence = fence;
      operations = bytes = 0;
    }
    ++operations;
    bytes += size;
    return commits.back();
  };
  for (auto& put : puts) room(put.key.size() + put.value.size()).puts.push_back(std::move(put));
  for (auto& key : deletes) room(key.size()).deletes.push_back(std::move(key));
  return commits;
}

}  // namespace

Coordinator::Coordinator(Options options, JobStore* store, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics)
    : options_(std::move(options)),
      store_(store),
      artifacts_(artifacts),
      logs_(logs),
      metrics_(metrics),
      wall_start_(absl::Now()),
      steady_start_(std::chrono::steady_clock::now()),
      scheduler_(options_.scheduler, &estimates_) {}

Coordinator::~Coordinator() {
  Stop();
}

absl::Time Coordinator::Now() const {
  return wall_start_ + absl::FromChrono(std::chrono::steady_clock::now() - steady_start_);
}

void Coordinator::Post(std::function<void()> task) {
  boost::asio::post(io_, std::move(task));
}

absl::Status Coordinator::Start() {
  const auto fence = store_->TakeFence();
  if (!fence.ok()) return fence.status();
  fence_ = *fence;
  if (auto s = Load(); !s.ok()) return s;
  work_.emplace(io_.get_executor());
  strand_ = std::thread([this] { io_.run(); });
  Post([this] { Tick(); });
  return absl::OkStatus();
}

absl::Status Coordinator::Load() {
  absl::Status status;
  // Keys come in order: epochs, events, jobs, stages.
  std::map<std::string, std::vector<records::EpochRecord>> epochs;  // by stage name
  const auto revision = store_->Load([&](StoreEntry entry) {
    const std::vector<std::string> key = absl::StrSplit(entry.key, '/');
    if (!status.ok() || key.size() < 2) return;
    if (key[0] == "worker") {
      records::WorkerRecord record;
      status = Parse(entry, &record);
      if (record.cordoned()) cordoned_.insert(record.worker_id());
      return;
    }
    if (key[0] == "queue") {
      records::QueueRecord record;
      status = Parse(entry, &record);
      if (status.ok()) status = scheduler_.RestoreUsage(record.name(), record.slot_seconds(), FromStamp(record.time()));
      saved_usage_[record.name()] = record.slot_seconds();
      return;
    }
    Job& job = state_.jobs[key[1]];
    if (key[0] == "job") {
      const int64_t newest = job.record.revision();
      status = Parse(entry, &job.record);
      job.record.set_revision(newest);
    } else if (key[0] == "stage" && key.size() == 3) {
      Stage& stage = state_.stages[StageName(key[1], key[2])];
      status = Parse(entry, &stage.record);
      stage.revision = std::max(stage.revision, entry.revision);
    } else if (key[0] == "epoch" && key.size() == 4) {
      status = Parse(entry, &epochs[StageName(key[1], key[2])].emplace_back());
    } else if (key[0] == "event" && key.size() == 3) {
      status = Parse(entry, &job.events.emplace_back());
      job.events.back().set_revision(entry.revision);
      int64_t number = 0;
      if (absl::SimpleAtoi(key[2], &number)) job.next_event = number + 1;
    }
    job.record.set_revision(std::max(job.record.revision(), entry.revision));
  });
  if (!revision.ok()) return revision.status();
  if (!status.ok()) return status;
  revision_ = *revision;
  for (auto& [name, stage] : state_.stages) {
    for (auto& epoch : epochs[name]) {
      // Results of an earlier attempt that the last one has not reached again.
      if (epoch.generation() < stage.record.generation() && epoch.result().epoch() > stage.record.resumed_epoch()) continue;
      stage.epochs.push_back(std::move(*epoch.mutable_result()));
      // The ranks of an elastic stage's earlier attempts are not known any more.
      if (!IsElastic(stage.record.spec()) || epoch.generation() == stage.record.generation()) estimates_.Learn(stage, stage.epochs.back().seconds());
      estimates_.LearnMemory(stage, stage.epochs.back().peak_memory_bytes());
    }
  }
  auto outcome = Reload(&state_, Now(), options_.lease + options_.grace);
  if (!outcome.ok()) return outcome.status();
  for (auto& [id, job] : state_.jobs) {
    JobEntry& entry = jobs_[id];
    entry.job = &job;
    entry.view = MakeJobView(state_, job);
    entry.committed = true;
    index_.Set(id, FromStamp(job.record.create_time()), job.record.spec().name(), job.record.state());
    if (!job.record.request_id().empty()) request_ids_[job.record.request_id()] = id;
  }
  for (const auto& [name, stage] : state_.stages) {
    if (!IsEnded(stage.record.state())) scheduler_.UpdateStage(state_, stage, Now());
  }
  spdlog::info("{} jobs loaded, {} of them not ended; store revision {}", jobs_.size(), state_.active_jobs.size(), revision_);
  Persist(*std::move(outcome));
  return absl::OkStatus();
}

void Coordinator::CloseStreams() {
  Post([this] {
    stopped_ = true;
    const absl::Status bye = absl::UnavailableError("the coordinator is shutting down");
    for (auto& [id, worker] : workers_) {
      if (worker.stream) worker.stream->Close(bye);
    }
    for (auto& [id, entry] : jobs_) {
      for (auto& watcher : entry.watchers) watcher->Close(bye);
    }
  });
}

void Coordinator::Stop() {
  if (!strand_.joinable()) return;
  std::promise<void> flushed;
  Post([this, &flushed] {
    stopped_ = true;
    tick_timer_.cancel();
    SaveUsage();
    // Done after every commit before it, so that their replies go out.
    store_->Commit({}, [this, &flushed](absl::StatusOr<int64_t>) {
      Post([this] { work_.reset(); });
      flushed.set_value();
    });
  });
  flushed.get_future().wait();
  strand_.join();
  log_thread_.join();
}

void Coordinator::SayGoodbye(std::function<void()> done) {
  Post([this, done = std::move(done)]() mutable {
    if (leaving_) return;
    leaving_ = true;
    on_goodbye_done_ = std::move(done);
    goodbye_deadline_ = Now() + kGoodbyePatience;
    v1::CoordinatorMessage message;
    message.mutable_goodbye();
    for (auto& [id, worker] : workers_) {
      if (worker.stream) worker.stream->Send(message);
    }
  });
}

Coordinator::JobEntry* Coordinator::Find(const std::string& job_id) {
  const auto found = jobs_.find(job_id);
  return found == jobs_.end() ? nullptr : &found->second;
}

absl::StatusOr<Coordinator::JobEntry*> Coordinator::FindByName(const std::string& name, const std::string& field) {
  const auto id = ParseJobName(name, field);
  if (!id.ok()) return id.status();
  JobEntry* entry = Find(*id);
  if (entry == nullptr || !entry->committed) return absl::NotFoundError(absl::StrCat("there is no job ", name));
  return entry;
}

void Coordinator::Handle(const Event& event) {
  if (failed_) return;
  Persist(Apply(&state_, event, Now()));
}

void Coordinator::Persist(Outcome outcome) {
  if (!outcome.durable()) {
    for (const auto& action : outcome.actions) Run(action);
    return;
  }
  // Stages before jobs: what is cut off between two commits follows from the stages (Reload).
  std::vector<StorePut> puts;
  std::vector<std::string> deletes;
  std::set<std::string> shown = outcome.jobs_changed;
  for (const auto& name : outcome.stages_changed) {
    const Stage& stage = state_.stages.at(name);
    puts.push_back({StageKeyOf(stage.record.job_id(), stage.record.spec().name()), stage.record.SerializeAsString()});
    ComparePrediction(name, stage);
    ObserveStage(name, stage);
    shown.insert(stage.jobs.begin(), stage.jobs.end());
    shown.insert(stage.leaving.begin(), stage.leaving.end());
  }
  for (const auto& [name, epoch] : outcome.epochs_changed) {
    const Stage& stage = state_.stages.at(name);
    records::EpochRecord record;
    *record.mutable_result() = stage.epochs[epoch - 1];
    record.set_generation(stage.record.generation());
    estimates_.Learn(stage, record.result().seconds());
    estimates_.LearnMemory(stage, record.result().peak_memory_bytes());
    puts.push_back({EpochKey(stage.record.job_id(), stage.record.spec().name(), epoch), record.SerializeAsString()});
  }
  for (const auto& id : outcome.jobs_changed) puts.push_back({JobKey(id), state_.jobs.at(id).record.SerializeAsString()});
  std::map<std::string, std::pair<int64_t, int64_t>> events;  // by job: first and end number
  for (const auto& [id, added] : outcome.events_added) {
    Job& job = state_.jobs.at(id);
    const int64_t end = job.next_event, first = end - added;
    for (int64_t number = first; number < end; ++number) puts.push_back({EventKey(id, number), job.events[number - FirstEvent(job)].SerializeAsString()});
    if (job.events.size() > kMaxEvents) {
      for (size_t i = 0; i < kEventsDroppedAtOnce; ++i) deletes.push_back(EventKey(id, FirstEvent(job) + static_cast<int64_t>(i)));
      job.events.erase(job.events.begin(), job.events.begin() + kEventsDroppedAtOnce);
    }
    events[id] = {first, end};
    shown.insert(id);
  }
  std::vector<Committed> committed;
  for (const auto& id : shown) {
    const auto [first, end] = events.count(id) > 0 ? events[id] : std::make_pair(state_.jobs.at(id).next_event, state_.jobs.at(id).next_event);
    committed.push_back({id, std::make_shared<v1::Job>(MakeJobView(state_, state_.jobs.at(id))), first, end});
  }
  std::set<std::string> touched = outcome.stages_changed;
  for (const auto& id : outcome.jobs_changed) {
    for (const auto& link : state_.jobs.at(id).record.job_stages()) touched.insert(link.stage());
  }
  UpdateStages(touched);
  std::vector<StoreCommit> commits = Split(std::move(puts), std::move(deletes), fence_);
  for (size_t i = 0; i < commits.size(); ++i) {
    const bool last = i + 1 == commits.size();
    store_->Commit(std::move(commits[i]), [this, last, committed = last ? committed : std::vector<Committed>(),
                                           actions = last ? std::move(outcome.actions) : std::vector<Action>()](absl::StatusOr<int64_t> revision) {
      if (!last && revision.ok()) return;
      Post([this, committed, actions, revision] {
        if (!revision.ok()) return Fatal(revision.status());
        for (const auto& job : committed) OnCommitted(job, *revision);
        for (const auto& action : actions) Run(action);
      });
    });
  }
  ScheduleSoon();
}

void Coordinator::AfterCommits(std::function<void()> task) {
  store_->Commit({}, [this, task = std::move(task)](absl::StatusOr<int64_t>) mutable { Post(std::move(task)); });
}

void Coordinator::Fatal(const absl::Status& status) {
  if (failed_) return;
  failed_ = true;
  spdlog::critical("the job store failed: {}", std::string(status.message()));
  if (options_.on_fatal) options_.on_fatal(status);
}

void Coordinator::OnCommitted(const Committed& committed, int64_t revision) {
  revision_ = std::max(revision_, revision);
  JobEntry* entry = Find(committed.job_id);
  if (entry == nullptr) return;
  Job& job = *entry->job;
  entry->view = *committed.view;
  entry->view.set_revision(revision);
  job.record.set_revision(revision);
  entry->committed = true;
  index_.Set(committed.job_id, FromStamp(entry->view.create_time()), entry->view.spec().name(), entry->view.state());
  RefreshView(state_, job, &entry->view);
  for (int64_t number = std::max(committed.first_event, FirstEvent(job)); number < committed.end_event; ++number) {
    auto& event = job.events[number - FirstEvent(job)];
    event.set_revision(revision);
    if (event.type() == "JobStarted") metrics_->ObserveTimeToStart(absl::ToDoubleSeconds(Now() - FromStamp(job.record.create_time())));
    if (event.type() == "GateReached" || event.type() == "GateMissed") metrics_->CountGate(event.type() == "GateReached");
    spdlog::info("{}{}{} {} {}", entry->view.name(), event.stage().empty() ? "" : "/stages/", event.stage(), event.type(), event.message());
    v1::WatchJobResponse change;
    change.set_revision(revision);
    *change.mutable_event() = MakeEventView(job, event);
    for (auto& watcher : entry->watchers) watcher->Send(change);
  }
  Notify(entry);
  if (IsEnded(entry->view.state())) {
    ended_series_.emplace(Now() + options_.metrics_retention, committed.job_id);
    for (auto& watcher : std::exchange(entry->watchers, {})) watcher->Close(absl::OkStatus());
  }
}

void Coordinator::Notify(JobEntry* entry) {
  if (entry->watchers.empty()) return;
  v1::WatchJobResponse change;
  change.set_revision(entry->view.revision());
  *change.mutable_job() = entry->view;
  for (auto& watcher : entry->watchers) watcher->Send(change);
}

void Coordinator::NotifyProgress(const Stage& stage) {
  ForJobsOf(stage, [&](JobEntry* entry, int link) {
    RefreshView(state_, *entry->job, &entry->view);
    if (entry->watchers.empty() || link >= entry->view.stages_size()) return;
    const v1::Stage& shown = entry->view.stages(link);
    v1::WatchJobResponse change;
    change.mutable_progress()->set_name(shown.name());
    change.mutable_progress()->set_state(shown.state());
    *change.mutable_progress()->mutable_progress() = shown.progress();
    for (auto& watcher : entry->watchers) watcher->Send(change);
  });
}

void Coordinator::ForJobsOf(const Stage& stage, const std::function<void(JobEntry*, int)>& visit) {
  const std::string name = StageName(stage);
  for (const auto* ids : {&stage.jobs, &stage.leaving}) {
    for (const auto& id : *ids) {
      JobEntry* entry = Find(id);
      const auto& links = entry->job->record.job_stages();
      for (int i = 0; i < links.size(); ++i) {
        if (links[i].stage() == name) visit(entry, i);
      }
    }
  }
}

void Coordinator::Run(const Action& action) {
  if (const auto* send = std::get_if<SendToWorker>(&action)) {
    const auto found = workers_.find(send->worker_id);
    // Without a stream: the worker is told at its next hello.
    if (found != workers_.end() && found->second.stream) found->second.stream->Send(send->message);
    if (send->message.has_assign()) metrics_->CountAttempt();
  } else if (const auto* drop = std::get_if<DropCheckpoint>(&action)) {
    unused_checkpoints_[drop->sha256] = Now() + kUnusedCheckpointKept;
  } else if (const auto* reserve = std::get_if<ReserveSlot>(&action)) {
    const auto found = workers_.find(reserve->worker_id);
    if (found == workers_.end()) return;
    found->second.reserved[{reserve->attempt.stage(), reserve->attempt.generation(), reserve->rank}] = {reserve->slot, absl::InfiniteFuture()};
    UpdateWorker(found->second);
  } else if (const auto* failure = std::get_if<CountFailure>(&action)) {
    metrics_->CountFailure(failure->cause);
  }
}

void Coordinator::ScheduleSoon() {
  if (scheduling_) return;
  scheduling_ = true;
  Post([this] {
    scheduling_ = false;
    RunScheduler();
  });
}

void Coordinator::UpdateWorker(const WorkerEntry& worker) {
  const bool here = worker.stream != nullptr && worker.state == v1::WORKER_STATE_READY;
  std::set<int> reserved;
  for (const auto& [where, slot] : worker.reserved) reserved.insert(slot.first);
  scheduler_.SetWorker(worker.id, worker.hello,
                       !here                            ? scheduling::WorkerState::kUnavailable
                       : cordoned_.count(worker.id) > 0 ? scheduling::WorkerState::kCordoned
                                                        : scheduling::WorkerState::kAvailable,
                       reserved, worker.offers);
  ScheduleSoon();
}

void Coordinator::UpdateStages(const std::set<std::string>& names) {
  const absl::Time now = Now();
  for (const auto& name : names) scheduler_.UpdateStage(state_, state_.stages.at(name), now);
}

void Coordinator::RunScheduler() {
  if (leaving_ || stopped_ || failed_) return;
  const auto begin = std::chrono::steady_clock::now();
  scheduling::Decision decision = scheduler_.Decide(Now());
  metrics_->ObserveDecision(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  schedule_at_ = decision.wake_at;
  for (const auto& placement : decision.placements) {
    state_.stages.at(placement.key).waits_for.clear();
    Placed placed{placement.key, {}, core::SecureRandomHex(kRendezvousTokenBytes), placement.numeric_profile};
    for (const auto& slot : placement.ranks) {
      records::RankRecord rank;
      rank.set_rank(static_cast<int>(placed.ranks.size()));
      rank.set_worker_id(slot.worker_id);
      rank.set_slot(slot.slot);
      rank.set_worker_name(workers_.at(slot.worker_id).hello.host());
      placed.ranks.push_back(std::move(rank));
    }
    if (const auto seconds = estimates_.SecondsLeft(state_.stages.at(placement.key))) predicted_[placement.key] = {Now(), *seconds};
    Handle(placed);
  }
  for (const auto& preemption : decision.preemptions) {
    Handle(StopRequested{preemption.key, absl::StrCat("makes room for ", preemption.makes_room_for, ", whose priority is higher")});
  }
  for (const auto& resize : decision.resizes) {
    const auto& attempt = state_.stages.at(resize.key).attempt;
    if (!attempt.has_value()) continue;
    const int ranks = static_cast<int>(attempt->ranks.size());
    Handle(StopRequested{resize.key, absl::StrCat(resize.ranks > ranks ? "grows" : "shrinks", " from ", ranks, " to ", resize.ranks, " ranks",
                                                  resize.makes_room_for.empty() ? "" : absl::StrCat(", which makes room for ", resize.makes_room_for))});
  }
  std::set<std::string> watched;
  for (const auto& [watcher, id] : job_of_watcher_) watched.insert(id);
  for (const auto& id : watched) {
    JobEntry* entry = Find(id);
    if (entry == nullptr || !ExplainStages(entry)) continue;
    RefreshView(state_, *entry->job, &entry->view);
    Notify(entry);
  }
}

void Coordinator::ObserveStage(const std::string& name, const Stage& stage) {
  const absl::Time now = Now();
  if (stage.record.state() == v1::STAGE_STATE_PENDING) {
    ready_since_.emplace(name, now);
  } else if (const auto ready = ready_since_.find(name); ready != ready_since_.end()) {
    if (stage.attempt.has_value()) metrics_->ObserveQueueWait(absl::ToDoubleSeconds(now - ready->second));
    ready_since_.erase(ready);
  }
  if (!stage.attempt.has_value()) return;
  ForJobsOf(stage, [&](JobEntry* entry, int link) {
    const std::string& shown = entry->job->record.job_stages(link).name();
    metrics_->SetStage(entry->job->record.job_id(), shown, stage.record.spec());
    if (stage.record.has_checkpoint()) metrics_->SetCheckpoint(entry->job->record.job_id(), shown, stage.record.checkpoint());
  });
}

// How far off the time was that a stage was to take when it started, once it is done in one go.
void Coordinator::ComparePrediction(const std::string& name, const Stage& stage) {
  const auto predicted = predicted_.find(name);
  if (predicted == predicted_.end() || stage.attempt.has_value()) return;
  const auto [start, seconds] = predicted->second;
  predicted_.erase(predicted);
  if (stage.record.state() != v1::STAGE_STATE_SUCCEEDED) return;
  const double taken = absl::ToDoubleSeconds(Now() - start);
  if (taken > 0) metrics_->ObserveEstimateError(std::abs(seconds - taken) / taken);
}

bool Coordinator::ExplainStages(JobEntry* entry) {
  bool changed = false;
  for (const auto& link : entry->job->record.job_stages()) {
    if (link.state() != v1::STAGE_STATE_UNSPECIFIED) continue;
    Stage& stage = state_.stages.at(link.stage());
    if (stage.record.state() != v1::STAGE_STATE_PENDING) continue;
    std::string reason = IsWanted(state_, stage) ? scheduler_.Explain(link.stage(), Now()) : "the job is paused";
    changed = changed || reason != stage.waits_for;
    stage.waits_for = std::move(reason);
  }
  return changed;
}

void Coordinator::Tick() {
  if (stopped_) return;
  const absl::Time now = Now();
  CheckLeases();
  Handle(Ticked{});
  if (now >= next_resolve_) {
    next_resolve_ = now + options_.resolve_interval;
    for (const auto& id : state_.active_jobs) {
      const JobEntry& entry = jobs_.at(id);
      if (!entry.committed || entry.job->record.state() != v1::JOB_STATE_RESOLVING) continue;
      for (auto& [name, worker] : workers_) AskForData(entry, &worker);
    }
  }
  DropUnused();
  CollectSometimes(now);
  if (now >= next_metrics_) {
    next_metrics_ = now + absl::Seconds(1);
    UpdateMetrics();
  }
  if (now >= next_usage_) {
    next_usage_ = now + kSaveUsage;
    SaveUsage();
  }
  if (on_goodbye_done_) {
    const bool gone = std::none_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker.second.stream != nullptr; });
    if (gone || now >= goodbye_deadline_) std::exchange(on_goodbye_done_, nullptr)();
  }
  if (now >= schedule_at_) RunScheduler();  // retries whose wait is over
  tick_timer_.expires_after(kTick);
  tick_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) Tick();
  });
}

void Coordinator::DropUnused() {
  const absl::Time now = Now();
  for (auto it = unused_checkpoints_.begin(); it != unused_checkpoints_.end();) {
    if (it->second > now) {
      ++it;
      continue;
    }
    const std::string sha256 = it->first;
    it = unused_checkpoints_.erase(it);
    const bool used =
        std::any_of(state_.stages.begin(), state_.stages.end(), [&](const auto& stage) { return stage.second.record.checkpoint().sha256() == sha256; });
    if (!used && !artifacts_->Remove(sha256, absl::Now() - kUnusedCheckpointKept)) unused_checkpoints_[sha256] = now + kUnusedCheckpointKept;
  }
  while (!ended_series_.empty() && ended_series_.begin()->first <= now) {
    metrics_->RemoveJob(ended_series_.begin()->second);
    ended_series_.erase(ended_series_.begin());
  }
}

}  // namespace bitstair::server
