// Trains nets with the methods of the paper's journal version on fixed inputs and writes what the core computed, for compare_journal.py.
// usage: journal_dump FOLDER RUN
//   RUN.safetensors   images, labels, learning_rates [steps]; mutual: options {T, b, g}, divergence; stochastic: shares [steps]; of the core, for each NET:
//                     NET/initial/NAME, NET/loss, NET/grad/NAME (step 0, gradient of each leaf), NET/final/NAME, NET/momentum/NAME
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/training/mutual_step.h"
#include "core/training/stochastic_precision.h"
#include "core/training/train_step.h"
#include "tests/reference/trained_net.h"

namespace bitstair::core {
namespace {

constexpr int64_t kImages = 8;
constexpr uint32_t kEpochWord = (4U << 26) + (4U << 20) + 1;
constexpr double kTeacherRate = 0.2;  // times the students'

struct Run {
  const char* name;
  const char* network;
  int channels, side;
  std::vector<int> widths;  // of the nets with few bits
  double learning_rate;
  bool mutual;
  DistillationOptions options = {};
  int steps = 20;
  const char* quantizer = "dorefa";
  ShortcutValues shortcut_values = ShortcutValues::kCodes;
};

const std::vector<Run>& Runs() {
  static const std::vector<Run> runs = {
      {"mutual_resnet20_w4", "resnet20", 3, 12, {4}, 0.05, true},
      {"mutual_convnet28_w4_w2", "convnet28", 1, 28, {4, 2}, 0.05, true, {.temperature = 2, .student_weight = 0.7, .teacher_weight = 0.3}},
      {"mutual_resnet20_w4_lsq", "resnet20", 3, 12, {4}, 0.05, true, {}, 20, "lsq"},
      {"mutual_resnet20_w2_lsq_float_shortcuts", "resnet20", 3, 12, {2}, 0.05, true, {.temperature = 4}, 20, "lsq", ShortcutValues::kFloat},
      {"mutual_resnet20_b_w2_pact", "resnet20_b", 3, 12, {2}, 0.05, true, {.temperature = 4, .student_weight = 1}, 20, "pact"},
      {"stochastic_resnet20_w4", "resnet20", 3, 12, {4}, 0.02, false},
      {"stochastic_resnet20_b_w3", "resnet20_b", 3, 12, {3}, 0.02, false},
      {"stochastic_preresnet20_w2", "preresnet20", 3, 12, {2}, 0.02, false},
      // Max pooling of unrounded activations: with few bits many of a window are equal.
      {"stochastic_convnet28_w2", "convnet28", 1, 28, {2}, 0.02, false},
      {"stochastic_convnet28_w4", "convnet28", 1, 28, {4}, 0.02, false},
      {"stochastic_alexnet_cifar_w2", "alexnet_cifar", 3, 32, {2}, 0.02, false, {}, 10},
  };
  return runs;
}

absl::Status TrainMutually(const Run& run, const std::vector<TrainedNet>& nets, Tensors& out) {
  std::vector<PairMember> students;
  for (size_t i = 1; i < nets.size(); ++i) students.push_back(nets[i].member());
  const auto step = MutualStep::Create(std::move(students), nets[0].member(), run.options);
  if (!step.ok()) return step.status();
  out["options"] = at::tensor({run.options.temperature, run.options.student_weight, run.options.teacher_weight}, at::kDouble);
  out["divergence"] = at::zeros({run.steps}, at::kDouble);
  for (int i = 0; i < run.steps; ++i) {
    const double rate = out["learning_rates"][i].item<double>();
    const absl::StatusOr<MutualStepResult> result = (*step)->Run({out["images"][i], out["labels"][i], i}, rate, kTeacherRate * rate);
    if (!result.ok()) return result.status();
    out["divergence"][i] = result->divergence;
    out[nets[0].prefix + "loss"][i] = result->teacher.loss;
    for (size_t k = 1; k < nets.size(); ++k) out[nets[k].prefix + "loss"][i] = result->students[k - 1].loss;
  }
  return absl::OkStatus();
}

absl::Status TrainStochastically(const Run& run, const TrainedNet& net, Tensors& out) {
  TrainStep step(net.network.get(), net.sgd.get(), net.gradients.get());
  out["shares"] = at::zeros({run.steps}, at::kDouble);
  for (int i = 0; i < run.steps; ++i) {
    const double share = QuantizedShareAt({}, i, run.steps);
    out["shares"][i] = share;
    net.network->set_rounded_units(ChooseRoundedUnits(kSeed, kEpochWord, i, net.network->units().size(), share));
    const absl::StatusOr<StepResult> result = step.Run({out["images"][i], out["labels"][i], i}, out["learning_rates"][i].item<double>());
    if (!result.ok()) return result.status();
    out[net.prefix + "loss"][i] = result->loss;
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensors> Train(const Run& run) {
  Tensors out;
  std::vector<TrainedNet> nets;
  std::vector<int> widths = run.widths;
  if (run.mutual) widths.insert(widths.begin(), 32);
  for (size_t i = 0; i < widths.size(); ++i) {
    NetworkConfig config = ConfigOf(run.network, run.channels, run.side, widths[i], widths[i]);
    config.seed = kSeed + i;
    config.quantizer = run.quantizer;
    config.shortcut_values = run.shortcut_values;
    absl::StatusOr<TrainedNet> net = MakeNet(config, absl::StrCat("w", widths[i]), out);
    if (!net.ok()) return net.status();
    nets.push_back(*std::move(net));
    out[nets.back().prefix + "loss"] = at::zeros({run.steps}, at::kDouble);
  }
  out["images"] = at::randn({run.steps, kImages, run.channels, run.side, run.side});
  out["labels"] = at::randint(10, {run.steps, kImages}, at::kLong);
  out["learning_rates"] = run.learning_rate * at::linspace(1, 0.2, run.steps, at::kDouble);
  const absl::Status status = run.mutual ? TrainMutually(run, nets, out) : TrainStochastically(run, nets[0], out);
  if (!status.ok()) return status;
  for (const TrainedNet& net : nets) AddFinal(net, out);
  return out;
}

}  // namespace
}  // namespace bitstair::core

int main(int argc, char** argv) {
  return bitstair::core::DumpRun(argc, argv, bitstair::core::Runs(), bitstair::core::Train);
}
