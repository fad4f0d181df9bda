#include "client/embedded.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "core/files/durable_file.h"
#include "server/daemon/daemon.h"

namespace bitstair::client {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kReadyTimeout{20'000};
// A coordinator that is on its way out may take this long to free the state folder.
constexpr milliseconds kJoinTimeout{30'000};
constexpr milliseconds kLookAgain{50};
constexpr milliseconds kLeavingShows{200};
constexpr milliseconds kKillTimeout{5'000};
constexpr int kWorkerRestarts = 3;

struct Endpoint {
  std::string address;
  pid_t pid = -1;
};

// The line that a server writes when it is ready, also in STATE/endpoint.json.
absl::StatusOr<Endpoint> ParseEndpoint(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("address") || !json["address"].is_string() || !json.contains("pid") || !json["pid"].is_number_integer()) {
    return absl::InternalError(absl::StrCat("not a ready line: ", text));
  }
  return Endpoint{json["address"].get<std::string>(), json["pid"].get<pid_t>()};
}

absl::StatusOr<UniqueFd> OpenLockFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (fd.get() < 0) return absl::FailedPreconditionError(absl::StrCat("cannot open ", path, ": ", std::generic_category().message(errno)));
  return fd;
}

}  // namespace

absl::StatusOr<std::string> DefaultStateDirectory() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return absl::StrCat(state, "/bitstair");
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return absl::StrCat(home, "/.local/state/bitstair");
  return absl::FailedPreconditionError("neither XDG_STATE_HOME nor HOME is set; name a folder with --state-dir");
}

absl::StatusOr<std::string> ProgramDirectory() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::UnavailableError(absl::StrCat("/proc/self/exe: ", error.message()));
  return path.parent_path().string();
}

absl::StatusOr<std::unique_ptr<EmbeddedCluster>> EmbeddedCluster::Start(const EmbeddedOptions& options, int interrupt_fd) {
  if (absl::Status status = core::MakeWritableDirectory(options.state_dir); !status.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("state folder ", options.state_dir, ": ", status.message()));
  }
  std::error_code error;
  EmbeddedOptions absolute = options;
  absolute.state_dir = std::filesystem::canonical(options.state_dir, error).string();
  if (error) return absl::FailedPreconditionError(absl::StrCat("state folder ", options.state_dir, ": ", error.message()));
  std::unique_ptr<EmbeddedCluster> cluster(new EmbeddedCluster(std::move(absolute)));
  if (absl::Status status = cluster->TakeShare(); !status.ok()) return status;

  // One client at a time looks and starts.
  auto starting = OpenLockFile(cluster->options_.state_dir + "/start.lock");
  if (!starting.ok()) return starting.status();
  const auto end = Clock::now() + kJoinTimeout;
  bool told = false;
  while (true) {
    auto found = flock(starting->get(), LOCK_EX | LOCK_NB) == 0 ? cluster->TryJoin() : Found::kRetry;
    if (!found.ok()) return found.status();
    if (*found == Found::kJoined) break;
    if (*found == Found::kFree) {
      if (absl::Status status = cluster->StartServer(interrupt_fd); !status.ok()) return status;
      break;
    }
    if (Clock::now() > end) {
      return absl::FailedPreconditionError(
          absl::StrCat("state folder ", options.state_dir,
                       " is in use by a coordinator that cannot be joined; if it is a bitstair-server of its own, use `bitstair submit`, ",
                       "else end it or choose another --state-dir"));
    }
    if (!told && Clock::now() > end - kJoinTimeout + milliseconds(500) && options.note) {
      options.note(absl::StrCat("waiting for the coordinator that uses ", options.state_dir));
      told = true;
    }
    const auto waited = WaitReadable(-1, kLookAgain, interrupt_fd);
    if (!waited.ok()) return waited.status();
  }
  starting->Close();
  if (!cluster->joined()) {
    auto worker = cluster->StartWorker();
    if (!worker.ok()) return worker.status();
    const auto line = worker->WaitReady(kReadyTimeout, interrupt_fd);
    {
      const absl::MutexLock lock(&cluster->mutex_);
      cluster->worker_ = std::move(*worker);
    }
    if (!line.ok()) return line.status();
  }
  cluster->stop_supervising_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  cluster->supervisor_ = std::thread([raw = cluster.get()] { raw->Supervise(); });
  return cluster;
}

absl::Status EmbeddedCluster::TakeShare() {
  auto opened = OpenLockFile(options_.state_dir + "/clients.lock");
  if (!opened.ok()) return opened.status();
  share_ = std::move(*opened);
  // Held exclusively only for the blink of an eye, by a client that is leaving.
  while (flock(share_.get(), LOCK_SH) != 0) {
    if (errno != EINTR)
      return absl::FailedPreconditionError(absl::StrCat("cannot lock ", options_.state_dir, "/clients.lock: ", std::generic_category().message(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<EmbeddedCluster::Found> EmbeddedCluster::TryJoin() {
  if (auto lock = daemon::DirectoryLock::Take(options_.state_dir); lock.ok())
    return Found::kFree;  // let go at once; the server takes it
  else if (!absl::IsFailedPrecondition(lock.status()))
    return absl::FailedPreconditionError(lock.status().message());
  const auto text = core::ReadFile(absl::StrCat(options_.state_dir, "/endpoint.json"), 65536);
  if (!text.ok()) return Found::kRetry;  // it is starting or leaving
  const auto endpoint = ParseEndpoint(*text);
  if (!endpoint.ok()) return Found::kRetry;
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, endpoint->pid, 0)));
  if (pidfd.get() < 0 || !ConnectLifeline().ok()) return Found::kRetry;
  // A coordinator that had made up its mind to leave closes the connection instead of counting it.
  if (const auto closed = WaitReadable(lifeline_.get(), kLeavingShows); !closed.ok() || *closed) {
    lifeline_.Close();
    return Found::kRetry;
  }
  address_ = endpoint->address;
  server_pidfd_ = std::move(pidfd);
  return Found::kJoined;
}

absl::Status EmbeddedCluster::ConnectLifeline() {
  // Through a descriptor of the folder: a socket's address holds 107 characters only, a state folder's path may be longer.
  const UniqueFd folder(open(options_.state_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return absl::ErrnoToStatus(errno, options_.state_dir);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = absl::StrCat("/proc/self/fd/", folder.get(), "/clients.sock");
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket_fd.get() < 0 || connect(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot connect to ", options_.state_dir, "/clients.sock"));
  }
  lifeline_ = std::move(socket_fd);
  return absl::OkStatus();
}

absl::Status EmbeddedCluster::StartServer(int interrupt_fd) {
  auto server = ChildProcess::Start(options_.program_dir + "/bitstair-server",
                                    {"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--state-dir", options_.state_dir, "--ready-fd",
                                     absl::StrCat(ChildProcess::kReadyFd), "--embedded", "--log-level", options_.log_level},
                                    options_.state_dir + "/server.log");
  if (!server.ok()) return absl::UnavailableError(server.status().message());
  const auto line = server->WaitReady(kReadyTimeout, interrupt_fd);
  absl::Status status = line.status();
  if (status.ok()) {
    const auto endpoint = ParseEndpoint(*line);
    status = endpoint.ok() ? ConnectLifeline() : endpoint.status();
    if (endpoint.ok()) address_ = endpoint->address;
  }
  if (!status.ok()) {
    server->Kill(SIGKILL);
    server->WaitExit(kKillTimeout);
    return status;
  }
  server_pidfd_ = UniqueFd(fcntl(server->pidfd(), F_DUPFD_CLOEXEC, 0));
  server_ = std::move(*server);
  return absl::OkStatus();
}

absl::StatusOr<ChildProcess> EmbeddedCluster::StartWorker() const {
  std::vector<std::string> arguments{"--coordinator",
                                     address_,
                                     "--state-dir",
                                     options_.state_dir + "/worker",
                                     "--ready-fd",
                                     absl::StrCat(ChildProcess::kReadyFd),
                                     "--embedded",
                                     "--exit-with-pid",
                                     absl::StrCat(server_->pid()),
                                     "--metrics-listen",
                                     "127.0.0.1:0",
                                     "--log-level",
                                     options_.log_level};
  if (options_.slots > 0) arguments.insert(arguments.end(), {"--slots", absl::StrCat(options_.slots)});
  for (const std::string& data : options_.data) arguments.insert(arguments.end(), {"--data", data});
  for (const std::string& root : options_.data_roots) arguments.insert(arguments.end(), {"--data-root", root});
  auto worker = ChildProcess::Start(options_.program_dir + "/bitstair-worker", arguments, options_.state_dir + "/worker.log");
  if (!worker.ok()) return absl::UnavailableError(worker.status().message());
  return worker;
}

void EmbeddedCluster::OnLost(std::function<void(const std::string&)> callback) {
  const absl::MutexLock lock(&mutex_);
  if (callback && !lost_.empty()) {
    callback(lost_);
    return;
  }
  on_lost_ = std::move(callback);
}

// Watches what was started until told to stop. The worker is started anew: its attempts are retried from their checkpoints.
void EmbeddedCluster::Supervise() {
  int restarts = 0;
  while (true) {
    int worker_fd = -1;
    {
      const absl::MutexLock lock(&mutex_);
      if (worker_.has_value()) worker_fd = worker_->pidfd();
    }
    pollfd watched[3] = {{stop_supervising_.get(), POLLIN, 0}, {server_pidfd_.get(), POLLIN, 0}, {worker_fd, POLLIN, 0}};
    if (poll(watched, 3, -1) < 0) continue;
    if (watched[0].revents != 0) return;
    const absl::MutexLock lock(&mutex_);
    std::string why;
    if (watched[1].revents != 0) {
      why = "the coordinator (bitstair-server) ended";
      if (server_.has_value() && server_->WaitExit(milliseconds(0)))
        absl::StrAppend(&why, ": ", server_->ExitText(), "; see ", options_.state_dir, "/server.log");
    } else if (worker_.has_value() && worker_->WaitExit(milliseconds(0))) {
      why = absl::StrCat("bitstair-worker ended: ", worker_->ExitText(), "; see ", options_.state_dir, "/worker.log");
      // It leaves by itself when the server is going; give that a moment to show.
      if (restarts < kWorkerRestarts && !*WaitReadable(server_pidfd_.get(), milliseconds(500))) {
        ++restarts;
        auto worker = StartWorker();
        if (worker.ok()) {
          worker_ = std::move(*worker);
          continue;
        }
        absl::StrAppend(&why, "; ", worker.status().message());
      }
    } else {
      continue;
    }
    lost_ = why;
    if (on_lost_) std::exchange(on_lost_, nullptr)(why);
    return;
  }
}

bool EmbeddedCluster::OthersAreHere() {
  // An upgrade lets the own shared lock go first, so a client that comes at this very moment is seen or sees a server that leaves.
  return flock(share_.get(), LOCK_EX | LOCK_NB) != 0;
}

void EmbeddedCluster::Leave(milliseconds patience, int hurry_fd) {
  if (supervisor_.joinable()) {
    const uint64_t one = 1;
    if (write(stop_supervising_.get(), &one, sizeof(one)) == sizeof(one)) supervisor_.join();
  }
  lifeline_.Close();
  if (share_.get() < 0) return;
  const bool others = OthersAreHere();
  share_.Close();
  if (others || server_pidfd_.get() < 0) return;
  const auto end = Clock::now() + patience;
  const auto left = [&] { return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(end - Clock::now())); };
  const auto gone = WaitReadable(server_pidfd_.get(), left(), hurry_fd);
  if (server_.has_value()) server_->WaitExit(milliseconds(0));  // reaped at once: to those who look at its pid it is there until then
  const absl::MutexLock lock(&mutex_);
  bool worker_gone = true;
  if (worker_.has_value()) {
    const auto waited = gone.ok() && *gone ? WaitReadable(worker_->pidfd(), left(), hurry_fd) : absl::StatusOr<bool>(false);
    worker_gone = waited.ok() && *waited;
  }
  if (!gone.ok() || !*gone) syscall(SYS_pidfd_send_signal, server_pidfd_.get(), SIGKILL, nullptr, 0);
  if (worker_.has_value() && !worker_gone) worker_->Kill(SIGKILL);
  if (worker_.has_value()) worker_->WaitExit(kKillTimeout);
  if (server_.has_value()) server_->WaitExit(kKillTimeout);
  server_pidfd_.Close();
}

EmbeddedCluster::~EmbeddedCluster() {
  if (share_.get() >= 0) Leave(milliseconds(0), -1);
}

}  // namespace bitstair::client
