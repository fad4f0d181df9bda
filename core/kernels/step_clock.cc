#include "core/kernels/step_clock.h"

#include <atomic>
#include <utility>

namespace bitstair::core {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> on{false};

// The step's own thread: the one that started the clock.
thread_local bool of_step = false;

// Written by the step's thread only.
struct Counted {
  StepTimes times;
  StepPart now = StepPart::kOther;
  Clock::time_point since;
};
Counted counted;
std::atomic<int64_t> elementwise_bytes{0};

// The time since the last change goes to the part that was on; `next` is on from here.
StepPart Change(StepPart next) {
  const Clock::time_point at = Clock::now();
  counted.times.seconds[static_cast<size_t>(counted.now)] += std::chrono::duration<double>(at - counted.since).count();
  counted.since = at;
  return std::exchange(counted.now, next);
}

}  // namespace

const char* NameOf(StepPart part) {
  static constexpr std::array<const char*, kStepParts> names{"conv_forward", "conv_backward", "elementwise", "weights",
                                                             "optimiser",    "all_reduce",    "data",        "other"};
  return names[static_cast<size_t>(part)];
}

void StartStepClock() {
  counted = {};
  elementwise_bytes = 0;
  of_step = true;
  counted.since = Clock::now();
  on = true;
}

StepTimes StopStepClock() {
  Change(StepPart::kOther);
  on = false;
  of_step = false;
  counted.times.elementwise_bytes = elementwise_bytes;
  return counted.times;
}

StepTimer::StepTimer(StepPart part) : before_(part), on_(on.load(std::memory_order_relaxed) && of_step) {
  if (on_) before_ = Change(part);
}

StepTimer::~StepTimer() {
  if (on_ && on.load(std::memory_order_relaxed)) Change(before_);
}

void CountElementwiseBytes(int64_t bytes) {
  if (on.load(std::memory_order_relaxed)) elementwise_bytes.fetch_add(bytes, std::memory_order_relaxed);
}

}  // namespace bitstair::core
