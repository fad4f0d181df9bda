#include "server/phase_spec.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {

constexpr int kMaxStepEpochs = 1000;
constexpr const char* kOneStage = "is for quantised stages: this phase is one stage";

class PhaseResolver {
 public:
  PhaseResolver(const std::string& name, v1::PhaseSpec* phase, std::vector<FieldViolation>* faults) : name_(name), phase_(*phase), faults_(*faults) {}

  void Run(double default_learning_rate) {
    StageEpochs();
    if (!phase_.has_epochs()) {
      Fault("epochs", "is required");
    } else if (phase_.epochs() < 1 || phase_.epochs() > kMaxEpochs) {
      Fault("epochs", absl::StrCat("is ", phase_.epochs(), "; must be 1 to ", kMaxEpochs));
    }
    if (!phase_.has_learning_rate()) phase_.set_learning_rate(default_learning_rate);
    LearningRate("learning_rate", phase_.learning_rate());
    for (int i = 0; i < phase_.stage_learning_rates_size() && i < kMaxStepEpochs; ++i) {
      LearningRate(absl::StrCat("stage_learning_rates[", i, "]"), phase_.stage_learning_rates(i));
    }
    if (!phase_.stage_learning_rates().empty() && name_ != "quantized") Fault("stage_learning_rates", kOneStage);
    if (phase_.learning_rate_schedule() == v1::LEARNING_RATE_SCHEDULE_UNSPECIFIED) {
      phase_.set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_COSINE);
    } else if (!v1::LearningRateSchedule_IsValid(phase_.learning_rate_schedule())) {
      Fault("learning_rate_schedule", absl::StrCat("has no value ", static_cast<int>(phase_.learning_rate_schedule())));
    }
    Steps();
  }

 private:
  void Fault(const std::string& field, std::string description) { faults_.push_back({absl::StrCat(name_, ".", field), std::move(description)}); }

  void LearningRate(const std::string& field, double rate) {
    if (!(rate > 0 && rate <= 100)) Fault(field, absl::StrCat("is ", rate, "; must be above 0 and at most 100"));
  }

  void Steps() {
    if (phase_.learning_rate_schedule() != v1::LEARNING_RATE_SCHEDULE_STEP) {
      if (phase_.step_epochs_size() > 0) Fault("step_epochs", "needs learning_rate_schedule: step");
      if (phase_.has_step_gamma()) Fault("step_gamma", "needs learning_rate_schedule: step");
      return;
    }
    if (!phase_.has_step_gamma()) phase_.set_step_gamma(0.1);
    if (!(phase_.step_gamma() > 0 && phase_.step_gamma() <= 1))
      Fault("step_gamma", absl::StrCat("is ", phase_.step_gamma(), "; must be above 0 and at most 1"));
    if (phase_.step_epochs().empty()) Fault("step_epochs", "is required with learning_rate_schedule: step");
    if (phase_.step_epochs_size() > kMaxStepEpochs) Fault("step_epochs", absl::StrCat("has more than ", kMaxStepEpochs, " entries"));
    for (int i = 0; i < phase_.step_epochs_size() && i < kMaxStepEpochs; ++i) {
      const int epoch = phase_.step_epochs(i);
      const std::string field = absl::StrCat("step_epochs[", i, "]");
      if (epoch < 1 || epoch >= phase_.epochs()) {
        Fault(field, absl::StrCat("is ", epoch, "; must be at least 1 and below ", name_, ".epochs"));
      } else if (i > 0 && epoch <= phase_.step_epochs(i - 1)) {
        Fault(field, absl::StrCat("is ", epoch, " after ", phase_.step_epochs(i - 1), "; must go up"));
      }
    }
  }

  void StageEpochs() {
    if (phase_.stage_epochs().empty()) return;
    if (name_ != "quantized") return Fault("stage_epochs", kOneStage);
    int64_t sum = 0;
    for (int i = 0; i < phase_.stage_epochs_size(); ++i) {
      const int epochs = phase_.stage_epochs(i);
      if (epochs < 1 || epochs > kMaxEpochs) return Fault(absl::StrCat("stage_epochs[", i, "]"), absl::StrCat("is ", epochs, "; must be 1 to ", kMaxEpochs));
      sum += epochs;
    }
    if (!phase_.has_epochs()) {
      phase_.set_epochs(static_cast<int32_t>(std::min<int64_t>(sum, std::numeric_limits<int32_t>::max())));
    } else if (phase_.epochs() != sum) {
      Fault("stage_epochs", absl::StrCat("adds up to ", sum, ", but ", name_, ".epochs is ", phase_.epochs()));
    }
  }

  const std::string& name_;
  v1::PhaseSpec& phase_;
  std::vector<FieldViolation>& faults_;
};

}  // namespace

void ResolvePhase(const std::string& name, double default_learning_rate, v1::PhaseSpec* phase, std::vector<FieldViolation>* faults) {
  PhaseResolver(name, phase, faults).Run(default_learning_rate);
}

}  // namespace bitstair::server
