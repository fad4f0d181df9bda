#include "worker/trainer/worker_channel.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer_frames.h"

namespace bitstair::trainer {
namespace {

namespace asio = boost::asio;
constexpr std::chrono::seconds kBeat{1};

// The worker reads this from our log; the socket is of no use any more.
[[noreturn]] void Leave(const std::string& why) {
  spdlog::error("leaving: {}", why);
  _exit(kExitWorkerGone);
}

}  // namespace

struct WorkerChannel::Impl {
  explicit Impl(int fd) : socket(io), beat_timer(io) {
    boost::system::error_code error;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    socket.assign(asio::local::stream_protocol(), fd, error);
    if (error) Leave(absl::StrCat("--socket-fd ", fd, " is not a socket: ", error.message()));
    Read();
    Beat();
    thread = std::thread([this] { io.run(); });
  }

  ~Impl() {
    io.stop();
    thread.join();
  }

  void Read() {
    socket.async_read_some(asio::buffer(input), [this](boost::system::error_code error, size_t bytes) {
      if (error) Leave(absl::StrCat("the worker is gone (", error.message(), ")"));
      decoder.Append(absl::string_view(input.data(), bytes));
      while (true) {
        v1::ToTrainer message;
        const absl::StatusOr<bool> more = decoder.Next(&message);
        if (!more.ok()) Leave(std::string(more.status().message()));
        if (!*more) break;
        Take(std::move(message));
      }
      Read();
    });
  }

  void Take(v1::ToTrainer message) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (message.has_start()) start = std::move(*message.mutable_start());
      if (message.has_rendezvous()) rendezvous = std::move(*message.mutable_rendezvous());
      if (message.has_stop()) stop = true;
    }
    changed.notify_all();
  }

  void Beat() {
    beat_timer.expires_after(kBeat);
    beat_timer.async_wait([this](boost::system::error_code error) {
      if (error) return;
      v1::FromTrainer message;
      message.mutable_beat();
      Queue(worker::EncodeTrainerFrame(message));
      Beat();
    });
  }

  // Any thread.
  void Queue(std::string frame) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      ++unwritten;
    }
    asio::post(io, [this, frame = std::move(frame)]() mutable {
      output.push_back(std::move(frame));
      if (output.size() == 1) Write();
    });
  }

  void Write() {
    asio::async_write(socket, asio::buffer(output.front()), [this](boost::system::error_code error, size_t) {
      if (error) Leave(absl::StrCat("the worker is gone (", error.message(), ")"));
      output.pop_front();
      {
        const std::lock_guard<std::mutex> lock(mutex);
        --unwritten;
      }
      changed.notify_all();
      if (!output.empty()) Write();
    });
  }

  template <typename T>
  absl::StatusOr<T> WaitFor(std::optional<T>& slot, const char* what, std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex);
    if (!changed.wait_for(lock, timeout, [&] { return slot.has_value() || stop; })) {
      return absl::DeadlineExceededError(absl::StrCat("no ", what, " from the worker within ", timeout.count(), " ms"));
    }
    if (stop) return absl::CancelledError("the worker asked to stop");
    return *slot;
  }

  // I/O thread only, once it runs.
  asio::io_context io;
  asio::local::stream_protocol::socket socket;
  asio::steady_timer beat_timer;
  std::array<char, 64 << 10> input;
  worker::TrainerFrameDecoder decoder;
  std::deque<std::string> output;  // frames; the first is being written

  std::mutex mutex;
  std::condition_variable changed;
  std::optional<v1::StartTrainer> start ABSL_GUARDED_BY(mutex);
  std::optional<v1::Rendezvous> rendezvous ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;
  int unwritten ABSL_GUARDED_BY(mutex) = 0;

  std::thread thread;
};

WorkerChannel::WorkerChannel(int fd) : impl_(std::make_unique<Impl>(fd)) {}
WorkerChannel::~WorkerChannel() = default;

void WorkerChannel::Send(const v1::FromTrainer& message) {
  impl_->Queue(worker::EncodeTrainerFrame(message));
}

absl::StatusOr<v1::StartTrainer> WorkerChannel::WaitForStart(std::chrono::milliseconds timeout) {
  return impl_->WaitFor(impl_->start, "start message", timeout);
}

absl::StatusOr<v1::Rendezvous> WorkerChannel::WaitForRendezvous(std::chrono::milliseconds timeout) {
  return impl_->WaitFor(impl_->rendezvous, "rendezvous address", timeout);
}

bool WorkerChannel::stop_requested() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->stop;
}

void WorkerChannel::Flush(std::chrono::milliseconds timeout) {
  std::unique_lock<std::mutex> lock(impl_->mutex);
  impl_->changed.wait_for(lock, timeout, [this] { return impl_->unwritten == 0; });
}

}  // namespace bitstair::trainer
