// Trains guided pairs with the core on fixed inputs and writes what it computed, for compare_guided.py. usage: guided_dump FOLDER RUN
//   RUN.safetensors   images, labels, learning_rates [steps, 2]; lambda; of the core: hint, and for NET in low, full: NET/initial/NAME, NET/loss,
//                     NET/grad/NAME (step 0, gradient of each leaf), NET/final/NAME, NET/momentum/NAME; hint points are in compare_guided.py, too
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/training/guided_step.h"
#include "tests/reference/trained_net.h"

namespace bitstair::core {
namespace {

constexpr int64_t kImages = 8;

struct Run {
  const char* name;
  const char* network;
  int channels, side;
  int weight_bits, activation_bits;
  ActivationFunction full_activation;
  double lambda;
  double learning_rate;  // of the low-precision net
  std::vector<std::string> hint_points;
  int steps;
  bool first_last = false;
};

// Hint points by default and by name, quantised and not, with a teacher that clips and one that does not.
const std::vector<Run>& Runs() {
  static const std::vector<Run> runs = {
      {"guided_resnet20_w4a4", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, 10, 0.05, {}, 20},
      {"guided_resnet20_w2a32", "resnet20", 3, 12, 2, 32, ActivationFunction::kClip, 30, 0.02, {"layer1.1", "layer3"}, 20},
      {"guided_resnet20_w2a2_first_last", "resnet20", 3, 12, 2, 2, ActivationFunction::kClip, 10, 0.05, {}, 20, true},
      {"guided_resnet20_w2a2_logits", "resnet20", 3, 12, 2, 2, ActivationFunction::kClip, 1, 0.05, {"logits", "layer3"}, 20},
      {"guided_convnet28_w4a4", "convnet28", 1, 28, 4, 4, ActivationFunction::kRelu, 30, 0.05, {"conv1", "conv2", "fc1"}, 20},
  };
  return runs;
}

absl::StatusOr<Tensors> Train(const Run& run) {
  NetworkConfig config = ConfigOf(run.network, run.channels, run.side, run.weight_bits, run.activation_bits);
  config.quantize_first_last = run.first_last;
  config.pixels = {-2.5, 2};
  Tensors out;
  absl::StatusOr<TrainedNet> low = MakeNet(config, "low", out);
  if (!low.ok()) return low.status();
  config.weight_bits = config.activation_bits = 32;
  config.activation = run.full_activation;
  config.seed = 2;
  absl::StatusOr<TrainedNet> full = MakeNet(config, "full", out);
  if (!full.ok()) return full.status();

  out["images"] = at::randn({run.steps, kImages, run.channels, run.side, run.side});
  out["labels"] = at::randint(10, {run.steps, kImages}, at::kLong);
  out["learning_rates"] = at::linspace(1, 0.2, run.steps, at::kDouble).unsqueeze(1) * at::tensor({run.learning_rate, 0.2 * run.learning_rate}, at::kDouble);
  out["lambda"] = at::full({1}, run.lambda, at::kDouble);
  for (const char* name : {"hint", "low/loss", "full/loss"}) out[name] = at::zeros({run.steps}, at::kDouble);
  const auto step = GuidedStep::Create(low->member(), full->member(), {.lambda = run.lambda, .hint_points = run.hint_points, .temperature = 3});
  if (!step.ok()) return step.status();
  for (int i = 0; i < run.steps; ++i) {
    const at::Tensor rates = out["learning_rates"][i];
    const absl::StatusOr<GuidedStepResult> result = (*step)->Run({out["images"][i], out["labels"][i], i}, rates[0].item<double>(), rates[1].item<double>());
    if (!result.ok()) return result.status();
    out["hint"][i] = result->hint;
    out["low/loss"][i] = result->low.loss;
    out["full/loss"][i] = result->full.loss;
  }
  for (const TrainedNet* net : {&*low, &*full}) AddFinal(*net, out);
  return out;
}

}  // namespace
}  // namespace bitstair::core

int main(int argc, char** argv) {
  return bitstair::core::DumpRun(argc, argv, bitstair::core::Runs(), bitstair::core::Train);
}
