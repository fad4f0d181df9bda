#include "server/coordinator.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <condition_variable>
#include <future>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/job_view.h"
#include "server/resource_names.h"
#include "server/scheduler.h"

namespace bitstair::server {
namespace {

constexpr auto kTick = std::chrono::milliseconds(200);
// Events of a job beyond this many are dropped, the oldest first, some at a time; watchers that ask for them get OUT_OF_RANGE.
constexpr size_t kMaxEvents = 2000;
constexpr size_t kEventsDroppedAtOnce = 50;
constexpr absl::Duration kGoodbyePatience = absl::Seconds(20);
// A replaced checkpoint stays this long: its bytes may just be on the way to become another stage's.
constexpr absl::Duration kUnusedCheckpointKept = absl::Minutes(1);

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

absl::Time FromStamp(const google::protobuf::Timestamp& stamp) {
  return absl::FromUnixNanos(stamp.seconds() * 1'000'000'000 + stamp.nanos());
}

}  // namespace

Coordinator::Coordinator(Options options, JobStore* store, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics)
    : options_(std::move(options)),
      store_(store),
      artifacts_(artifacts),
      logs_(logs),
      metrics_(metrics),
      wall_start_(absl::Now()),
      steady_start_(std::chrono::steady_clock::now()) {}

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
  std::map<std::string, std::map<std::string, Stage>> stages;  // job id -> name
  // Keys come in order: epochs, events, jobs, stages.
  std::map<std::string, std::map<std::string, std::vector<records::EpochRecord>>> epochs;
  std::map<std::string, Job> jobs;
  const auto revision = store_->Load([&](StoreEntry entry) {
    const std::vector<std::string> key = absl::StrSplit(entry.key, '/');
    if (!status.ok() || key.size() < 2) return;
    Job& job = jobs[key[1]];
    if (key[0] == "job") {
      const int64_t newest = job.record.revision();
      status = Parse(entry, &job.record);
      job.record.set_revision(newest);
    } else if (key[0] == "stage" && key.size() == 3) {
      status = Parse(entry, &stages[key[1]][key[2]].record);
    } else if (key[0] == "epoch" && key.size() == 4) {
      status = Parse(entry, &epochs[key[1]][key[2]].emplace_back());
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
  int unfinished = 0;
  for (auto& [id, job] : jobs) {
    if (job.record.job_id() != id) return absl::DataLossError(absl::StrCat("the job store has records of job ", id, ", but not the job"));
    for (const auto& name : job.record.stages()) {
      const auto found = stages[id].find(name);
      if (found == stages[id].end()) return absl::DataLossError(absl::StrCat("the job store lacks stage ", name, " of job ", id));
      Stage& stage = found->second;
      for (auto& epoch : epochs[id][name]) {
        // Results of an earlier attempt that the last one has not reached again.
        if (epoch.generation() < stage.record.generation() && epoch.result().epoch() > stage.record.resumed_epoch()) continue;
        stage.epochs.push_back(std::move(*epoch.mutable_result()));
      }
      job.stages.push_back(std::move(stage));
    }
    Reload(&job, Now(), options_.lease + options_.grace);
    JobEntry& entry = jobs_[id];
    entry.job = std::move(job);
    entry.view = MakeJobView(entry.job);
    entry.committed = true;
    by_creation_.emplace(FromStamp(entry.job.record.create_time()), id);
    if (!entry.job.record.request_id().empty()) request_ids_[entry.job.record.request_id()] = id;
    if (!IsEnded(entry.job.record.state())) {
      active_.insert(id);
      ++unfinished;
    }
  }
  spdlog::info("{} jobs loaded, {} of them not ended; store revision {}", jobs_.size(), unfinished, revision_);
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

void Coordinator::Handle(JobEntry* entry, const JobEvent& event) {
  if (failed_) return;
  Persist(entry, Apply(&entry->job, event, Now()));
}

void Coordinator::HandleAll(const JobEvent& event) {
  const std::set<std::string> ids = active_;
  for (const auto& id : ids) {
    if (JobEntry* entry = Find(id)) Handle(entry, event);
  }
}

void Coordinator::Persist(JobEntry* entry, Outcome outcome) {
  Job& job = entry->job;
  const std::string& id = job.record.job_id();
  if (!outcome.durable()) {
    for (const auto& action : outcome.actions) Run(action);
    return;
  }
  StoreCommit commit;
  commit.fence = fence_;
  if (outcome.job_changed) commit.puts.push_back({JobKey(id), job.record.SerializeAsString()});
  for (const int i : outcome.stages_changed) {
    const auto& record = job.stages[i].record;
    commit.puts.push_back({StageKeyOf(id, record.spec().name()), record.SerializeAsString()});
  }
  for (const auto& [i, epoch] : outcome.epochs_changed) {
    records::EpochRecord record;
    *record.mutable_result() = job.stages[i].epochs[epoch - 1];
    record.set_generation(job.stages[i].record.generation());
    commit.puts.push_back({EpochKey(id, job.stages[i].record.spec().name(), epoch), record.SerializeAsString()});
  }
  const int64_t end_event = job.next_event, first_event = end_event - outcome.events_added;
  for (int64_t number = first_event; number < end_event; ++number) {
    commit.puts.push_back({EventKey(id, number), job.events[number - FirstEvent(job)].SerializeAsString()});
  }
  if (job.events.size() > kMaxEvents) {
    for (size_t i = 0; i < kEventsDroppedAtOnce; ++i) commit.deletes.push_back(EventKey(id, FirstEvent(job) + static_cast<int64_t>(i)));
    job.events.erase(job.events.begin(), job.events.begin() + kEventsDroppedAtOnce);
  }
  auto view = std::make_shared<v1::Job>(MakeJobView(job));
  store_->Commit(std::move(commit), [this, id, view, first_event, end_event, actions = std::move(outcome.actions)](absl::StatusOr<int64_t> revision) {
    Post([this, id, view, first_event, end_event, actions, revision] {
      if (!revision.ok()) return Fatal(revision.status());
      OnCommitted(id, *view, first_event, end_event, *revision);
      for (const auto& action : actions) Run(action);
    });
  });
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

void Coordinator::OnCommitted(const std::string& job_id, const v1::Job& view, int64_t first_event, int64_t end_event, int64_t revision) {
  revision_ = std::max(revision_, revision);
  JobEntry* entry = Find(job_id);
  if (entry == nullptr) return;
  entry->view = view;
  entry->view.set_revision(revision);
  entry->job.record.set_revision(revision);
  entry->committed = true;
  RefreshView(entry->job, &entry->view);
  for (int64_t number = std::max(first_event, FirstEvent(entry->job)); number < end_event; ++number) {
    auto& event = entry->job.events[number - FirstEvent(entry->job)];
    event.set_revision(revision);
    spdlog::info("{}{}{} {} {}", view.name(), event.stage().empty() ? "" : "/stages/", event.stage(), event.type(), event.message());
    v1::WatchJobResponse change;
    change.set_revision(revision);
    *change.mutable_event() = MakeEventView(entry->job, event);
    for (auto& watcher : entry->watchers) watcher->Send(change);
  }
  Notify(entry);
  if (IsEnded(entry->view.state())) {
    if (active_.erase(job_id) > 0) ended_series_.emplace(Now() + options_.metrics_retention, job_id);
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

void Coordinator::NotifyProgress(JobEntry* entry, int stage) {
  if (entry->watchers.empty() || stage >= entry->view.stages_size()) return;
  const v1::Stage& shown = entry->view.stages(stage);
  v1::WatchJobResponse change;
  change.mutable_progress()->set_name(shown.name());
  change.mutable_progress()->set_state(shown.state());
  *change.mutable_progress()->mutable_progress() = shown.progress();
  for (auto& watcher : entry->watchers) watcher->Send(change);
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

void Coordinator::RunScheduler() {
  if (leaving_ || stopped_ || failed_) return;
  std::vector<PendingStage> pending;
  for (const auto& [time, id] : by_creation_) {
    if (active_.count(id) == 0) continue;
    const Job& job = jobs_.at(id).job;
    if (job.record.state() != v1::JOB_STATE_PENDING && job.record.state() != v1::JOB_STATE_RUNNING) continue;
    for (int i = 0; i < static_cast<int>(job.stages.size()); ++i) {
      const Stage& stage = job.stages[i];
      if (stage.record.state() != v1::STAGE_STATE_PENDING || stage.retry_after > Now()) continue;
      PendingStage wanted;
      wanted.job_id = id;
      wanted.stage = i;
      wanted.name = StageName(job, stage);
      wanted.ranks = stage.record.spec().ranks();
      wanted.data = job.record.spec().data().name().empty() ? job.record.spec().data().path() : job.record.spec().data().name();
      for (const auto& [worker, answer] : job.data) {
        const bool same = answer.digest == job.record.data_digest() && answer.weights_digest == job.record.initial_weights_digest();
        if (same) wanted.eligible.insert(worker);
      }
      if (stage.record.has_checkpoint()) wanted.preferred_profile = stage.record.numeric_profile();
      pending.push_back(std::move(wanted));
    }
  }
  if (pending.empty()) return;
  std::vector<SchedulerWorker> workers;
  for (const auto& [id, worker] : workers_) {
    SchedulerWorker view{id, worker.hello.numeric_profile(), {worker.hello.slots().begin(), worker.hello.slots().end()}, BusySlots(worker), false};
    view.available = worker.stream != nullptr && worker.state == v1::WORKER_STATE_READY;
    workers.push_back(std::move(view));
  }
  Schedule schedule = PlaceStages(pending, std::move(workers));
  for (auto& placement : schedule.placements) {
    JobEntry* entry = Find(placement.job_id);
    entry->job.stages[placement.stage].waits_for.clear();
    for (auto& rank : placement.ranks) rank.set_worker_name(workers_.at(rank.worker_id()).hello.host());
    Handle(entry, Placed{placement.stage, std::move(placement.ranks), absl::StrFormat("%016x%016x", random_(), random_()), placement.numeric_profile});
  }
  std::set<std::string> changed;
  for (auto& [where, reason] : schedule.reasons) {
    std::string& waits_for = jobs_.at(where.first).job.stages[where.second].waits_for;
    if (waits_for == reason) continue;
    waits_for = std::move(reason);
    changed.insert(where.first);
  }
  for (const auto& id : changed) {
    JobEntry* entry = Find(id);
    RefreshView(entry->job, &entry->view);
    Notify(entry);
  }
}

void Coordinator::Tick() {
  if (stopped_) return;
  const absl::Time now = Now();
  CheckLeases();
  HandleAll(Ticked{});
  if (now >= next_resolve_) {
    next_resolve_ = now + options_.resolve_interval;
    for (const auto& id : active_) {
      const JobEntry& entry = jobs_.at(id);
      if (!entry.committed || entry.job.record.state() != v1::JOB_STATE_RESOLVING) continue;
      for (auto& [name, worker] : workers_) AskForData(entry, &worker);
    }
  }
  DropUnused();
  if (now >= next_metrics_) {
    next_metrics_ = now + absl::Seconds(1);
    UpdateMetrics();
  }
  if (on_goodbye_done_) {
    const bool gone = std::none_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker.second.stream != nullptr; });
    if (gone || now >= goodbye_deadline_) std::exchange(on_goodbye_done_, nullptr)();
  }
  RunScheduler();  // retries whose wait is over
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
    const bool used = std::any_of(jobs_.begin(), jobs_.end(), [&](const auto& entry) {
      return std::any_of(entry.second.job.stages.begin(), entry.second.job.stages.end(),
                         [&](const Stage& stage) { return stage.record.checkpoint().sha256() == sha256; });
    });
    if (!used && !artifacts_->Remove(sha256, absl::Now() - kUnusedCheckpointKept)) unused_checkpoints_[sha256] = now + kUnusedCheckpointKept;
  }
  while (!ended_series_.empty() && ended_series_.begin()->first <= now) {
    metrics_->RemoveJob(ended_series_.begin()->second);
    ended_series_.erase(ended_series_.begin());
  }
}

void Coordinator::UpdateMetrics() {
  Metrics::Counts counts;
  for (const auto& [id, entry] : jobs_) {
    ++counts.jobs[entry.view.state()];
    for (const auto& stage : entry.view.stages()) ++counts.stages[stage.state()];
  }
  for (const auto& [id, worker] : workers_) {
    ++counts.workers[worker.state];
    if (worker.stream == nullptr) continue;
    const int busy = static_cast<int>(BusySlots(worker).size());
    counts.busy_slots += busy;
    counts.free_slots += worker.hello.slots_size() - busy;
  }
  metrics_->SetCounts(counts);
}

}  // namespace bitstair::server
