#include "client/interrupt.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace bitstair::client {
namespace {

sigset_t Signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  struct sigaction hangup {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);  // not under nohup
  return set;
}

void Raise(const UniqueFd& event) {
  const uint64_t one = 1;
  while (write(event.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

std::atomic<const char*> interrupted_words{nullptr};

void ExitInterrupted(int) {
  const char* words = interrupted_words.load();
  if (words != nullptr && write(STDERR_FILENO, words, strlen(words)) < 0) _exit(130);
  _exit(130);
}

}  // namespace

Interrupt::Interrupt() : stop_(eventfd(0, EFD_CLOEXEC)), first_(eventfd(0, EFD_CLOEXEC)), second_(eventfd(0, EFD_CLOEXEC)) {
  const sigset_t set = Signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC));
  thread_ = std::thread([this] { Run(); });
}

Interrupt::~Interrupt() {
  Raise(stop_);
  thread_.join();
}

void Interrupt::Run() {
  while (true) {
    pollfd watched[2] = {{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(watched, 2, -1) < 0 && errno == EINTR) continue;
    if (watched[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signals_.get(), &info, sizeof(info)) != sizeof(info)) continue;
    const int count = ++count_;
    Raise(count == 1 ? first_ : second_);
    if (count > 1) continue;
    const absl::MutexLock lock(&mutex_);
    if (callback_) std::exchange(callback_, nullptr)();
  }
}

void Interrupt::OnFirst(std::function<void()> callback) {
  const absl::MutexLock lock(&mutex_);
  if (callback && count_ > 0) {
    callback();
    return;
  }
  callback_ = std::move(callback);
}

void ExitOnInterrupt(const char* last_words) {
  interrupted_words = last_words;
  struct sigaction action {};
  action.sa_handler = ExitInterrupted;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace bitstair::client
