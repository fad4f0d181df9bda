#include "worker/trainer_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

extern "C" {
#include <sys/pidfd.h>  // of glibc 2.36: not ready for C++ by itself
}

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace bitstair::worker {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kWatchPeriod{200};
constexpr int kChildSocket = 3;
// Where our own descriptors are kept, out of the way of those that the child is to have.
constexpr int kLowestOwnFd = 10;
constexpr int64_t kLogLimitBytes = 64 << 20;
constexpr size_t kTailBytes = 8 << 10;
constexpr size_t kTailLines = 20;
// A process that ended can leave no more than this in its socket and pipe.
constexpr size_t kDrainBytes = 32 << 20;

class OwnedFd {
 public:
  explicit OwnedFd(int fd = -1) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  // Moves the descriptor to kLowestOwnFd or above, close-on-exec.
  bool MoveUp() {
    if (fd_ >= kLowestOwnFd) return true;
    const int higher = fcntl(fd_, F_DUPFD_CLOEXEC, kLowestOwnFd);
    if (higher < 0) return false;
    close(fd_);
    fd_ = higher;
    return true;
  }

 private:
  int fd_;
};

// posix_spawn is safe in a threaded process: the child runs nothing of ours before exec. It gets /dev/null, the log pipe twice and the socket, nothing else.
int Spawn(const TrainerCommand& command, int socket, int log, pid_t* pid) {
  std::vector<std::string> arguments{command.program, "--socket-fd", std::to_string(kChildSocket)};
  arguments.insert(arguments.end(), command.arguments.begin(), command.arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<std::string> environment = command.environment;
  std::vector<char*> envp;
  for (std::string& entry : environment) envp.push_back(entry.data());
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, log, 1);
  posix_spawn_file_actions_adddup2(&actions, log, 2);
  posix_spawn_file_actions_adddup2(&actions, socket, kChildSocket);
  posix_spawn_file_actions_addclosefrom_np(&actions, kChildSocket + 1);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  const int error = posix_spawn(pid, command.program.c_str(), &actions, &attributes, argv.data(), envp.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

std::string Seconds(std::chrono::milliseconds time) {
  return absl::StrCat(static_cast<double>(time.count()) / 1000, " s");
}

}  // namespace

absl::StatusOr<std::shared_ptr<TrainerProcess>> TrainerProcess::Start(asio::io_context& io, const TrainerCommand& command, Callbacks callbacks) {
  const auto error = [](absl::string_view what) { return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " for a trainer")); };
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return error("make a socket pair");
  OwnedFd own_socket(pair[0]);
  OwnedFd child_socket(pair[1]);
  if (pipe2(pair, O_CLOEXEC) != 0) return error("make a pipe");
  OwnedFd own_log(pair[0]);
  OwnedFd child_log(pair[1]);
  OwnedFd log_file(open(command.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (log_file.get() < 0) return error(absl::StrCat("open the log file ", command.log_path));
  if (!child_socket.MoveUp() || !child_log.MoveUp() || !own_socket.MoveUp() || !own_log.MoveUp()) return error("move descriptors");

  // Owns nothing of the process yet, so a failed start leaves nothing.
  const std::shared_ptr<TrainerProcess> process(new TrainerProcess(io, command.timing, std::move(callbacks)));
  pid_t pid = -1;
  if (const int failed = Spawn(command, child_socket.get(), child_log.get(), &pid); failed != 0) {
    return absl::ErrnoToStatus(failed, absl::StrCat("cannot start ", command.program));
  }
  // Until somebody waits for it the pid stays its own, so this cannot name another process.
  OwnedFd pidfd(pidfd_open(pid, 0));
  if (pidfd.get() < 0) {
    const absl::Status status = error("open a pidfd");
    kill(-pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return status;
  }
  struct stat info {};
  fstat(log_file.get(), &info);
  process->pid_ = pid;
  process->cpu_wait_.emplace(pid);
  process->log_bytes_ = info.st_size;
  process->log_file_ = log_file.release();
  process->socket_.assign(asio::local::stream_protocol(), own_socket.release());
  process->socket_.non_blocking(true);
  process->log_pipe_.assign(own_log.release());
  process->log_pipe_.non_blocking(true);
  process->pidfd_.assign(pidfd.release());
  process->last_sign_ = process->last_watch_ = Clock::now();
  process->ReadSocket();
  process->ReadLog();
  process->WaitForExit();
  process->Watch();
  return process;
}

TrainerProcess::TrainerProcess(asio::io_context& io, TrainerTiming timing, Callbacks callbacks)
    : timing_(timing),
      callbacks_(std::move(callbacks)),
      socket_(io),
      log_pipe_(io),
      pidfd_(io),
      watch_timer_(io),
      socket_buffer_(64 << 10),
      log_buffer_(64 << 10) {}

TrainerProcess::~TrainerProcess() {
  if (pid_ > 0 && !reaped_) {
    kill(-static_cast<pid_t>(pid_), SIGKILL);
    waitpid(static_cast<pid_t>(pid_), nullptr, 0);
  }
  if (log_file_ >= 0) close(log_file_);
}

// Waiting and reading are apart so that no byte is ever held by a handler that has yet to run: Drain must see all of them, in order.
void TrainerProcess::ReadSocket() {
  socket_.async_wait(asio::socket_base::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
    if (error || self->reaped_) return;
    const ssize_t got = read(self->socket_.native_handle(), self->socket_buffer_.data(), self->socket_buffer_.size());
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return;  // its end; the exit comes through the pidfd
    if (got > 0) self->HandleBytes(self->socket_buffer_.data(), static_cast<size_t>(got));
    self->ReadSocket();
  });
}

void TrainerProcess::ReadLog() {
  log_pipe_.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
    if (error || self->reaped_) return;
    const ssize_t got = read(self->log_pipe_.native_handle(), self->log_buffer_.data(), self->log_buffer_.size());
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return;
    if (got > 0) self->HandleLog(self->log_buffer_.data(), static_cast<size_t>(got));
    self->ReadLog();
  });
}

void TrainerProcess::Send(const v1::ToTrainer& message) {
  if (reaped_) return;
  out_.push_back(EncodeTrainerFrame(message));
  if (out_.size() == 1) WriteSocket();
}

void TrainerProcess::WriteSocket() {
  asio::async_write(socket_, asio::buffer(out_.front()), [self = shared_from_this()](const boost::system::error_code& error, size_t) {
    if (error) return;  // the trainer is gone; the queue stays full and nothing more is written
    self->out_.pop_front();
    if (!self->out_.empty()) self->WriteSocket();
  });
}

void TrainerProcess::WaitForExit() {
  pidfd_.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
    if (!error) self->Reap();
  });
}

void TrainerProcess::Watch() {
  watch_timer_.expires_after(kWatchPeriod);
  watch_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error || self->reaped_) return;
    const Clock::time_point now = Clock::now();
    // Where this process itself stood still (suspended, or a machine out of memory), its clock says nothing about the trainer.
    const auto late = now - self->last_watch_ - kWatchPeriod;
    if (late > std::chrono::seconds(1)) {
      self->last_sign_ += late;
      if (self->phase_deadline_ != Clock::time_point::max()) self->phase_deadline_ += late;
      if (self->kill_at_ != Clock::time_point::max()) self->kill_at_ += late;
    }
    self->ExcuseStarvation(now - self->last_watch_);
    self->last_watch_ = now;
    const auto silence = self->heard_ ? self->timing_.silence : self->timing_.first_message;
    if (now >= self->kill_at_) {
      self->Kill(self->stop_requested_ ? v1::EXIT_CAUSE_STOPPED : v1::EXIT_CAUSE_STALLED,
                 self->has_result_ ? absl::StrCat("did not leave within ", Seconds(self->timing_.leave), " of its result")
                                   : absl::StrCat("killed: it did not stop within ", Seconds(self->timing_.stop)));
    } else if (now >= self->phase_deadline_) {
      self->Kill(v1::EXIT_CAUSE_STALLED, absl::StrCat("phase \"", self->phase_, "\" took longer than ", self->phase_seconds_, " s"));
    } else if (now - self->last_sign_ > silence) {
      self->Kill(v1::EXIT_CAUSE_STALLED, absl::StrCat("no sign of life for ", Seconds(silence), " in phase \"", self->phase_, "\""));
    }
    self->Watch();
  });
}

void TrainerProcess::Excuse(std::chrono::duration<double> time) {
  excused_ = std::max(excused_, time);
}

// A machine that others keep busy makes steps long, and no trainer stalled. One that hangs sleeps, and is excused nothing.
void TrainerProcess::ExcuseStarvation(Clock::duration passed) {
  const std::chrono::duration<double> starved(cpu_wait_->Since(std::chrono::duration<double>(passed).count()));
  Excuse(starved);
  if (callbacks_.on_starved && starved > kWatchPeriod / 4) callbacks_.on_starved(starved);
  const auto excused = std::chrono::duration_cast<Clock::duration>(std::exchange(excused_, std::chrono::duration<double>(0)));
  last_sign_ += excused;
  if (phase_deadline_ != Clock::time_point::max()) phase_deadline_ += excused;
}

void TrainerProcess::HandleBytes(const char* data, size_t size) {
  decoder_.Append(absl::string_view(data, size));
  while (true) {
    v1::FromTrainer message;
    const absl::StatusOr<bool> more = decoder_.Next(&message);
    if (!more.ok()) {
      Kill(v1::EXIT_CAUSE_FAILED, absl::StrCat("the worker cannot read what the trainer says: ", more.status().message()));
      return;
    }
    if (!*more) return;
    HandleMessage(message);
  }
}

void TrainerProcess::HandleMessage(const v1::FromTrainer& message) {
  heard_ = true;
  last_sign_ = Clock::now();
  switch (message.kind_case()) {
    case v1::FromTrainer::kBeat:
      return;
    case v1::FromTrainer::kPhase: {
      phase_ = message.phase().phase();
      phase_seconds_ = message.phase().deadline_seconds();
      // Not above a month, so that the clock cannot overflow; none where it is not positive.
      const double bounded = std::isfinite(phase_seconds_) ? std::min(phase_seconds_, 2.6e6) : 0;
      phase_deadline_ =
          bounded > 0 ? Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(bounded)) : Clock::time_point::max();
      break;
    }
    case v1::FromTrainer::kResult:
      has_result_ = true;
      result_ = message.result();
      phase_deadline_ = Clock::time_point::max();
      kill_at_ = Clock::now() + timing_.leave;
      break;
    default:
      break;
  }
  if (callbacks_.on_message) callbacks_.on_message(message);
}

void TrainerProcess::HandleLog(const char* data, size_t size) {
  log_tail_.append(data, size);
  if (log_tail_.size() > 2 * kTailBytes) log_tail_.erase(0, log_tail_.size() - kTailBytes);
  if (log_full_) return;
  std::string note;
  if (log_bytes_ + static_cast<int64_t>(size) > kLogLimitBytes) {
    log_full_ = true;
    note = absl::StrCat("\n[the log is cut here: it reached ", kLogLimitBytes, " bytes]\n");
    data = note.data();
    size = note.size();
  }
  while (size > 0) {
    const ssize_t put = write(log_file_, data, size);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      if (!log_full_) spdlog::warn("cannot write the log of trainer {}: {}", pid_, strerror(errno));
      log_full_ = true;
      break;
    }
    log_bytes_ += put;
    data += put;
    size -= static_cast<size_t>(put);
  }
  if (callbacks_.on_log) callbacks_.on_log(log_bytes_);
}

void TrainerProcess::RequestStop() {
  if (stop_requested_ || reaped_) return;
  stop_requested_ = true;
  kill_at_ = std::min(kill_at_, Clock::now() + timing_.stop);
  v1::ToTrainer message;
  message.mutable_stop();
  Send(message);
}

void TrainerProcess::Kill(v1::ExitCause cause, const std::string& why) {
  if (reaped_ || killed_) return;
  killed_ = true;
  kill_cause_ = cause;
  kill_reason_ = why;
  kill(-static_cast<pid_t>(pid_), SIGKILL);
}

bool TrainerProcess::HasEnded() const {
  if (reaped_) return true;
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
}

void TrainerProcess::Abandon() {
  callbacks_ = {};
  Kill(v1::EXIT_CAUSE_STOPPED, "");
}

// What the process had written before it ended is still in the socket and the pipe.
void TrainerProcess::Drain() {
  size_t total = 0;
  while (total < kDrainBytes) {
    const ssize_t got = read(socket_.native_handle(), socket_buffer_.data(), socket_buffer_.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    HandleBytes(socket_buffer_.data(), static_cast<size_t>(got));
    total += static_cast<size_t>(got);
  }
  total = 0;
  while (total < kDrainBytes) {
    const ssize_t got = read(log_pipe_.native_handle(), log_buffer_.data(), log_buffer_.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    HandleLog(log_buffer_.data(), static_cast<size_t>(got));
    total += static_cast<size_t>(got);
  }
}

void TrainerProcess::Reap() {
  if (reaped_) return;
  kill(-static_cast<pid_t>(pid_), SIGKILL);  // whatever it left in its group; the pid is ours until waitpid
  Drain();
  int status = 0;
  pid_t got = 0;
  do {
    got = waitpid(static_cast<pid_t>(pid_), &status, 0);
  } while (got < 0 && errno == EINTR);
  reaped_ = true;
  boost::system::error_code ignored;
  watch_timer_.cancel();
  socket_.close(ignored);
  log_pipe_.close(ignored);
  pidfd_.close(ignored);
  const TrainerExit exit = Explain(status);
  const Callbacks callbacks = std::move(callbacks_);
  callbacks_ = {};
  if (callbacks.on_exit) callbacks.on_exit(exit);
}

TrainerExit TrainerProcess::Explain(int wait_status) const {
  if (has_result_) {
    if (wait_status != 0) spdlog::warn("trainer {} ended with wait status {} after its result", pid_, wait_status);
    v1::ExitCause cause = result_.cause();
    if (cause == v1::EXIT_CAUSE_UNSPECIFIED || !v1::ExitCause_IsValid(cause)) cause = v1::EXIT_CAUSE_FAILED;
    const bool own_terms = cause == v1::EXIT_CAUSE_FINISHED || cause == v1::EXIT_CAUSE_STOPPED || cause == v1::EXIT_CAUSE_BAD_DATA;
    return {cause, own_terms ? result_.message() : absl::StrCat(result_.message(), LastLines())};
  }
  const bool by_us = killed_ && WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL;
  if (by_us) {
    const bool expected = kill_cause_ == v1::EXIT_CAUSE_STOPPED || kill_cause_ == v1::EXIT_CAUSE_PEER_LOST;
    return {kill_cause_, expected ? kill_reason_ : absl::StrCat(kill_reason_, LastLines())};
  }
  std::string how;
  if (WIFSIGNALED(wait_status)) {
    const int signal = WTERMSIG(wait_status);
    how = absl::StrCat("killed by signal ", signal, " (SIG", sigabbrev_np(signal) != nullptr ? sigabbrev_np(signal) : "?", ")");
    if (signal == SIGKILL) absl::StrAppend(&how, "; if nobody did that, the machine may be out of memory");
  } else {
    how = absl::StrCat("left with exit status ", WEXITSTATUS(wait_status), " and no result");
  }
  return {v1::EXIT_CAUSE_CRASHED, absl::StrCat(how, " in phase \"", phase_, "\"", LastLines())};
}

std::string TrainerProcess::LastLines() const {
  std::vector<std::string> lines = absl::StrSplit(log_tail_.size() > kTailBytes ? log_tail_.substr(log_tail_.size() - kTailBytes) : log_tail_, '\n');
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  if (lines.size() > kTailLines) lines.erase(lines.begin(), lines.end() - kTailLines);
  if (lines.empty()) return "";
  std::string text = absl::StrCat("; last lines of its log:\n", absl::StrJoin(lines, "\n"));
  // Protobuf strings are UTF-8, whatever a trainer wrote.
  for (char& c : text) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return text;
}

}  // namespace bitstair::worker
