// How long a process waited for a processor.
#pragma once

#include <sys/types.h>

#include <optional>

namespace bitstair::worker {

// Seconds that the threads of a process which live now were ready to run and did not, in sum over the threads (Linux, /proc/PID/task/*/schedstat). Empty where
// the kernel does not say, or the process is gone.
std::optional<double> CpuWaitSeconds(pid_t pid);

}  // namespace bitstair::worker
