#include "worker/trainer/progress_report.h"

#include <algorithm>

namespace bitstair::trainer {
namespace {

constexpr size_t kRecentSteps = 101;
constexpr double kMinStepDeadline = 10;
constexpr double kStepDeadlineFactor = 10;
constexpr double kEvaluationChunkDeadline = 60;
constexpr std::chrono::seconds kPhaseInterval{1};
constexpr std::chrono::milliseconds kProgressInterval{250};
// Until one evaluation was timed: it runs forward only, at about this multiple of the training's speed.
constexpr double kEvaluationSpeed = 3;

double Seconds(ProgressReport::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void ProgressReport::Phase(const std::string& phase, double deadline_seconds) {
  phase_ = phase;
  phase_sent_ = Clock::now();
  v1::FromTrainer message;
  message.mutable_phase()->set_phase(phase);
  message.mutable_phase()->set_deadline_seconds(deadline_seconds);
  channel_.Send(message);
}

void ProgressReport::SetStage(int epochs, int64_t steps_per_epoch, int batch_size, int64_t test_images) {
  last_.set_epochs(epochs);
  last_.set_steps_per_epoch(steps_per_epoch);
  batch_size_ = batch_size;
  test_images_ = test_images;
}

void ProgressReport::BeginEpoch(int epoch, int64_t step) {
  last_.set_epoch(epoch + 1);
  last_.set_step(step);
  steps_here_ = 0;
  training_seconds_ = 0;
}

void ProgressReport::BeginStep() {
  step_begin_ = Clock::now();
  // The deadline counts from its message, so it need not come with every step.
  if (phase_ != "train" || step_begin_ - phase_sent_ >= kPhaseInterval) Phase("train", StepDeadlineSeconds() + Seconds(kPhaseInterval));
}

void ProgressReport::EndStep() {
  const double seconds = Seconds(Clock::now() - step_begin_);
  training_seconds_ += seconds;
  ++steps_here_;
  last_.set_step(last_.step() + 1);
  if (recent_steps_.size() < kRecentSteps) {
    recent_steps_.push_back(seconds);
  } else {
    recent_steps_[next_recent_++ % kRecentSteps] = seconds;
  }
}

void ProgressReport::Evaluating() {
  if (phase_ != "evaluate" || Clock::now() - phase_sent_ >= kPhaseInterval) Phase("evaluate", kEvaluationChunkDeadline);
}

double ProgressReport::StepDeadlineSeconds() const {
  // The first step also makes LibTorch's kernels.
  if (recent_steps_.empty()) return 6 * kMinStepDeadline;
  std::vector<double> sorted = recent_steps_;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(sorted.size() / 2), sorted.end());
  return std::max(kMinStepDeadline, kStepDeadlineFactor * sorted[sorted.size() / 2]);
}

double ProgressReport::images_per_second() const {
  return training_seconds_ > 0 ? static_cast<double>(steps_here_) * batch_size_ / training_seconds_ : 0;
}

double ProgressReport::SecondsLeft() const {
  const double rate = images_per_second();
  if (rate <= 0) return -1;
  const int64_t epochs_left = last_.epochs() - last_.epoch();
  const int64_t steps_left = last_.steps_per_epoch() - last_.step() + epochs_left * last_.steps_per_epoch();
  const double evaluation = evaluation_seconds_ >= 0 ? evaluation_seconds_ : static_cast<double>(test_images_) / (kEvaluationSpeed * rate);
  return static_cast<double>(steps_left) * batch_size_ / rate + static_cast<double>(epochs_left + 1) * evaluation;
}

void ProgressReport::Progress(double mean_loss, double top1, const v1::TeacherResult* teacher, int64_t all_reduce_bytes, bool now) {
  if (!is_rank0_ || (!now && Clock::now() - progress_sent_ < kProgressInterval)) return;
  progress_sent_ = Clock::now();
  last_.set_loss(mean_loss);
  last_.set_train_top1(top1);
  if (teacher != nullptr) *last_.mutable_teacher() = *teacher;
  last_.set_images_per_second(images_per_second());
  last_.set_seconds_left(SecondsLeft());
  last_.set_phase(phase_);
  last_.set_all_reduce_bytes(all_reduce_bytes);
  v1::FromTrainer message;
  *message.mutable_progress() = last_;
  channel_.Send(message);
}

}  // namespace bitstair::trainer
