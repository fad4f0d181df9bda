// The API's picture of a job. Pure.
#pragma once

#include "bitstair/v1/job.pb.h"
#include "bitstair/v1/jobs.pb.h"
#include "server/domain.h"

namespace bitstair::server {

// At most this many (the newest) epochs of each stage, without telemetry; ListMetrics has them all.
inline constexpr int kMaxViewEpochs = 1000;

v1::Job MakeJobView(const State& state, const Job& job);

// Brings the parts that are not durable (progress, process ids, what is waited for) up to date in a view of the same job.
void RefreshView(const State& state, const Job& job, v1::Job* view);

v1::Event MakeEventView(const Job& job, const records::EventRecord& event);

}  // namespace bitstair::server
