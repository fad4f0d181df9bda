// The made-up days of bench/scheduler_sim.cc; docs/scheduling.md describes them. Deterministic by seed on one standard library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/scheduling/types.h"

namespace bitstair::bench {

// A stage of a job: what to ask the scheduler for, the truth about its duration, and its parents' positions in the job.
struct SimStage {
  server::scheduling::StageRequest request;  // without waiters; its key stands for all that can change its result
  double seconds = 0;                        // true duration with min_ranks
  std::vector<int> parents;
};

struct SimJob {
  std::string id, queue;
  server::scheduling::Priority priority = server::scheduling::Priority::kNormal;
  double arrival_seconds = 0;
  std::vector<SimStage> stages;  // parents first
};

struct Workload {
  std::vector<server::scheduling::WorkerInfo> workers;
  std::vector<SimJob> jobs;  // by arrival
};

// A fleet of `workers` times 8 slots; `backlog` single chains that wait when the day begins; and a day on which about `load` times as much work arrives as the
// fleet could do in it if equal stages ran once.
Workload MakeDay(uint64_t seed, int workers, int backlog, double load);

// Sweeps alone: seeds x targets x chains x guidance, all submitted at once. common_prefixes: each stage has a schedule of its own (`schedule: stage`), so that
// a chain to 4 bits is the beginning of the one to 2 bits; otherwise (`schedule: chain`) chains of different length have only the full-precision stage in
// common.
Workload MakeSweeps(uint64_t seed, int workers, int sweeps, bool common_prefixes);

}  // namespace bitstair::bench
