// What happens to a job. Pure: (job, event, now) -> (job, actions, what to store). No I/O, no clock, no threads.
//
// A stage:  BLOCKED -> PENDING -> STARTING -> RUNNING -> SUCCEEDED. A bad end of a rank, or a cancel, takes STARTING and RUNNING to STOPPING, and from there
// back to PENDING (retry), or to FAILED or CANCELLED.
// Invariants: 1. The generation goes up with every placement, and events of another generation change nothing.
//             2. A stage has an attempt exactly while STARTING, RUNNING or STOPPING; a new one starts only after every rank of the last ended or was given up.
//             3. A stage is SUCCEEDED only with a final checkpoint of its own.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "server/domain.h"

namespace bitstair::server {

// Events. `stage` is an index into job.stages.
struct DataResolved {  // the first digest: plan the job
  std::string digest;
  std::string weights_digest = "";  // of a job with initial weights
};
struct DataRejected {  // no worker can read the data
  std::string message;
};
struct CancelRequested {};
struct Placed {  // by the scheduler
  int stage;
  std::vector<records::RankRecord> ranks;
  std::string rendezvous_token;
  std::string numeric_profile;
};
struct RankRan {
  int stage;
  int generation;
  int rank;
  int64_t pid;
};
struct RendezvousOpened {
  int stage;
  int generation;
  std::string worker_id;
  std::string address;
};
struct EpochFinished {
  int stage;
  int generation;
  v1::EpochResult result;
};
struct CheckpointStored {  // whole in the artifact store
  int stage;
  int generation;
  v1::Checkpoint checkpoint;
};
struct RankEnded {
  int stage;
  int generation;
  int rank;
  v1::ExitCause cause;
  std::string message;
  bool excused = false;  // no fault of the stage (the coordinator leaves, or was away): does not count against max_attempts
};
// The worker's connection state changed.
struct WorkerUnreachable {
  std::string worker_id;
};
struct WorkerBack {  // connected again; `running`: generation and ranks of its live attempts of this job, by stage
  std::string worker_id;
  bool same_incarnation;
  std::map<int, std::pair<int, std::set<int>>> running;
  absl::Duration patience;  // how long a rank that it does not mention may take to be reported as ended
};
struct WorkerLost {
  std::string worker_id;
  std::string message;
  bool left = false;  // on its own will
};
struct Ticked {};  // deadlines

using JobEvent = std::variant<DataResolved, DataRejected, CancelRequested, Placed, RankRan, RendezvousOpened, EpochFinished, CheckpointStored, RankEnded,
                              WorkerUnreachable, WorkerBack, WorkerLost, Ticked>;

// Actions, to be run after the commit of what the same outcome stores.
struct SendToWorker {
  std::string worker_id;
  v1::CoordinatorMessage message;
};
struct DropCheckpoint {  // replaced by a newer one; may go once nothing refers to it
  std::string sha256;
};
// Slots of a rank that was given up while its worker is unreachable: reserved until the worker is back or gone.
struct ReserveSlot {
  std::string worker_id;
  v1::AttemptId attempt;
  int rank;
  int slot;
};
// One bad end of an attempt, for the metrics.
struct CountFailure {
  v1::ExitCause cause;
};
using Action = std::variant<SendToWorker, DropCheckpoint, ReserveSlot, CountFailure>;

struct Outcome {
  bool job_changed = false;
  std::set<int> stages_changed;
  std::vector<std::pair<int, int>> epochs_changed;  // (stage, epoch, 1-based)
  int events_added = 0;                             // at the end of job.events
  std::vector<Action> actions;
  bool durable() const { return job_changed || !stages_changed.empty() || !epochs_changed.empty() || events_added > 0; }
};

// How long ranks that were told to stop may take: SIGKILL, or with a checkpoint first.
inline constexpr absl::Duration kKillPatience = absl::Seconds(20);
// How long the upload of a finished stage's last checkpoint may take.
inline constexpr absl::Duration kUploadPatience = absl::Minutes(15);

Outcome Apply(Job* job, const JobEvent& event, absl::Time now);

// After a restart of the coordinator: gives each stage that was under way its attempt back. Ranks that no worker reports within `patience` count as lost.
void Reload(Job* job, absl::Time now, absl::Duration patience);

// The wait before try number `attempts` + 1: 1 s, 2 s, 4 s, ... 30 s.
absl::Duration RetryDelay(int attempts);

// "crashed", "lost a peer", ... for messages; "CRASHED" -> label "crashed" in metrics.
std::string CauseLabel(v1::ExitCause cause);

}  // namespace bitstair::server
