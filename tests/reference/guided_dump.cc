// Trains guided pairs with the core on fixed inputs and writes what it computed, for compare_guided.py. usage: guided_dump FOLDER RUN
//   RUN.safetensors   images, labels, learning_rates [steps, 2]; lambda; of the core: hint, and for NET in low, full: NET/initial/NAME, NET/loss,
//                     NET/grad/NAME (step 0, gradient of each leaf), NET/final/NAME, NET/momentum/NAME; hint points are in compare_guided.py, too
#include <cstdio>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "absl/strings/str_cat.h"
#include "core/nn/network_state.h"
#include "core/training/guided_step.h"
#include "tests/reference/dump.h"

namespace bitstair::core {
namespace {

constexpr int64_t kImages = 8;
constexpr uint64_t kSeed = 1;

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
};

// Hint points by default and by name, quantised and not, with a teacher that clips and one that does not.
const std::vector<Run>& Runs() {
  static const std::vector<Run> runs = {
      {"guided_resnet20_w4a4", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, 10, 0.05, {}, 20},
      {"guided_resnet20_w2a32", "resnet20", 3, 12, 2, 32, ActivationFunction::kClip, 30, 0.02, {"layer1.1", "layer3"}, 20},
      {"guided_convnet28_w4a4", "convnet28", 1, 28, 4, 4, ActivationFunction::kRelu, 30, 0.05, {"conv1", "conv2", "fc1"}, 20},
  };
  return runs;
}

struct Trained {
  std::string prefix;
  std::unique_ptr<Network> network;
  std::unique_ptr<Sgd> sgd;
  std::unique_ptr<FirstGradients> gradients;
};

absl::StatusOr<Trained> Make(const NetworkConfig& config, const std::string& net, Tensors& out) {
  absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
  if (!network.ok()) return network.status();
  Trained made{net + "/", *std::move(network), nullptr, nullptr};
  // Most activations inside of the clip, as calibration leaves them. With gamma 1 a deep net of clips is chaotic: a last bit reaches the losses in ten steps.
  for (const Parameter& p : made.network->parameters()) {
    if (p.batch_norm) p.latent.detach().fill_(p.name.ends_with(".weight") ? 0.15 : 0.05);
  }
  for (const auto& [name, tensor] : NetworkToTensors(*made.network)) out[made.prefix + "initial/" + name] = tensor;
  made.sgd = std::make_unique<Sgd>(made.network->parameters(), SgdOptions{});
  made.gradients = std::make_unique<FirstGradients>(*made.network, out, made.prefix + "grad/");
  return made;
}

absl::StatusOr<Tensors> Train(const Run& run) {
  NetworkConfig config;
  config.network = run.network;
  config.image_channels = run.channels;
  config.image_height = config.image_width = run.side;
  config.classes = 10;
  config.weight_bits = run.weight_bits;
  config.activation_bits = run.activation_bits;
  config.activation = ActivationFunction::kClip;
  config.dtype = at::kDouble;
  Tensors out;
  absl::StatusOr<Trained> low = Make(config, "low", out);
  if (!low.ok()) return low.status();
  config.weight_bits = config.activation_bits = 32;
  config.activation = run.full_activation;
  config.seed = 2;
  absl::StatusOr<Trained> full = Make(config, "full", out);
  if (!full.ok()) return full.status();

  out["images"] = at::randn({run.steps, kImages, run.channels, run.side, run.side});
  out["labels"] = at::randint(10, {run.steps, kImages}, at::kLong);
  out["learning_rates"] = at::linspace(1, 0.2, run.steps, at::kDouble).unsqueeze(1) * at::tensor({run.learning_rate, 0.2 * run.learning_rate}, at::kDouble);
  out["lambda"] = at::full({1}, run.lambda, at::kDouble);
  for (const char* name : {"hint", "low/loss", "full/loss"}) out[name] = at::zeros({run.steps}, at::kDouble);
  const auto step = GuidedStep::Create({low->network.get(), low->sgd.get(), low->gradients.get()},
                                       {full->network.get(), full->sgd.get(), full->gradients.get()}, {.lambda = run.lambda, .hint_points = run.hint_points});
  if (!step.ok()) return step.status();
  for (int i = 0; i < run.steps; ++i) {
    const at::Tensor rates = out["learning_rates"][i];
    const absl::StatusOr<GuidedStepResult> result = (*step)->Run({out["images"][i], out["labels"][i], i}, rates[0].item<double>(), rates[1].item<double>());
    if (!result.ok()) return result.status();
    out["hint"][i] = result->hint;
    out["low/loss"][i] = result->low.loss;
    out["full/loss"][i] = result->full.loss;
  }
  for (Trained* net : {&*low, &*full}) {
    for (const auto& [name, tensor] : NetworkToTensors(*net->network)) out[net->prefix + "final/" + name] = tensor;
    for (size_t i = 0; i < net->sgd->momentum().size(); ++i) out[net->prefix + "momentum/" + net->network->parameters()[i].name] = net->sgd->momentum()[i];
  }
  return out;
}

int Main(const std::string& folder, const std::string& what) {
  at::set_num_threads(1);
  at::manual_seed(kSeed);
  for (const Run& run : Runs()) {
    if (what != run.name) continue;
    const absl::StatusOr<Tensors> tensors = Train(run);
    if (tensors.ok()) return WriteTensors(absl::StrCat(folder, "/", what, ".safetensors"), *tensors) ? 0 : 1;
    std::fprintf(stderr, "%s: %s\n", run.name, tensors.status().ToString().c_str());
    return 1;
  }
  std::fprintf(stderr, "guided_dump knows no run %s\n", what.c_str());
  return 2;
}

}  // namespace
}  // namespace bitstair::core

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: guided_dump FOLDER RUN\n");
    return 2;
  }
  return bitstair::core::Main(argv[1], argv[2]);
}
