// The trainer's end of the socket to its worker.
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/trainer.pb.h"

namespace bitstair::trainer {

// Exit status of a trainer whose worker went away.
inline constexpr int kExitWorkerGone = 3;

// An I/O thread of its own reads, writes and beats each second, whatever the training thread does. When the socket ends or carries garbage it ends the whole
// process at once (_exit): no trainer outlives its worker. All functions may be called from any thread.
class WorkerChannel {
 public:
  // Takes over the descriptor, one end of a stream socket pair.
  explicit WorkerChannel(int fd);
  // Stops the thread and closes the socket; what is not written by then is lost (see Flush).
  ~WorkerChannel();
  WorkerChannel(const WorkerChannel&) = delete;
  WorkerChannel& operator=(const WorkerChannel&) = delete;

  // Queues the message; never blocks.
  void Send(const v1::FromTrainer& message);

  // DEADLINE_EXCEEDED if the message does not come in time; CANCELLED if the worker asks to stop first.
  absl::StatusOr<v1::StartTrainer> WaitForStart(std::chrono::milliseconds timeout);
  absl::StatusOr<v1::Rendezvous> WaitForRendezvous(std::chrono::milliseconds timeout);

  // Whether the worker has asked for a checkpoint and an end.
  bool stop_requested() const;

  // Returns when all that was sent is written, or after the timeout.
  void Flush(std::chrono::milliseconds timeout);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitstair::trainer
