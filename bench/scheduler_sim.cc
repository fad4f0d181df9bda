// The real scheduler through a simulated day: how long a decision takes, how full the fleet is, how long stages wait, and what sharing saves.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <exception>
#include <functional>
#include <iostream>
#include <numeric>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "bench/scheduler_workload.h"
#include "server/scheduling/scheduler.h"

namespace bitstair::bench {
namespace {

namespace scheduling = server::scheduling;

constexpr double kDay = 24 * 3600;
// From being asked to having ended with a checkpoint.
constexpr double kCheckpointSeconds = 60;
constexpr int kManyQueued = 10000;

absl::Time At(double seconds) {
  return absl::FromUnixSeconds(1772409600) + absl::Seconds(seconds);
}

void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

void Report(const std::string& name, double value, const std::string& unit) {
  std::cout << nlohmann::json{{"name", absl::StrCat("scheduler_sim/", name)}, {"value", value}, {"unit", unit}} << std::endl;
}

// Of this thread.
double CpuMilliseconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  const auto at = std::min(values.size() - 1, static_cast<size_t>(static_cast<double>(values.size()) * percent / 100));
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(at), values.end());
  return values[at];
}

double Mean(const std::vector<double>& values) {
  return values.empty() ? 0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

struct Results {
  std::vector<double> decision_ms, decision_ms_many_queued, decision_cpu_ms_many_queued;
  std::vector<double> waits;        // of each stage of each job: from ready to the start of the run that serves it, seconds
  std::vector<double> turnarounds;  // of jobs, from submission to the end of the last stage, seconds
  double slot_seconds = 0, slot_seconds_on_the_day = 0;
  double last_end = 0;
  int most_queued = 0, preemptions = 0, resizes = 0, runs = 0;
};

class Simulation {
 public:
  Simulation(const Workload& load, const scheduling::SchedulerConfig& config, bool sharing)
      : load_(load), sharing_(sharing), scheduler_(*scheduling::Scheduler::Create(config)) {
    for (const auto& worker : load.workers) Check(scheduler_.UpsertWorker(worker));
    jobs_.resize(load.jobs.size());
    for (size_t job = 0; job < load.jobs.size(); ++job) {
      jobs_[job].missing = static_cast<int>(load.jobs[job].stages.size());
      jobs_[job].done.resize(load.jobs[job].stages.size());
      events_.push({load.jobs[job].arrival_seconds, next_event_++, Event::kArrival, static_cast<int>(job), 0});
    }
  }

  Results Run() {
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.seconds;
      const double cpu_begin = CpuMilliseconds();
      const auto begin = std::chrono::steady_clock::now();
      if (!Happen(event)) continue;
      const auto decision = scheduler_.Decide(At(now_));
      for (const auto& placement : decision.placements) Start(placement);
      const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
      results_.decision_ms.push_back(ms);
      if (scheduler_.pending() >= kManyQueued) {
        results_.decision_ms_many_queued.push_back(ms);
        results_.decision_cpu_ms_many_queued.push_back(CpuMilliseconds() - cpu_begin);
      }
      results_.most_queued = std::max(results_.most_queued, scheduler_.pending());
      for (const auto& preemption : decision.preemptions) StopSoon(preemption.key);
      for (const auto& resize : decision.resizes) StopSoon(resize.key);
      results_.preemptions += static_cast<int>(decision.preemptions.size());
      results_.resizes += static_cast<int>(decision.resizes.size());
      if (decision.wake_at < absl::InfiniteFuture()) Wake(absl::ToDoubleSeconds(decision.wake_at - At(0)));
    }
    if (scheduler_.pending() > 0) throw std::runtime_error(absl::StrCat(scheduler_.pending(), " stages never ran"));
    return std::move(results_);
  }

 private:
  struct Event {
    enum Kind { kArrival, kEnd, kStop, kWake };
    double seconds = 0;
    int64_t number = 0;
    Kind kind = kArrival;
    int what = 0;   // job, or run
    int start = 0;  // which start of the run
    bool operator>(const Event& other) const { return seconds != other.seconds ? seconds > other.seconds : number > other.number; }
  };
  struct WaitingJob {
    int job = 0, stage = 0;
    double ready = 0;
    bool counted = false;
  };
  // All that happens under one key.
  struct KeyRun {
    scheduling::StageRequest request;
    std::vector<WaitingJob> waiting;
    double seconds = 0;   // still to do, with min_ranks
    double estimate = 1;  // estimated / true
    double started = 0;
    int ranks = 0, starts = 0;
    bool running = false, done = false;
  };
  struct JobState {
    int missing = 0;
    std::vector<char> done;
  };

  // False: nothing that the scheduler has to know.
  bool Happen(const Event& event) {
    switch (event.kind) {
      case Event::kArrival:
        for (size_t stage = 0; stage < load_.jobs[event.what].stages.size(); ++stage) {
          if (load_.jobs[event.what].stages[stage].parents.empty()) Ready(event.what, static_cast<int>(stage));
        }
        return true;
      case Event::kEnd: {
        KeyRun& run = runs_[event.what];
        if (!run.running || run.starts != event.start) return false;
        End(run);
        run.done = true;
        const auto waiting = std::move(run.waiting);
        for (const WaitingJob& served : waiting) Done(served.job, served.stage);
        return true;
      }
      case Event::kStop: {
        KeyRun& run = runs_[event.what];
        if (!run.running || run.starts != event.start) return false;
        End(run);
        if (run.request.expected_duration) run.request.expected_duration = absl::Seconds(run.seconds * run.estimate);
        Check(scheduler_.UpsertStage(run.request));
        return true;
      }
      case Event::kWake:
        return true;
    }
    return false;
  }

  void Ready(int job, int stage) {
    const SimJob& submitted = load_.jobs[job];
    const SimStage& what = submitted.stages[stage];
    const std::string key = sharing_ ? what.request.key : absl::StrCat(what.request.key, submitted.id);
    const auto [found, added] = index_.emplace(key, static_cast<int>(runs_.size()));
    if (added) {
      KeyRun& run = runs_.emplace_back();
      run.request = what.request;
      run.request.key = key;
      run.request.name = absl::StrCat("jobs/", submitted.id, "/stages/", what.request.name);
      run.seconds = what.seconds;
      if (what.request.expected_duration) run.estimate = absl::ToDoubleSeconds(*what.request.expected_duration) / what.seconds;
    }
    KeyRun& run = runs_[found->second];
    if (run.done) {
      results_.waits.push_back(0);
      Done(job, stage);
      return;
    }
    run.waiting.push_back({job, stage, now_, run.running});
    if (run.running) results_.waits.push_back(0);
    run.request.waiters.push_back({submitted.id, submitted.queue, submitted.priority, At(submitted.arrival_seconds)});
    Check(scheduler_.UpsertStage(run.request));
  }

  void Done(int job, int stage) {
    JobState& state = jobs_[job];
    state.done[stage] = 1;
    if (--state.missing == 0) results_.turnarounds.push_back(now_ - load_.jobs[job].arrival_seconds);
    const auto& stages = load_.jobs[job].stages;
    for (size_t child = 0; child < stages.size(); ++child) {
      const auto& parents = stages[child].parents;
      if (std::find(parents.begin(), parents.end(), stage) == parents.end()) continue;
      if (std::all_of(parents.begin(), parents.end(), [&](int parent) { return state.done[parent] != 0; })) Ready(job, static_cast<int>(child));
    }
  }

  void Start(const scheduling::Placement& placement) {
    const int number = index_.at(placement.key);
    KeyRun& run = runs_[number];
    run.running = true;
    run.started = now_;
    run.ranks = static_cast<int>(placement.ranks.size());
    ++run.starts;
    ++results_.runs;
    // Twice the ranks take half the time.
    const double seconds = run.seconds * run.request.min_ranks / run.ranks;
    Check(
        scheduler_.MarkRunning(placement.key, placement, At(now_), run.request.expected_duration ? At(now_ + seconds * run.estimate) : absl::InfiniteFuture()));
    events_.push({now_ + seconds, next_event_++, Event::kEnd, number, run.starts});
    for (WaitingJob& waiting : run.waiting) {
      if (!waiting.counted) results_.waits.push_back(now_ - waiting.ready);
      waiting.counted = true;
    }
  }

  void End(KeyRun& run) {
    Check(scheduler_.MarkEnded(run.request.key, At(now_)));
    run.running = false;
    run.seconds -= (now_ - run.started) * run.ranks / run.request.min_ranks;
    results_.slot_seconds += (now_ - run.started) * run.ranks;
    results_.slot_seconds_on_the_day += std::max(0.0, std::min(now_, kDay) - run.started) * run.ranks;
    results_.last_end = now_;
  }

  void StopSoon(const std::string& key) {
    const int number = index_.at(key);
    events_.push({now_ + kCheckpointSeconds, next_event_++, Event::kStop, number, runs_[number].starts});
  }

  void Wake(double seconds) {
    if (seconds <= now_ || (next_wake_ > now_ && next_wake_ <= seconds)) return;
    next_wake_ = seconds;
    events_.push({seconds, next_event_++, Event::kWake, 0, 0});
  }

  const Workload& load_;
  const bool sharing_;
  scheduling::Scheduler scheduler_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<KeyRun> runs_;
  std::unordered_map<std::string, int> index_;
  std::vector<JobState> jobs_;
  Results results_;
  int64_t next_event_ = 0;
  double now_ = 0, next_wake_ = -1;
};

void ReportDay(const std::string& name, const Results& results, const Workload& day) {
  const double slots = 8.0 * static_cast<double>(day.workers.size());
  Report(absl::StrCat("utilisation_", name), results.slot_seconds_on_the_day / (slots * kDay), "share");
  Report(absl::StrCat("wait_mean_s_", name), Mean(results.waits), "s");
  Report(absl::StrCat("wait_p95_s_", name), Percentile(results.waits, 95), "s");
  Report(absl::StrCat("job_turnaround_mean_s_", name), Mean(results.turnarounds), "s");
  Report(absl::StrCat("slot_hours_", name), results.slot_seconds / 3600, "h");
  Report(absl::StrCat("last_end_h_", name), results.last_end / 3600, "h");
  Report(absl::StrCat("most_queued_", name), results.most_queued, "stages");
  Report(absl::StrCat("decision_p99_ms_", name), Percentile(results.decision_ms, 99), "ms");
  std::cerr << name << ": " << results.decision_ms.size() << " decisions, " << results.runs << " starts, " << results.preemptions << " preemptions, "
            << results.resizes << " resizes\n";
}

void Day(uint64_t seed, int workers, int backlog, double load) {
  const Workload day = MakeDay(seed, workers, backlog, load);
  std::cerr << day.jobs.size() << " jobs\n";
  {
    const Results ours = Simulation(day, {}, true).Run();
    // The bar is for a fleet with a long queue; where there never is one (small options), for all decisions.
    const auto& decisions = ours.decision_ms_many_queued.empty() ? ours.decision_ms : ours.decision_ms_many_queued;
    Report("decision_p99_ms", Percentile(decisions, 99), "ms");
    // Beside other programs the clock counts their turns, too.
    Report("decision_cpu_p99_ms", Percentile(ours.decision_cpu_ms_many_queued, 99), "ms");
    Report("decision_p50_ms", Percentile(decisions, 50), "ms");
    Report("decision_max_ms", Percentile(decisions, 100), "ms");
    Report("decisions_with_10000_queued", static_cast<double>(ours.decision_ms_many_queued.size()), "decisions");
    ReportDay("ours", ours, day);
  }
  scheduling::SchedulerConfig fifo;
  fifo.backfill = fifo.policy = fifo.preemption = fifo.elasticity = false;
  ReportDay("fifo", Simulation(day, fifo, false).Run(), day);
  ReportDay("backfill_unshared", Simulation(day, {}, false).Run(), day);
}

double SweepHours(uint64_t seed, bool common_prefixes, bool sharing) {
  const Workload load = MakeSweeps(seed, 100, 20, common_prefixes);
  return Simulation(load, {}, sharing).Run().slot_seconds / 3600;
}

void Sweeps(uint64_t seed) {
  const double none = SweepHours(seed, true, false);
  Report("sweep_slot_hours_without_sharing", none, "h");
  Report("sharing_slot_hours_vs_none", SweepHours(seed, true, true) / none, "ratio");
  Report("sharing_slot_hours_vs_none_schedule_chain", SweepHours(seed, false, true) / none, "ratio");
}

}  // namespace
}  // namespace bitstair::bench

int main(int argc, char** argv) {
  CLI::App app("Simulates the scheduler: a day of arrivals three times over, and sweeps with and without sharing.");
  uint64_t seed = 1;
  int workers = 1000;
  int backlog = 16000;
  double load = 1;
  app.add_option("--seed", seed, "of the workload");
  app.add_option("--workers", workers, "with 8 slots each")->check(CLI::PositiveNumber);
  app.add_option("--backlog", backlog, "chains that wait when the day begins")->check(CLI::NonNegativeNumber);
  app.add_option("--load", load, "work that arrives on the day / what the fleet can do in a day")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    bitstair::bench::Sweeps(seed);
    bitstair::bench::Day(seed, workers, backlog, load);
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    bitstair::bench::Report("memory_mb", static_cast<double>(usage.ru_maxrss) / 1024, "MB");
  } catch (const std::exception& error) {
    std::cerr << "bench_scheduler_sim: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
