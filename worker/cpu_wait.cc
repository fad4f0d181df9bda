#include "worker/cpu_wait.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace bitstair::worker {
namespace {

// Whether a thread runs or is ready to; its name, which stands before the state in parentheses, may have any characters.
bool IsReady(const std::filesystem::path& thread) {
  std::ifstream file(thread / "stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t end_of_name = text.rfind(") ");
  return end_of_name != std::string::npos && text.size() > end_of_name + 2 && text[end_of_name + 2] == 'R';
}

}  // namespace

double CpuWait::Since(double passed) {
  double sum = 0;
  std::map<std::string, Thread> before = std::exchange(threads_, {});
  std::error_code error;
  std::filesystem::directory_iterator entry(absl::StrCat("/proc/", pid_, "/task"), error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const bool ready = IsReady(entry->path());
    uint64_t ran = 0, waited = 0;
    if (!(std::ifstream(entry->path() / "schedstat") >> ran >> waited)) continue;
    const auto known = before.find(entry->path().filename().string());
    Thread thread = known != before.end() ? known->second : Thread{};
    const double told = 1e-9 * static_cast<double>(waited - std::min(waited, thread.waited));
    double here = std::max(0.0, told - thread.ahead);
    if (ready && known != before.end()) here = std::max(here, passed - 1e-9 * static_cast<double>(ran - std::min(ran, thread.ran)));
    thread.ahead = std::max(0.0, thread.ahead + here - told);
    sum += here;
    thread.ran = ran;
    thread.waited = waited;
    threads_.emplace(entry->path().filename().string(), thread);
  }
  unexcused_ += passed;
  const double excused = std::min(sum, unexcused_);
  unexcused_ -= excused;
  return excused;
}

}  // namespace bitstair::worker
