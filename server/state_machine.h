// What happens to jobs and their stages. Pure: (state, event, now) -> (state, actions, what to store). No I/O, no clock, no threads.
//
// A stage is one training run, and jobs share it: planning a job looks each key up among the stages that are there. A stage whose key is done is taken over;
// one that is waiting or running is joined, and one that was given up goes on from its checkpoint. A stage runs as long as one job needs it; its failure is
// each one's.
//
// A stage:  BLOCKED -> PENDING -> STARTING -> RUNNING -> SUCCEEDED. A bad end of a rank, or a cancel, takes STARTING and RUNNING to STOPPING, and from there
// back to PENDING (retry), or to FAILED or CANCELLED.
// Invariants: 1. The generation goes up with every placement, and events of another generation change nothing.
//             2. A stage has an attempt exactly while STARTING, RUNNING or STOPPING; a new one starts only after every rank of the last ended or was given up.
//             3. A stage is SUCCEEDED only with a final checkpoint of its own.
//             4. At most one stage of a key is not ended.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/domain.h"

namespace bitstair::server {

// Events. `stage` is a stage's name (StageName of server/domain.h).
struct DataResolved {  // the first digest: plan the job
  std::string job_id;
  std::string digest;
  std::string weights_digest = "";  // of a job with initial weights
  // Whether a done stage's checkpoint is still in the artifact store; a stage whose checkpoint is gone counts as not done. Null: all are there.
  std::function<bool(const std::string& sha256)> is_stored = nullptr;
};
struct DataRejected {  // no worker can read the data
  std::string job_id;
  std::string message;
};
struct CancelRequested {
  std::string job_id;
};
struct PauseRequested {
  std::string job_id;
};
struct ResumeRequested {
  std::string job_id;
};
// Of a FAILED or CANCELLED job.
struct RetryRequested {
  std::string job_id;
  std::function<bool(const std::string& sha256)> is_stored = nullptr;  // as in DataResolved
};
struct PriorityChanged {
  std::string job_id;
  v1::PriorityClass priority;
};
struct PinChanged {
  std::string job_id;
  bool pinned;
};
// The stage's ranks stop at a checkpoint, and it waits again: room is needed, or its worker is to be drained. Does not count against max_attempts.
struct StopRequested {
  std::string stage;
  std::string reason;  // for people
};
struct Placed {  // by the scheduler
  std::string stage;
  std::vector<records::RankRecord> ranks;
  std::string rendezvous_token;
  std::string numeric_profile;
};
struct RankRan {
  std::string stage;
  int generation;
  int rank;
  int64_t pid;
};
struct RendezvousOpened {
  std::string stage;
  int generation;
  std::string worker_id;
  std::string address;
};
struct EpochFinished {
  std::string stage;
  int generation;
  v1::EpochResult result;
};
struct CheckpointStored {  // whole in the artifact store
  std::string stage;
  int generation;
  v1::Checkpoint checkpoint;
};
struct RankEnded {
  std::string stage;
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
struct WorkerBack {  // connected again; `running`: generation and ranks of its live attempts, by stage
  std::string worker_id;
  bool same_incarnation;
  std::map<std::string, std::pair<int, std::set<int>>> running;
  absl::Duration patience;  // how long a rank that it does not mention may take to be reported as ended
};
struct WorkerLost {
  std::string worker_id;
  std::string message;
  bool left = false;  // on its own will
};
struct Ticked {};  // deadlines

using Event =
    std::variant<DataResolved, DataRejected, CancelRequested, PauseRequested, ResumeRequested, RetryRequested, PriorityChanged, PinChanged, StopRequested,
                 Placed, RankRan, RendezvousOpened, EpochFinished, CheckpointStored, RankEnded, WorkerUnreachable, WorkerBack, WorkerLost, Ticked>;

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
  std::set<std::string> jobs_changed;                       // ids
  std::set<std::string> stages_changed;                     // names
  std::vector<std::pair<std::string, int>> epochs_changed;  // (stage, epoch, 1-based)
  std::map<std::string, int> events_added;                  // by job: at the end of job.events
  std::vector<Action> actions;
  bool durable() const { return !jobs_changed.empty() || !stages_changed.empty() || !epochs_changed.empty() || !events_added.empty(); }
};

// How long ranks that were told to stop may take: SIGKILL, or with a checkpoint first.
inline constexpr absl::Duration kKillPatience = absl::Seconds(20);
// How long ranks that are to stop at a checkpoint may take: a step, and the checkpoint's way to the store.
inline constexpr absl::Duration kCheckpointPatience = absl::Minutes(5);
// How long the upload of a finished stage's last checkpoint may take.
inline constexpr absl::Duration kUploadPatience = absl::Minutes(15);

// Whether a job that is not paused waits for it.
bool IsWanted(const State& state, const Stage& stage);

Outcome Apply(State* state, const Event& event, absl::Time now);

// After a restart of the coordinator, with records alone in `state`: jobs and stages find each other, and each stage that was under way gets its attempt back.
// Ranks that no worker reports within `patience` count as lost. What a crash cut off between two commits is made up for. DATA_LOSS names a stage that is
// missing.
absl::StatusOr<Outcome> Reload(State* state, absl::Time now, absl::Duration patience);

// The wait before try number `attempts` + 1: 1 s, 2 s, 4 s, ... 30 s.
absl::Duration RetryDelay(int attempts);

// "crashed", "lost a peer", ... for messages; "CRASHED" -> label "crashed" in metrics.
std::string CauseLabel(v1::ExitCause cause);

}  // namespace bitstair::server
