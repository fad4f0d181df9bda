// One trainer: starts it, talks with it, watches it, ends it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/trainer.pb.h"
#include "worker/cpu_wait.h"
#include "worker/trainer_frames.h"

namespace bitstair::worker {

struct TrainerTiming {
  // From the start to the first message: the program and LibTorch are loaded meanwhile.
  std::chrono::milliseconds first_message{60'000};
  // Between messages of any kind; a trainer beats every second.
  std::chrono::milliseconds silence{5'000};
  // From a graceful stop to SIGKILL.
  std::chrono::milliseconds stop{15'000};
  // From the trainer's result to its exit.
  std::chrono::milliseconds leave{5'000};
};

struct TrainerCommand {
  std::string program;
  std::vector<std::string> arguments;    // --socket-fd is added
  std::vector<std::string> environment;  // all of it, NAME=VALUE
  std::string log_path;                  // stdout and stderr are appended here
  TrainerTiming timing;
};

// Why a trainer is no more.
struct TrainerExit {
  v1::ExitCause cause = v1::EXIT_CAUSE_UNSPECIFIED;
  std::string message;  // with the last lines of the log where it did not leave on its own terms
};

// Lives on one io_context thread: all functions are called there, and so are the callbacks. The process runs in its own process group, which is killed as a
// whole, also when the object is destroyed. Its exit is seen through a pidfd.
class TrainerProcess : public std::enable_shared_from_this<TrainerProcess> {
 public:
  struct Callbacks {
    // Not called for beats.
    std::function<void(const v1::FromTrainer&)> on_message;
    // The log file has so many bytes now.
    std::function<void(int64_t)> on_log;
    // Once, last: the process is reaped, and all that it wrote has been handled.
    std::function<void(const TrainerExit&)> on_exit;
    // Its threads had no processor for so long of the last fifth of a second. Null: only its own deadlines are put off.
    std::function<void(std::chrono::duration<double>)> on_starved;
  };

  // An error names what could not be set up; then nothing runs.
  static absl::StatusOr<std::shared_ptr<TrainerProcess>> Start(boost::asio::io_context& io, const TrainerCommand& command, Callbacks callbacks);
  ~TrainerProcess();
  TrainerProcess(const TrainerProcess&) = delete;
  TrainerProcess& operator=(const TrainerProcess&) = delete;

  int64_t pid() const { return pid_; }

  void Send(const v1::ToTrainer& message);

  // Asks for a checkpoint and an end; SIGKILL when timing.stop has passed.
  void RequestStop();

  // Puts the deadlines off, by so much at the next look, or by more if more is said before it: a trainer that waits for a starved peer is not stalled either.
  void Excuse(std::chrono::duration<double> time);

  // SIGKILL of the process group. The exit is reported with this cause and message unless the trainer had ended by itself already. The first call counts.
  void Kill(v1::ExitCause cause, const std::string& why);

  // True if the process has ended by itself though on_exit is still to come. Lets the owner tell the rank that broke a gang from those that it dragged along.
  bool HasEnded() const;

  // Drops the callbacks and kills; for an owner that goes away.
  void Abandon();

 private:
  using Clock = std::chrono::steady_clock;

  TrainerProcess(boost::asio::io_context& io, TrainerTiming timing, Callbacks callbacks);

  void ReadSocket();
  void ReadLog();
  void WriteSocket();
  void WaitForExit();
  void Watch();
  void ExcuseStarvation(Clock::duration passed);
  void HandleBytes(const char* data, size_t size);
  void HandleMessage(const v1::FromTrainer& message);
  void HandleLog(const char* data, size_t size);
  void Drain();
  void Reap();
  TrainerExit Explain(int wait_status) const;
  std::string LastLines() const;

  const TrainerTiming timing_;
  Callbacks callbacks_;
  boost::asio::local::stream_protocol::socket socket_;
  boost::asio::posix::stream_descriptor log_pipe_;
  boost::asio::posix::stream_descriptor pidfd_;
  boost::asio::steady_timer watch_timer_;
  int64_t pid_ = -1;
  bool reaped_ = false;

  TrainerFrameDecoder decoder_;
  std::vector<char> socket_buffer_;
  std::vector<char> log_buffer_;
  std::deque<std::string> out_;
  int log_file_ = -1;
  int64_t log_bytes_ = 0;
  bool log_full_ = false;
  std::string log_tail_;

  Clock::time_point last_watch_;
  std::optional<CpuWait> cpu_wait_;           // as of last_watch_
  std::chrono::duration<double> excused_{0};  // since last_watch_
  Clock::time_point last_sign_;
  bool heard_ = false;
  std::string phase_ = "start";
  double phase_seconds_ = 0;
  Clock::time_point phase_deadline_ = Clock::time_point::max();
  bool stop_requested_ = false;
  Clock::time_point kill_at_ = Clock::time_point::max();  // after a stop or a result

  bool killed_ = false;
  v1::ExitCause kill_cause_ = v1::EXIT_CAUSE_UNSPECIFIED;
  std::string kill_reason_;
  bool has_result_ = false;
  v1::TrainerResult result_;
};

}  // namespace bitstair::worker
