// How long a process waited for a processor.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>

namespace bitstair::worker {

// Not thread-safe.
class CpuWait {
 public:
  explicit CpuWait(pid_t pid) : pid_(pid) {}

  // Seconds in which threads of the process were ready to run and did not, in sum over the threads (Linux, /proc/PID/task/*/schedstat and stat), as far as no
  // earlier call has told them; all calls together never more than what has passed in all. 0 where the kernel does not say, or the process is gone. passed:
  // seconds since the last call. The kernel adds a wait to its sum when the wait is over, so a thread that is ready now counts as having waited for as long as
  // it has not run since the last call.
  double Since(double passed);

 private:
  struct Thread {
    uint64_t ran = 0, waited = 0;  // nanoseconds
    double ahead = 0;              // seconds that were counted before the kernel did
  };

  const pid_t pid_;
  double unexcused_ = 0;                   // what has passed and was not told
  std::map<std::string, Thread> threads_;  // by number
};

}  // namespace bitstair::worker
