#include "core/training/mutual_step.h"

#include <cmath>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/step_clock.h"
#include "core/training/divergence.h"

namespace bitstair::core {
namespace {

constexpr const char* kTeacher = "teacher";

std::string StudentName(size_t index) {
  return absl::StrCat("student ", index + 1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MutualStep>> MutualStep::Create(std::vector<PairMember> students, PairMember teacher, const DistillationOptions& options) {
  if (students.empty()) return absl::InvalidArgumentError("a distillation needs a student");
  const NetworkConfig& full = teacher.network->config();
  for (size_t i = 0; i < students.size(); ++i) {
    if (absl::Status status = CheckAlike(students[i].network->config(), StudentName(i), full, kTeacher, "a distillation"); !status.ok()) return status;
  }
  if (full.weight_bits != 32 || full.activation_bits != 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("the teacher of a distillation has ", full.weight_bits, "-bit weights and ", full.activation_bits, "-bit activations, not 32"));
  }
  if (!(options.temperature > 0 && std::isfinite(options.temperature))) {
    return absl::InvalidArgumentError(absl::StrCat("temperature of a distillation is ", options.temperature, ", not a number above 0"));
  }
  for (const double weight : {options.student_weight, options.teacher_weight}) {
    if (!(weight >= 0 && std::isfinite(weight))) {
      return absl::InvalidArgumentError(absl::StrCat("a weight of a distillation is ", weight, ", not a number of at least 0"));
    }
  }
  return std::unique_ptr<MutualStep>(new MutualStep(std::move(students), teacher, options));
}

MutualStep::MutualStep(std::vector<PairMember> students, PairMember teacher, const DistillationOptions& options)
    : students_(std::move(students)), teacher_(teacher), options_(options) {}

absl::StatusOr<MutualStepResult> MutualStep::Run(const Batch& batch, double student_learning_rate, double teacher_learning_rate) {
  absl::StatusOr<MutualStepResult> result = ComputeGradients(batch);
  if (result.ok()) Update(student_learning_rate, teacher_learning_rate);
  return result;
}

absl::StatusOr<MutualStepResult> MutualStep::ComputeGradients(const Batch& batch, bool quantize) {
  std::vector<PairMember> members{teacher_};
  members.insert(members.end(), students_.begin(), students_.end());
  for (const PairMember& member : members) member.gradients->PrepareForward();
  SharedImages images(batch.images.to(teacher_.network->config().dtype));

  std::vector<NetPass> passes;
  for (size_t i = 0; i < members.size(); ++i) {
    absl::StatusOr<NetPass> pass = RunForward(*members[i].network, i == 0 ? kTeacher : StudentName(i - 1), images, batch, quantize);
    if (!pass.ok()) return pass.status();
    passes.push_back(*std::move(pass));
  }
  MutualStepResult result;
  result.teacher = passes[0].result;
  const double t2 = options_.temperature * options_.temperature, count = static_cast<double>(students_.size());
  std::vector<at::Tensor> losses{passes[0].loss};
  for (size_t i = 1; i < passes.size(); ++i) {
    const at::Tensor of_student = DivergenceFrom(passes[0].logits, passes[i].logits, options_.temperature);
    const at::Tensor of_teacher = DivergenceFrom(passes[i].logits, passes[0].logits, options_.temperature);
    result.divergence += of_student.item<double>() / count;
    losses.push_back(passes[i].loss + options_.student_weight * t2 * of_student);
    losses[0] = losses[0] + options_.teacher_weight * t2 / count * of_teacher;
    result.students.push_back(passes[i].result);
  }
  passes.clear();

  for (size_t i = 0; i < members.size(); ++i) members[i].gradients->PrepareBackward(losses[i]);
  torch::autograd::backward(std::exchange(losses, {}));
  const StepTimer timer(StepPart::kAllReduce);
  for (const PairMember& member : members) member.gradients->Finish();
  return result;
}

void MutualStep::Update(double student_learning_rate, double teacher_learning_rate) {
  const StepTimer timer(StepPart::kOptimiser);
  teacher_.sgd->Step(teacher_learning_rate);
  for (const PairMember& student : students_) student.sgd->Step(student_learning_rate);
}

}  // namespace bitstair::core
