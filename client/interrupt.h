// Ctrl-C, SIGTERM and SIGHUP as something that a program can wait for.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/child_process.h"

namespace bitstair::client {

// Takes SIGINT, SIGTERM and SIGHUP out of their default course for the whole process: make it before the first thread, once per process. They are blocked from
// then on, also after the object is gone.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // How often a signal has come.
  int count() const { return count_; }
  // Becomes readable with the first signal and stays so.
  int fd() const { return first_.get(); }
  // Becomes readable with the second.
  int second_fd() const { return second_.get(); }
  // Called once, on a thread of its own, with the first signal; at once if that has come. Null: nothing any more, and no call is still under way on return.
  void OnFirst(std::function<void()> callback);

 private:
  void Run();

  UniqueFd signals_;
  UniqueFd stop_;
  UniqueFd first_;
  UniqueFd second_;
  std::atomic<int> count_ = 0;
  absl::Mutex mutex_;
  std::function<void()> callback_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// For commands that only read: a signal ends the process with status 130 after writing `last_words` (which must live on) to stderr.
void ExitOnInterrupt(const char* last_words);

}  // namespace bitstair::client
