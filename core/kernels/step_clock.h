// Where the time of a training step goes. Off unless asked for, and then process-wide: for benchmarks and for the trainer's metrics.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace bitstair::core {

enum class StepPart : uint8_t { kConvForward, kConvBackward, kElementwise, kWeights, kOptimiser, kAllReduce, kData, kOther };
inline constexpr int kStepParts = 8;
const char* NameOf(StepPart part);  // "conv_forward"

// Seconds by part, and the bytes that the element-wise kernels read and wrote (each array counted once per pass).
struct StepTimes {
  std::array<double, kStepParts> seconds{};
  int64_t elementwise_bytes = 0;
};

// Starts counting from zero. Not to be called while a step runs.
void StartStepClock();
// Stops, and gives what was counted: everything outside of a part is kOther.
StepTimes StopStepClock();

// The time from construction to destruction belongs to `part`, less what a timer inside of it takes. Counts on the thread that started the clock and nowhere
// else: what other threads do beside it takes the same time. Costs one load when the clock is off.
class StepTimer {
 public:
  explicit StepTimer(StepPart part);
  ~StepTimer();
  StepTimer(const StepTimer&) = delete;
  StepTimer& operator=(const StepTimer&) = delete;

 private:
  StepPart before_;
  bool on_;
};

// On any thread.
void CountElementwiseBytes(int64_t bytes);

}  // namespace bitstair::core
