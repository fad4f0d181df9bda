// The coordinator's state in memory. Plain values: the strand of server/coordinator.h owns them, the pure parts change them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bitstair/store/v1/records.pb.h"
#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/job.pb.h"
#include "proto/timestamp.h"

namespace bitstair::server {

namespace records = bitstair::store::v1;

// One rank of a running attempt.
struct AttemptRank {
  int rank = 0;
  std::string worker_id;
  std::string worker_name;  // as people know it; may be empty
  int slot = 0;
  int64_t pid = 0;  // 0: has not reported
  bool exited = false;
  v1::ExitCause cause = v1::EXIT_CAUSE_UNSPECIFIED;
  std::string message;
  // Its worker is UNREACHABLE: a broken gang does not wait for it.
  bool unreachable = false;
  // Counted as lost at this time unless its worker says otherwise.
  absl::Time lost_after = absl::InfiniteFuture();
};

// The attempt under way at a stage, of the stage record's generation. Gone once every rank has ended and the outcome is committed.
struct Attempt {
  std::vector<AttemptRank> ranks;
  std::string rendezvous_token;
  std::string rendezvous_address;
  absl::Time start;
  double seconds_before = 0;  // of earlier attempts
  // Being ended: all ranks were told to stop. graceful: at a checkpoint.
  bool stopping = false;
  bool graceful = false;
  // Some rank ended as asked although the coordinator had not asked: its worker is leaving. Such an end does not count against max_attempts.
  bool left = false;
  // Was under way when the coordinator started, so its loss is not the stage's fault.
  bool reloaded = false;
  // When to stop waiting: for ranks that were told to stop, or for the last checkpoint of a finished gang.
  absl::Time deadline = absl::InfiniteFuture();
};

// One training run. Jobs whose plans have a stage of the same key share it; its name is that of the job that needed it first.
struct Stage {
  records::StageRecord record;
  std::vector<v1::EpochResult> epochs;  // epochs[i] is epoch i + 1
  std::optional<Attempt> attempt;
  absl::Time retry_after = absl::InfinitePast();
  std::set<std::string> failed_on;  // worker ids: where its attempts failed, as far as this coordinator saw it
  // Not durable: newest progress, and what a PENDING stage waits for.
  std::optional<v1::StageProgress> progress;
  std::string waits_for;
  // Ids of the jobs that it is trained for, and of those that only wait for its trainers to stop. Follow from the jobs' records.
  std::set<std::string> jobs, leaving;
  int64_t revision = 0;  // not stored: the newest of its records, when loaded
};

// What a worker said about a job's data set.
struct DataAnswer {
  std::string absence;         // why the worker does not offer it at all
  std::string digest;          // or:
  std::string error;           // or: not offered
  std::string weights_digest;  // beside digest, where the job has initial weights
  bool operator==(const DataAnswer&) const = default;
};

// Whether an answer tells of the very bytes that a stage is trained on and starts from, wherever they lie.
inline bool HasDataOf(const v1::StageSpec& stage, const DataAnswer& answer) {
  return !answer.digest.empty() && answer.digest == stage.data_digest() &&
         (!stage.has_initial_weights() || answer.weights_digest == stage.initial_weights_digest());
}

struct Job {
  records::JobRecord record;
  std::vector<records::EventRecord> events;  // oldest first; the last one's sequence number is next_event - 1
  int64_t next_event = 1;
  // Not durable: what workers said, by worker id, and what a RESOLVING job waits for.
  std::map<std::string, DataAnswer> data;
  std::string waits_for;
};

// All that the state machine knows. Pointers to jobs and stages stay valid until these are erased.
struct State {
  std::map<std::string, Job> jobs;            // by id
  std::map<std::string, Stage> stages;        // by name, jobs/ID/stages/NAME
  std::map<std::string, std::string> by_key;  // stage key -> name
  std::set<std::string> active_jobs;          // ids of those that have not ended
  std::set<std::string> live;                 // names of the stages with an attempt
};

// Ranks of a stage's attempts: a split pair has two for each of the recipe's. Elastic where they differ.
inline int SetsOf(const v1::StageSpec& spec) {
  return spec.placement() == v1::PAIR_PLACEMENT_SPLIT ? 2 : 1;
}
inline int MostRanks(const v1::StageSpec& spec) {
  return SetsOf(spec) * std::max(1, spec.ranks());
}
inline int LeastRanks(const v1::StageSpec& spec) {
  return spec.min_ranks() > 0 ? SetsOf(spec) * spec.min_ranks() : MostRanks(spec);
}
inline bool IsElastic(const v1::StageSpec& spec) {
  return LeastRanks(spec) < MostRanks(spec);
}

inline bool IsEnded(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}
inline bool IsEnded(v1::StageState state) {
  return state == v1::STAGE_STATE_SUCCEEDED || state == v1::STAGE_STATE_FAILED || state == v1::STAGE_STATE_CANCELLED;
}

// jobs/ID and jobs/ID/stages/NAME. A stage's own name, and what a job calls it.
std::string JobName(const std::string& job_id);
std::string StageName(const std::string& job_id, const std::string& stage);
std::string StageName(const Stage& stage);

}  // namespace bitstair::server
