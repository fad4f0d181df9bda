// What guided_dump and journal_dump share: nets in float64 on fixed inputs, and what is written of each: NET/initial/NAME, NET/grad/NAME, NET/final/NAME,
// NET/momentum/NAME.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "absl/strings/str_cat.h"
#include "core/nn/network_state.h"
#include "core/training/net_pass.h"
#include "tests/reference/dump.h"

namespace bitstair::core {

inline constexpr uint64_t kSeed = 1;

struct TrainedNet {
  std::string prefix;
  std::unique_ptr<Network> network;
  std::unique_ptr<Sgd> sgd;
  std::unique_ptr<FirstGradients> gradients;
  PairMember member() const { return {network.get(), sgd.get(), gradients.get()}; }
};

inline NetworkConfig ConfigOf(const std::string& network, int channels, int side, int weight_bits, int activation_bits) {
  NetworkConfig config;
  config.network = network;
  config.image_channels = channels;
  config.image_height = config.image_width = side;
  config.classes = 10;
  config.weight_bits = weight_bits;
  config.activation_bits = activation_bits;
  config.activation = ActivationFunction::kClip;
  config.dtype = at::kDouble;
  config.seed = kSeed;
  return config;
}

inline absl::StatusOr<TrainedNet> MakeNet(const NetworkConfig& config, const std::string& net, Tensors& out) {
  absl::StatusOr<std::unique_ptr<Network>> network = CreateNetwork(config);
  if (!network.ok()) return network.status();
  TrainedNet made{net + "/", *std::move(network), nullptr, nullptr};
  // Most activations inside of the clip, as calibration leaves them. With gamma 1 a deep net of clips is chaotic: a last bit reaches the losses in ten steps.
  for (const Parameter& p : made.network->parameters()) {
    if (p.batch_norm) p.latent.detach().fill_(p.name.ends_with(".weight") ? 0.15 : 0.05);
  }
  for (const auto& [name, tensor] : NetworkToTensors(*made.network)) out[made.prefix + "initial/" + name] = tensor;
  made.sgd = std::make_unique<Sgd>(made.network->parameters(), SgdOptions{});
  made.gradients = std::make_unique<FirstGradients>(*made.network, out, made.prefix + "grad/");
  return made;
}

// After the last step.
inline void AddFinal(const TrainedNet& net, Tensors& out) {
  for (const auto& [name, tensor] : NetworkToTensors(*net.network)) out[net.prefix + "final/" + name] = tensor;
  for (size_t i = 0; i < net.sgd->momentum().size(); ++i) out[net.prefix + "momentum/" + net.network->parameters()[i].name] = net.sgd->momentum()[i];
}

// PROGRAM FOLDER RUN: what train(run) gives of the run of that name goes to FOLDER/RUN.safetensors. Returns the exit status.
template <typename Run, typename F>
int DumpRun(int argc, char** argv, const std::vector<Run>& runs, F&& train) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER RUN\n", argv[0]);
    return 2;
  }
  at::set_num_threads(1);
  at::manual_seed(kSeed);
  const std::string what = argv[2];
  for (const Run& run : runs) {
    if (what != run.name) continue;
    const absl::StatusOr<Tensors> tensors = train(run);
    if (tensors.ok()) return WriteTensors(absl::StrCat(argv[1], "/", what, ".safetensors"), *tensors) ? 0 : 1;
    std::fprintf(stderr, "%s: %s\n", run.name, tensors.status().ToString().c_str());
    return 1;
  }
  std::fprintf(stderr, "%s knows no run %s\n", argv[0], what.c_str());
  return 2;
}

}  // namespace bitstair::core
