// The one owner of all state: jobs, workers, watchers. Every event runs on its strand (one thread of one Asio io_context):
//   event -> pure state machine and scheduler -> commit to the store -> after the commit: what others see changes, actions go out.
// So a reply, a watcher's message or an assignment never shows what a crash could take back.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bitstair/v1/artifacts.pb.h"
#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/jobs.pb.h"
#include "server/artifact_store.h"
#include "server/domain.h"
#include "server/duration_estimates.h"
#include "server/fleet_scheduler.h"
#include "server/job_index.h"
#include "server/job_store.h"
#include "server/log_store.h"
#include "server/metrics.h"
#include "server/state_machine.h"

namespace bitstair::server {

// The coordinator's end of a worker's stream. Neither call blocks; both may come from any thread, also after the stream's end.
class WorkerStream {
 public:
  virtual ~WorkerStream() = default;
  virtual void Send(v1::CoordinatorMessage message) = 0;
  virtual void Close(absl::Status status) = 0;  // after what was sent before
};

// One WatchJob call; the same rules.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;
  virtual void Send(v1::WatchJobResponse change) = 0;
  virtual void Close(absl::Status status) = 0;
};

template <typename T>
using Reply = std::function<void(absl::StatusOr<T>)>;

// All public functions may be called from any thread and do not block (but Start and Stop). Replies run on the strand.
class Coordinator {
 public:
  static constexpr int kProtocolVersion = 1;
  static constexpr int kOldestProtocolVersion = 1;

  struct Options {
    absl::Duration lease = absl::Seconds(8);
    absl::Duration grace = absl::Seconds(30);
    absl::Duration resolve_interval = absl::Seconds(10);  // how often workers are asked again for data that nobody offers
    absl::Duration metrics_retention = absl::Minutes(5);
    absl::Duration retention = absl::InfiniteDuration();  // checkpoints of jobs that ended longer ago are collected, unless pinned
    scheduling::Scheduler scheduler;                      // with its settings and queues, and nothing else
    // The store failed: nothing can be made durable any more. Called once, on the strand.
    std::function<void(absl::Status)> on_fatal;
  };

  // Borrows the stores and metrics; they outlive it.
  Coordinator(Options options, JobStore* store, ArtifactStore* artifacts, LogStore* logs, Metrics* metrics);
  ~Coordinator();

  // Loads every job and starts the strand. DATA_LOSS names a record that cannot be read.
  absl::Status Start();
  // Ends streams and watches with UNAVAILABLE; calls are still answered until Stop.
  void CloseStreams();
  // Waits for the commits under way and joins the strand. Call after the gRPC server is down.
  void Stop();

  // Embedded mode: asks all workers to checkpoint and leave, starts nothing more; `done` when their streams have ended, or after 20 s.
  void SayGoodbye(std::function<void()> done);

  // Jobs (coordinator_jobs.cc).
  void CreateJob(v1::CreateJobRequest request, Reply<v1::Job> reply);
  void GetJob(std::string name, Reply<v1::Job> reply);
  void ListJobs(v1::ListJobsRequest request, Reply<v1::ListJobsResponse> reply);
  void CancelJob(std::string name, Reply<v1::Job> reply);
  void PauseJob(std::string name, Reply<v1::Job> reply);
  void ResumeJob(std::string name, Reply<v1::Job> reply);
  void RetryJob(std::string name, Reply<v1::Job> reply);
  void PrioritizeJob(v1::PrioritizeJobRequest request, Reply<v1::Job> reply);
  void PinJob(std::string name, bool pinned, Reply<v1::Job> reply);
  void ListStages(v1::ListStagesRequest request, Reply<v1::ListStagesResponse> reply);
  void ListEvents(v1::ListEventsRequest request, Reply<v1::ListEventsResponse> reply);
  void ListMetrics(v1::ListMetricsRequest request, Reply<v1::ListMetricsResponse> reply);
  void Watch(v1::WatchJobRequest request, std::shared_ptr<JobWatcher> watcher);
  void Unwatch(std::shared_ptr<JobWatcher> watcher);
  struct LogPosition {
    LogFile file;
    bool ended = false;  // the stage
  };
  // Which file a StreamLogs request means now. generation 0: the last attempt's.
  void LocateLog(v1::StreamLogsRequest request, Reply<LogPosition> reply);

  // Blobs (coordinator_garbage.cc).
  void CollectGarbage(v1::CollectGarbageRequest request, Reply<v1::CollectGarbageResponse> reply);

  // Workers (coordinator_workers.cc).
  void OnWorkerMessage(std::shared_ptr<WorkerStream> stream, v1::WorkerMessage message);
  void OnWorkerStreamEnded(std::shared_ptr<WorkerStream> stream);
  void ListWorkers(v1::ListWorkersRequest request, Reply<v1::ListWorkersResponse> reply);
  void ListDatasets(v1::ListDatasetsRequest request, Reply<v1::ListDatasetsResponse> reply);
  // name: workers/ID, or workers/NAME as people know it. stop_stages: what runs there stops at a checkpoint, too.
  void CordonWorker(std::string name, bool cordoned, bool stop_stages, Reply<v1::Worker> reply);

 private:
  struct JobEntry {
    Job* job = nullptr;  // of state_
    // As of the last commit, with newest progress; what everyone but the strand's own decisions sees.
    v1::Job view;
    bool committed = false;
    std::vector<std::shared_ptr<JobWatcher>> watchers;
  };
  struct WorkerEntry {
    std::string id;
    v1::WorkerHello hello;
    v1::WorkerState state = v1::WORKER_STATE_READY;
    std::shared_ptr<WorkerStream> stream;  // null: not connected
    absl::Time last_heard;
    absl::Time connect_time;
    std::set<std::string> superseded;            // older incarnations
    std::map<std::string, std::string> digests;  // by data set name
    std::set<std::string> offers;                // data keys (server/fleet_scheduler.h) that it answered for
    // Slots of attempts that were given up here, by (stage, generation, rank): until its end is reported, or the time is over.
    std::map<std::tuple<std::string, int, int>, std::pair<int, absl::Time>> reserved;
  };

  void Post(std::function<void()> task);
  absl::Time Now() const;  // wall clock at the start plus monotonic time since: never jumps

  // coordinator.cc: the pipeline.
  absl::Status Load();
  void Handle(const Event& event);
  void Persist(Outcome outcome);
  // Runs `task` on the strand once everything persisted so far is committed and visible.
  void AfterCommits(std::function<void()> task);
  struct Committed {
    std::string job_id;
    std::shared_ptr<v1::Job> view;
    int64_t first_event = 0, end_event = 0;
  };
  void OnCommitted(const Committed& committed, int64_t revision);
  void Run(const Action& action);
  void Notify(JobEntry* entry);  // watchers: the job as it is seen
  void NotifyProgress(const Stage& stage);
  // Each job that shows `stage` and has not ended.
  void ForJobsOf(const Stage& stage, const std::function<void(JobEntry*, int link)>& visit);
  void ScheduleSoon();
  void RunScheduler();
  // Tells the scheduler.
  void UpdateWorker(const WorkerEntry& worker);
  void UpdateStages(const std::set<std::string>& names);
  void ComparePrediction(const std::string& name, const Stage& stage);
  // Of a stage that changed: how long it waited, and what its series show.
  void ObserveStage(const std::string& name, const Stage& stage);
  // What the waiting stages of a job wait for; true if that is news.
  bool ExplainStages(JobEntry* entry);
  void Tick();
  void DropUnused();
  void UpdateMetrics();
  // Fair shares outlive a restart.
  void SaveUsage();
  void Fatal(const absl::Status& status);
  JobEntry* Find(const std::string& job_id);
  absl::StatusOr<JobEntry*> FindByName(const std::string& name, const std::string& field);
  int64_t FirstEvent(const Job& job) const { return job.next_event - static_cast<int64_t>(job.events.size()); }

  // coordinator_jobs.cc
  void DoCreateJob(v1::CreateJobRequest request, Reply<v1::Job> reply);
  // Applies what `check` lets pass (else its error is the reply), and answers after the commit.
  void ChangeJob(std::string name, std::function<absl::Status(const Job&)> check, std::function<Event(const std::string& job_id)> event, Reply<v1::Job> reply);
  void DoWatch(const v1::WatchJobRequest& request, std::shared_ptr<JobWatcher> watcher);
  std::string NewJobId(const std::string& name);
  template <typename T>
  void PostReply(Reply<T> reply, std::function<absl::StatusOr<T>()> make) {
    Post([reply = std::move(reply), make = std::move(make)] { reply(make()); });
  }

  // coordinator_preview.cc
  v1::Job Preview(const v1::JobSpec& resolved);
  // Digests of the data set and of the initial weights, where a job or a worker has told them; else empty.
  std::pair<std::string, std::string> KnownDigests(const v1::JobSpec& spec) const;
  std::optional<double> SecondsLeft(const Stage& stage) const;
  // Slots of the fleet that such stages may have, held or not; cordoned and lost workers' are not counted.
  int SlotsFor(const google::protobuf::Map<std::string, std::string>& labels, const v1::StageSpec& spec) const;
  void Forecast(const Job& job, v1::Job* view) const;

  // coordinator_garbage.cc
  v1::CollectGarbageResponse DropGarbage(const std::vector<StoredBlob>& blobs, absl::Duration older_than, bool dry_run);
  void CollectSometimes(absl::Time now);

  // coordinator_workers.cc
  void OnHello(const std::shared_ptr<WorkerStream>& stream, const v1::WorkerHello& hello);
  void OnAttemptMessage(WorkerEntry* worker, v1::WorkerMessage message);
  void OnDatasetResolved(WorkerEntry* worker, const v1::DatasetResolved& resolved);
  void AskForData(const JobEntry& entry, WorkerEntry* worker);
  void SettleResolving(JobEntry* entry);
  void CheckLeases();
  void LoseWorker(WorkerEntry* worker, const std::string& message, bool left);
  std::set<int> BusySlots(const WorkerEntry& worker) const;
  v1::Worker MakeWorkerView(const WorkerEntry& worker) const;
  // The stage that an attempt's name means; null if there is none.
  Stage* FindStage(const std::string& name);

  const Options options_;
  JobStore* const store_;
  ArtifactStore* const artifacts_;
  LogStore* const logs_;
  Metrics* const metrics_;
  const absl::Time wall_start_;
  const std::chrono::steady_clock::time_point steady_start_;

  boost::asio::io_context io_{1};
  std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> work_;
  boost::asio::steady_timer tick_timer_{io_};
  boost::asio::thread_pool log_thread_{1};  // one: chunks of a file stay in order
  std::thread strand_;

  // Below: touched on the strand only.
  State state_;
  DurationEstimates estimates_;
  FleetScheduler scheduler_;
  std::map<std::string, JobEntry> jobs_;            // by id, as state_.jobs
  JobIndex index_;                                  // of what is committed
  std::map<std::string, std::string> request_ids_;  // -> job id
  std::map<std::string, WorkerEntry> workers_;
  std::set<std::string> cordoned_;  // worker ids
  std::map<const WorkerStream*, std::string> worker_of_stream_;
  std::map<const JobWatcher*, std::string> job_of_watcher_;
  std::map<std::string, absl::Time> unused_checkpoints_;  // sha256 -> when to look again
  std::multimap<absl::Time, std::string> ended_series_;   // when to drop a job's metrics
  int64_t fence_ = 0;
  int64_t revision_ = 0;  // newest commit seen
  bool scheduling_ = false;
  absl::Time schedule_at_ = absl::InfinitePast();  // look again then, whatever happens before
  bool leaving_ = false;
  bool stopped_ = false;
  bool failed_ = false;
  std::function<void()> on_goodbye_done_;
  absl::Time goodbye_deadline_ = absl::InfiniteFuture();
  absl::Time next_metrics_ = absl::InfinitePast();
  absl::Time next_usage_ = absl::InfinitePast();
  std::map<std::string, double> saved_usage_;  // slot-seconds by queue, as they are in the store
  absl::Time next_resolve_ = absl::InfinitePast();
  absl::Time next_collection_ = absl::InfinitePast();
  std::map<std::string, absl::Time> ready_since_;                   // stages that wait for slots
  std::map<std::string, std::pair<absl::Time, double>> predicted_;  // running stages -> when they started, and the seconds that they were to take
};

}  // namespace bitstair::server
