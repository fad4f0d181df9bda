#include "worker/cpu_wait.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace bitstair::worker {

std::optional<double> CpuWaitSeconds(pid_t pid) {
  std::error_code error;
  std::optional<double> sum;
  std::filesystem::directory_iterator thread(absl::StrCat("/proc/", pid, "/task"), error);
  for (; !error && thread != std::filesystem::directory_iterator(); thread.increment(error)) {
    uint64_t ran = 0, waited = 0;  // nanoseconds
    if (std::ifstream(thread->path() / "schedstat") >> ran >> waited) sum = sum.value_or(0) + 1e-9 * static_cast<double>(waited);
  }
  return sum;
}

}  // namespace bitstair::worker
