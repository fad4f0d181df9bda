// Names in the API (jobs/ID, jobs/ID/stages/NAME), list filters and page tokens: strict parsing of what clients send. Pure.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// All errors are InvalidFields with `field` as the path.
absl::StatusOr<std::string> ParseJobName(const std::string& name, const std::string& field);  // the id
// (job id, stage name).
absl::StatusOr<std::pair<std::string, std::string>> ParseStageName(const std::string& name, const std::string& field);

// A filter of ListJobs, as jobs.proto describes it.
struct JobFilter {
  bool has_state = false;
  bool active = false;  // state=ACTIVE
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::string name;  // empty: any
  bool name_is_prefix = false;

  // A job is meant if both its state and its name pass.
  bool Passes(v1::JobState job_state) const;
  bool Passes(const std::string& job_name) const;
};
absl::StatusOr<JobFilter> ParseJobFilter(const std::string& filter);

// Pages: the answer starts after the element `key`. A token belongs to one list and filter (`scope`).
std::string MakePageToken(const std::string& scope, const std::string& key);
absl::StatusOr<std::string> ParsePageToken(const std::string& scope, const std::string& token);
// 0: 50; at most 1000.
absl::StatusOr<int> CheckPageSize(int page_size);

}  // namespace bitstair::server
