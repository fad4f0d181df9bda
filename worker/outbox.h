// What a worker has to tell its coordinator, over however many connections it takes.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bitstair/v1/fleet.pb.h"

namespace bitstair::worker {

using AttemptKey = std::pair<std::string, int32_t>;  // stage, generation
inline AttemptKey KeyOf(const v1::AttemptId& id) {
  return {id.stage(), id.generation()};
}

// Orders messages, keeps the ones that must not be lost, and merges the ones that may be late. Nothing in a stream tells that a message has become durable at
// the other end, so events are kept for a while after they were sent, and all that are kept are sent again on the next connection, in order; the coordinator
// takes a repeat as such (generation, rank, epoch, digest). Bounded: a kept event ages out, logs are read from their files, progress is only the newest.
// No I/O but reading logs; time comes in. Not thread-safe.
class Outbox {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Sent once, on this connection or not at all.
  void PushOnce(v1::WorkerMessage message);
  // Kept as told above. The message names an attempt.
  void PushEvent(v1::WorkerMessage message);
  // Replaces progress that was not sent yet.
  void SetProgress(const v1::AttemptId& attempt, const v1::StageProgress& progress);
  // The rank's log file has `size` bytes; the new ones are read when their turn comes.
  void LogGrew(const v1::AttemptId& attempt, int rank, const std::string& path, int64_t size);

  // The next message for the live stream; nothing if there is none.
  std::optional<v1::WorkerMessage> Next(TimePoint now);

  // The connection is gone: kept events count as unsent, messages for once are dropped, logs go back a little.
  void OnDisconnected();

  // The coordinator has the checkpoint: it is not told again.
  void CheckpointCommitted(const AttemptKey& attempt, const std::string& sha256);

  // Drops what was sent before `sent_before` on this connection: all events of ended attempts; of live ones only results of epochs, since a new coordinator
  // must know the rest.
  void Expire(TimePoint sent_before);
  // No more will come for this attempt: it need not be kept for a new coordinator.
  void AttemptEnded(const AttemptKey& attempt);
  // True if nothing is kept for it.
  bool Done(const AttemptKey& attempt) const;
  // True if all events and logs were sent, and every checkpoint is committed.
  bool Flushed() const;
  void Forget(const AttemptKey& attempt);

 private:
  struct Event {
    v1::WorkerMessage message;
    std::optional<TimePoint> sent;
  };
  struct Log {
    std::string path;
    int64_t size = 0;
    int64_t sent = 0;
  };
  struct Attempt {
    v1::AttemptId id;
    std::deque<Event> events;
    std::map<int, Log> logs;
    std::optional<v1::StageProgress> progress;
    bool ended = false;
  };
  Attempt& Of(const v1::AttemptId& id);
  static std::optional<v1::WorkerMessage> NextLog(Attempt& attempt, int rank);

  std::deque<v1::WorkerMessage> once_;
  std::map<AttemptKey, Attempt> attempts_;
  AttemptKey last_served_;  // attempts take turns
};

}  // namespace bitstair::worker
