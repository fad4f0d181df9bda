#include "bench/scheduler_workload.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace bitstair::bench {
namespace {

using server::scheduling::Priority;
using server::scheduling::SlotKind;
using server::scheduling::StageRequest;
using server::scheduling::WorkerInfo;

constexpr double kDay = 24 * 3600;
constexpr int64_t kGiB = int64_t{1} << 30;
// As in recipes/cifar100_resnet20_*.yaml. A guided epoch trains two nets.
constexpr double kFullPrecisionEpochs = 24, kQuantizedEpochs = 10, kGuidedCost = 2.2;

// 64 hex digits that stand for the text, as a stage key does.
std::string KeyOf(const std::string& text) {
  std::string key;
  for (uint64_t part = 0; part < 4; ++part) {
    uint64_t hash = 0xcbf29ce484222325 ^ (part * 0x9e3779b97f4a7c15);
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    absl::StrAppendFormat(&key, "%016x", hash ^ (hash >> 29));
  }
  return key;
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  int Below(int limit) { return static_cast<int>(Uniform() * limit); }
  bool Chance(double probability) { return Uniform() < probability; }
  double Normal() { return std::sqrt(-2 * std::log(1 - Uniform())) * std::cos(6.283185307179586 * Uniform()); }

 private:
  std::mt19937_64 engine_;
};

// What the jobs of one person's experiment have in common.
struct Experiment {
  std::string content;  // network, data set and all settings that the chain does not vary
  StageRequest resources;
  double epoch_seconds = 0;
  double estimate_factor = 1;  // estimated duration / true one
  bool estimated = true;
};

// 32 -> 8 -> ... -> the target, or 32 -> the target. guidance: "" or lambda.
SimJob Chain(const Experiment& experiment, int seed, const std::vector<int>& widths, const std::string& guidance, bool common_prefixes) {
  SimJob job;
  std::string parent;
  for (size_t i = 0; i < widths.size(); ++i) {
    std::string text = absl::StrCat(experiment.content, "|", seed, "|", parent, "|w", widths[i]);
    if (i > 0) absl::StrAppend(&text, "|", guidance);
    if (i > 0 && !common_prefixes) absl::StrAppend(&text, "|chain of ", widths.size(), " to ", widths.back());
    SimStage stage;
    stage.request = experiment.resources;
    stage.request.key = KeyOf(text);
    stage.request.name = absl::StrCat("W", widths[i]);
    stage.seconds = experiment.epoch_seconds * (i == 0 ? kFullPrecisionEpochs : kQuantizedEpochs * (guidance.empty() ? 1 : kGuidedCost));
    if (experiment.estimated) stage.request.expected_duration = absl::Seconds(stage.seconds * experiment.estimate_factor);
    if (i > 0) stage.parents = {static_cast<int>(i) - 1};
    parent = stage.request.key;
    job.stages.push_back(std::move(stage));
  }
  return job;
}

// One job per seed, target width, chain and guidance.
std::vector<SimJob> Sweep(const Experiment& experiment, int first_seed, int seeds, bool common_prefixes) {
  std::vector<SimJob> jobs;
  for (int seed = first_seed; seed < first_seed + seeds; ++seed) {
    for (const char* guidance : {"", "lambda 1", "lambda 10", "lambda 100", "lambda 300"}) {
      for (const auto& widths : std::vector<std::vector<int>>{{32, 4}, {32, 2}, {32, 8, 4}, {32, 8, 4, 2}}) {
        jobs.push_back(Chain(experiment, seed, widths, guidance, common_prefixes));
      }
    }
  }
  return jobs;
}

std::vector<WorkerInfo> MakeWorkers(int count) {
  std::vector<WorkerInfo> workers;
  for (int i = 0; i < count; ++i) {
    WorkerInfo worker;
    worker.id = absl::StrFormat("worker-%04d", i);
    worker.host = absl::StrCat("host-", i);
    worker.subnet = absl::StrCat("rack-", i / 32);
    const bool cpu = i % 5 == 4, h100 = i % 5 == 3;
    worker.labels["device"] = cpu ? "cpu" : "gpu";
    if (!cpu) worker.labels["gpu"] = h100 ? "h100" : "a100";
    worker.numeric_profile = cpu ? "cpu" : worker.labels["gpu"];
    const int64_t memory = cpu ? 0 : h100 ? 80 * kGiB : i % 5 == 0 ? 16 * kGiB : 40 * kGiB;
    for (int slot = 0; slot < 8; ++slot) worker.slots.push_back({slot, cpu ? SlotKind::kCpu : SlotKind::kGpu, slot / 4, memory});
    // Everybody has the first data set, fewer have the others.
    worker.data = {"data-0"};
    if (i % 10 < 7) worker.data.insert("data-1");
    if (i % 10 % 2 == 1) worker.data.insert("data-2");
    if (i % 7 < 3) worker.data.insert("data-3");
    workers.push_back(std::move(worker));
  }
  return workers;
}

Experiment RandomExperiment(Random& random, int number) {
  Experiment experiment;
  StageRequest& stage = experiment.resources;
  const int data = random.Chance(0.5) ? 0 : 1 + random.Below(3);
  stage.data_key = stage.data_name = absl::StrCat("data-", data);
  const double width = random.Uniform();
  stage.min_ranks = stage.max_ranks = width < 0.5 ? 1 : width < 0.7 ? 2 : width < 0.9 ? 4 : 8;
  if (random.Chance(0.1)) {
    stage.min_ranks = 1;
    stage.max_ranks = stage.shards = 8;
  }
  if (random.Chance(0.15)) {
    stage.labels["device"] = "cpu";
  } else {
    stage.labels["device"] = "gpu";
    if (random.Chance(0.1)) stage.labels["gpu"] = "h100";
    const double memory = random.Uniform();
    stage.memory_bytes = memory < 0.6 ? 0 : memory < 0.85 ? 12 * kGiB : memory < 0.95 ? 24 * kGiB : 60 * kGiB;
  }
  experiment.content = absl::StrCat("experiment ", number);
  experiment.epoch_seconds = std::min(720 * std::exp(0.7 * random.Normal()), 7200.0);
  experiment.estimated = random.Chance(0.8);
  experiment.estimate_factor = std::exp(0.15 * random.Normal());
  return experiment;
}

double SlotSeconds(const std::vector<SimJob>& jobs, std::vector<std::string>& seen) {
  double sum = 0;
  for (const SimJob& job : jobs) {
    for (const SimStage& stage : job.stages) {
      if (std::find(seen.begin(), seen.end(), stage.request.key) != seen.end()) continue;
      seen.push_back(stage.request.key);
      sum += stage.seconds * stage.request.min_ranks;
    }
  }
  return sum;
}

}  // namespace

Workload MakeDay(uint64_t seed, int workers, int backlog, double load) {
  Workload day{MakeWorkers(workers), {}};
  Random random(seed);
  const double wanted = load * kDay * 8 * workers;
  double arrived = 0;
  for (int number = 0; number < backlog || arrived < wanted; ++number) {
    const Experiment experiment = RandomExperiment(random, number);
    std::vector<SimJob> jobs;
    // One in ten is a sweep over one seed, the others are one chain; one in ten of those is submitted twice.
    if (number >= backlog && random.Chance(0.1)) {
      jobs = Sweep(experiment, 1, 1, true);
    } else {
      const auto widths = random.Chance(0.3) ? std::vector<int>{32, 4} : random.Chance(0.5) ? std::vector<int>{32, 8, 4} : std::vector<int>{32, 8, 4, 2};
      jobs = {Chain(experiment, 1, widths, random.Chance(0.4) ? "lambda 100" : "", true)};
      if (number >= backlog && random.Chance(0.1)) jobs.push_back(jobs.front());
    }
    std::vector<std::string> seen;
    if (number >= backlog) arrived += SlotSeconds(jobs, seen);
    const std::string queue = absl::StrCat("team-", random.Below(8));
    const double kind = random.Uniform();
    const auto priority = kind < 0.3 ? Priority::kLow : kind < 0.9 ? Priority::kNormal : Priority::kHigh;
    const bool preemptible = priority == Priority::kLow && random.Chance(0.6);
    // More by day than by night; accepted by rejection.
    double arrival = random.Uniform() * kDay;
    while (random.Uniform() > 0.6 - 0.4 * std::cos(6.283185307179586 * arrival / kDay)) arrival = random.Uniform() * kDay;
    if (number < backlog) arrival = 0;
    for (SimJob& job : jobs) {
      job.queue = queue;
      job.priority = priority;
      job.arrival_seconds = arrival;
      for (SimStage& stage : job.stages) stage.request.preemptible = preemptible;
      day.jobs.push_back(std::move(job));
    }
  }
  std::stable_sort(day.jobs.begin(), day.jobs.end(), [](const SimJob& a, const SimJob& b) { return a.arrival_seconds < b.arrival_seconds; });
  for (size_t i = 0; i < day.jobs.size(); ++i) day.jobs[i].id = absl::StrCat("job-", i);
  return day;
}

Workload MakeSweeps(uint64_t seed, int workers, int sweeps, bool common_prefixes) {
  Workload load{MakeWorkers(workers), {}};
  Random random(seed);
  for (int number = 0; number < sweeps; ++number) {
    Experiment experiment = RandomExperiment(random, number);
    experiment.resources.max_ranks = experiment.resources.min_ranks;
    for (SimJob& job : Sweep(experiment, 1, 3, common_prefixes)) {
      job.id = absl::StrCat("job-", load.jobs.size());
      job.queue = absl::StrCat("team-", number % 8);
      load.jobs.push_back(std::move(job));
    }
  }
  return load;
}

}  // namespace bitstair::bench
