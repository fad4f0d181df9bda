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

  // Seconds since the last call, at most `passed`, in which threads of the process were ready to run and did not, in sum over the threads (Linux,
  // /proc/PID/task/*/schedstat and stat). 0 where the kernel does not say, or the process is gone. The kernel adds a wait to its sum when the wait is over; one
  // that goes on is known by a thread that is ready and has not run since the last call. The first call counts from the start of the threads.
  double Since(double passed);

 private:
  struct Thread {
    uint64_t ran = 0, waited = 0;  // nanoseconds
    double ahead = 0;              // seconds that were counted before the kernel did
  };

  const pid_t pid_;
  std::map<std::string, Thread> threads_;  // by number
};

}  // namespace bitstair::worker
