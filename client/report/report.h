// One page about one or more jobs, complete in itself: no network, no scripts. Pure.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"
#include "bitstair/v1/jobs.pb.h"

namespace bitstair::client {

struct ReportedJob {
  v1::Job job;
  std::vector<v1::StageMetrics> metrics;  // of all epochs, with telemetry
};

// HTML 5. version: of the program that writes it. Sections have the ids staircase, results, and for each job N from 0: job-N-graph, job-N-loss, job-N-accuracy,
// job-N-steps, job-N-clipping, job-N-levels, job-N-reproduce.
std::string ReportPage(const std::vector<ReportedJob>& jobs, const std::string& version);

}  // namespace bitstair::client
