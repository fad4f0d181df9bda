// Runs the core on fixed inputs and writes what it computed, for compare.py. usage: core_dump FOLDER {quantizers | names | RUN}
//   names.txt                NETWORK NAME SIZE..., a line for each tensor of each network
//   quantizers.safetensors   wB.DTYPE.{latent,grad,codes,values,grad_latent}, aB.DTYPE.{x,grad,codes,grad_x}
//   RUN.safetensors          some training steps: initial/NAME, images, labels, learning_rates, batch_norm_rate (its factor), and of the core: loss,
//                            values/I (step 0, each activation), grad/NAME (step 0, averaged gradient of each leaf), final/NAME, momentum/NAME
#include <cstdio>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/quant_math.h"
#include "core/nn/network_state.h"
#include "core/quant/dorefa.h"
#include "core/quant/weight_pass.h"
#include "core/training/train_step.h"
#include "tests/reference/dump.h"

namespace bitstair::core {
namespace {

Tensors Quantizers() {
  Tensors out;
  for (const c10::ScalarType dtype : {at::kFloat, at::kDouble}) {
    for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
      const std::string suffix = absl::StrCat(bits, dtype == at::kFloat ? ".float32." : ".float64.");
      // Zeros, tied maxima, saturated and tiny weights among ordinary ones.
      const at::Tensor latent = at::cat({at::randn({3000}, dtype), at::zeros({3}, dtype), at::tensor({4.5, -4.5, 4.5, 1e-8, -1e-20, 0.5}, dtype)});
      const at::Tensor grad_values = at::randn(latent.sizes(), dtype);
      const auto weights = MakeDorefaWeightQuantizer(bits, {});
      const at::Tensor codes = WeightCodes(*weights, latent, dtype);
      out["w" + suffix + "latent"] = latent;
      out["w" + suffix + "grad"] = grad_values;
      out["w" + suffix + "codes"] = codes;
      out["w" + suffix + "values"] = codes / static_cast<double>(GreatestCode(bits));
      out["w" + suffix + "grad_latent"] = WeightGradient(*weights, latent, grad_values);
      // All ties of these widths, both ends of the interval and what lies just outside.
      const double n = static_cast<double>(GreatestCode(bits));
      const at::Tensor x =
          at::cat({at::randn({3000}, dtype), (at::arange(std::min(n, 300.0), dtype) + 0.5) / n, at::tensor({0.0, -0.0, 1.0, 1.0000002, -1e-30}, dtype)});
      const at::Tensor grad_codes = at::randn(x.sizes(), dtype);
      const auto activations = MakeDorefaActivationQuantizer(bits, {});
      out["a" + suffix + "x"] = x;
      out["a" + suffix + "grad"] = grad_codes;
      out["a" + suffix + "codes"] = activations->Forward(x).codes;
      out["a" + suffix + "grad_x"] = activations->Backward(x, grad_codes);
    }
  }
  return out;
}

constexpr uint64_t kSeed = 1;

struct Run {
  const char* name;
  const char* network;
  int channels, side;
  int weight_bits, activation_bits;
  ActivationFunction activation;
  c10::ScalarType dtype;
  int steps;
  int channel_divisor = 1;
  void (*options)(NetworkConfig& config) = nullptr;
  double batch_norm_rate = 1;  // SgdOptions::batch_norm_learning_rate_factor
};

constexpr PixelRange kPixels{-2.5, 2};  // some of the images' pixels lie outside
void FirstLast(NetworkConfig& c) {
  c.quantize_first_last = true;
  c.pixels = kPixels;
}

constexpr Run kRuns[] = {
    {"resnet20_w4a4_float64", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20},
    {"resnet20_w2a32_float64", "resnet20", 3, 12, 2, 32, ActivationFunction::kClip, at::kDouble, 3},
    {"resnet20_w32a32_float64", "resnet20", 3, 12, 32, 32, ActivationFunction::kRelu, at::kDouble, 3},
    {"convnet28_w4a4_float64", "convnet28", 1, 28, 4, 4, ActivationFunction::kClip, at::kDouble, 3},
    {"resnet20_b_w4a4_float64", "resnet20_b", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20},
    {"resnet18_w4a4_float64", "resnet18", 3, 48, 4, 4, ActivationFunction::kClip, at::kDouble, 5, 8},
    {"resnet50_w4a4_float64", "resnet50", 3, 48, 4, 4, ActivationFunction::kClip, at::kDouble, 5, 8},
    {"resnet50_w32a32_float64", "resnet50", 3, 48, 32, 32, ActivationFunction::kRelu, at::kDouble, 3, 8},
    {"preresnet20_w4a4_float64", "preresnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20},
    {"preresnet20_w32a32_float64", "preresnet20", 3, 12, 32, 32, ActivationFunction::kRelu, at::kDouble, 3},
    {"alexnet_cifar_w4a4_float64", "alexnet_cifar", 3, 32, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 8},
    {"alexnet_w4a4_float64", "alexnet", 3, 95, 4, 4, ActivationFunction::kClip, at::kDouble, 5, 8},
    // The part of the name behind the type says the option, also to quantized_torch.py.
    {"resnet20_w2a2_float64_std", "resnet20", 3, 12, 2, 2, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) { c.weight_norm = WeightNorm::kStd; }},
    {"resnet20_w4a4_float64_float_shortcuts", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) { c.shortcut_values = ShortcutValues::kFloat; }},
    {"resnet18_w4a4_float64_float_shortcuts", "resnet18", 3, 48, 4, 4, ActivationFunction::kClip, at::kDouble, 5, 8,
     [](NetworkConfig& c) { c.shortcut_values = ShortcutValues::kFloat; }},
    // With the optimiser and the weights of recipes/cifar100_resnet20_w4a4.yaml.
    {"resnet20_w4a4_float64_std_float_shortcuts", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) {
       c.weight_norm = WeightNorm::kStd;
       c.shortcut_values = ShortcutValues::kFloat;
     },
     0.1},
    {"resnet20_b_w3a3_float64_shortcut8", "resnet20_b", 3, 12, 3, 3, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) { c.shortcut_conv_bits = 8; }},
    {"resnet20_b_w3a3_float64_shortcut32", "resnet20_b", 3, 12, 3, 3, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) { c.shortcut_conv_bits = 32; }},
    {"resnet20_w4a4_float64_layers", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) {
       c.layer_widths = {{"layer1.*", 8}, {"layer2.0.conv*", 2}, {"layer3.*.relu1", 3}, {"layer3.0.conv1", 32}};
     }},
    {"resnet20_w4a4_float64_lsq", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1, [](NetworkConfig& c) { c.quantizer = "lsq"; }},
    {"resnet20_b_w2a3_float64_lsq", "resnet20_b", 3, 12, 2, 3, ActivationFunction::kClip, at::kDouble, 20, 1, [](NetworkConfig& c) { c.quantizer = "lsq"; }},
    {"convnet28_w8a8_float64_lsq", "convnet28", 1, 28, 8, 8, ActivationFunction::kClip, at::kDouble, 20, 1, [](NetworkConfig& c) { c.quantizer = "lsq"; }},
    {"resnet20_w4a4_float64_pact", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1, [](NetworkConfig& c) { c.quantizer = "pact"; }},
    {"resnet18_w2a2_float64_pact", "resnet18", 3, 48, 2, 2, ActivationFunction::kClip, at::kDouble, 20, 8, [](NetworkConfig& c) { c.quantizer = "pact"; }},
    {"resnet20_w4a4_float64_lsq_float_shortcuts", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1,
     [](NetworkConfig& c) {
       c.quantizer = "lsq";
       c.shortcut_values = ShortcutValues::kFloat;
     }},
    {"resnet18_w2a2_float64_pact_float_shortcuts", "resnet18", 3, 48, 2, 2, ActivationFunction::kClip, at::kDouble, 5, 8,
     [](NetworkConfig& c) {
       c.quantizer = "pact";
       c.shortcut_values = ShortcutValues::kFloat;
     }},
    {"resnet20_w2a2_float64_first_last", "resnet20", 3, 12, 2, 2, ActivationFunction::kClip, at::kDouble, 20, 1, FirstLast},
    {"resnet20_w4a4_float64_first_last", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1, FirstLast},
    {"resnet20_b_w2a32_float64_first_last", "resnet20_b", 3, 12, 2, 32, ActivationFunction::kClip, at::kDouble, 5, 1, FirstLast},
    {"resnet18_w4a4_float64_first_last", "resnet18", 3, 48, 4, 4, ActivationFunction::kClip, at::kDouble, 5, 8, FirstLast},
    {"preresnet20_w4a4_float64_first_last", "preresnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1, FirstLast},
    {"alexnet_w4a4_float64_first_last", "alexnet", 3, 95, 4, 4, ActivationFunction::kClip, at::kDouble, 5, 8, FirstLast},
    {"convnet28_w4a4_float64_first_last", "convnet28", 1, 28, 4, 4, ActivationFunction::kClip, at::kDouble, 20, 1, FirstLast},
    {"resnet50_w4a4_float32", "resnet50", 3, 48, 4, 4, ActivationFunction::kClip, at::kFloat, 1, 8},
    {"alexnet_cifar_w8a8_float32", "alexnet_cifar", 3, 32, 8, 8, ActivationFunction::kClip, at::kFloat, 1, 8},
    {"resnet20_w4a4_float32", "resnet20", 3, 12, 4, 4, ActivationFunction::kClip, at::kFloat, 1},
    {"convnet28_w8a8_float32", "convnet28", 1, 28, 8, 8, ActivationFunction::kClip, at::kFloat, 1},
};

absl::StatusOr<Tensors> Train(const Run& run) {
  constexpr int64_t kImages = 8;
  NetworkConfig config;
  config.network = run.network;
  config.image_channels = run.channels;
  config.image_height = config.image_width = run.side;
  config.classes = 10;
  config.channel_divisor = run.channel_divisor;
  config.weight_bits = run.weight_bits;
  config.activation_bits = run.activation_bits;
  if (run.options != nullptr) run.options(config);
  config.activation = run.activation;
  config.dtype = run.dtype;
  absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
  if (!network.ok()) return network.status();
  for (const Parameter& p : (*network)->parameters()) {
    at::Tensor latent = p.latent.detach();
    if (p.batch_norm) latent.copy_(p.name.ends_with("weight") ? at::rand_like(latent) * 0.5 + 0.75 : at::rand_like(latent) * 0.2 + 0.05);
  }

  Tensors out;
  for (const auto& [name, tensor] : NetworkToTensors(**network)) out["initial/" + name] = tensor;
  out["images"] = at::randn({run.steps, kImages, run.channels, run.side, run.side});
  out["labels"] = at::randint(10, {run.steps, kImages}, at::kLong);
  out["learning_rates"] = at::linspace(0.05, 0.01, run.steps, at::kDouble);
  out["batch_norm_rate"] = at::scalar_tensor(run.batch_norm_rate, at::kDouble);
  out["loss"] = at::zeros({run.steps}, at::kDouble);
  int activation = 0;
  (*network)->set_activation_observer([&](size_t, const at::Tensor& values) { out[absl::StrCat("values/", activation++)] = values.detach().clone(); });

  Sgd sgd((*network)->parameters(), {.batch_norm_learning_rate_factor = run.batch_norm_rate, .clip_weight_decay = 0.01});
  FirstGradients gradients(**network, out, "grad/");
  TrainStep step(network->get(), &sgd, &gradients);
  for (int i = 0; i < run.steps; ++i) {
    const absl::StatusOr<StepResult> result = step.Run({out["images"][i], out["labels"][i], i}, out["learning_rates"][i].item<double>());
    if (!result.ok()) return result.status();
    out["loss"][i] = result->loss;
    (*network)->set_activation_observer(nullptr);
  }
  for (const auto& [name, tensor] : NetworkToTensors(**network)) out["final/" + name] = tensor;
  for (size_t i = 0; i < sgd.momentum().size(); ++i) out["momentum/" + (*network)->parameters()[i].name] = sgd.momentum()[i];
  return out;
}

std::string Names() {
  std::string text;
  for (const std::string& name : NetworkNames()) {
    NetworkConfig config;
    config.network = name;
    const bool imagenet = name == "alexnet" || name == "resnet18" || name == "resnet34" || name == "resnet50" || name == "resnet101";
    config.image_channels = 3;
    config.image_height = config.image_width = name == "convnet28" ? 28 : imagenet ? 224 : 32;
    config.classes = imagenet ? 1000 : 10;
    const absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
    for (const auto& [tensor, values] : NetworkToTensors(**network)) {
      absl::StrAppend(&text, name, " ", tensor);
      for (const int64_t size : values.sizes()) absl::StrAppend(&text, " ", size);
      text += "\n";
    }
  }
  return text;
}

int Main(const std::string& folder, const std::string& what) {
  at::set_num_threads(1);
  // Shifts are not 0: where an integer sum equals its batch mean, x would be 0 up to the last bit, and whether the gradient passes the clip would depend on
  // that bit, which no formula but our own (one fused multiply-add) reproduces.
  at::manual_seed(kSeed);
  const std::string path = absl::StrCat(folder, "/", what, ".safetensors");
  if (what == "quantizers") return WriteTensors(path, Quantizers()) ? 0 : 1;
  if (what == "names") return WriteFileDurably(absl::StrCat(folder, "/names.txt"), Names()).ok() ? 0 : 1;
  for (const Run& run : kRuns) {
    if (what != run.name) continue;
    const absl::StatusOr<Tensors> tensors = Train(run);
    if (tensors.ok()) return WriteTensors(path, *tensors) ? 0 : 1;
    std::fprintf(stderr, "%s: %s\n", run.name, tensors.status().ToString().c_str());
    return 1;
  }
  std::fprintf(stderr, "core_dump knows no run %s\n", what.c_str());
  return 2;
}

}  // namespace
}  // namespace bitstair::core

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: core_dump FOLDER {quantizers | names | RUN}\n");
    return 2;
  }
  return bitstair::core::Main(argv[1], argv[2]);
}
