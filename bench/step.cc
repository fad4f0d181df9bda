// One participant of `./dev bench step`, `step_memory` and `guided_step`: whole training steps of the core on one fixed batch, in the protocol of
// bench/peers/protocol.py.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gperftools/malloc_extension.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/kernels/step_clock.h"
#include "core/nn/network.h"
#include "core/training/guided_step.h"
#include "core/training/sgd.h"
#include "core/training/train_step.h"

namespace {

using bitstair::core::Batch;

constexpr int kUnsupported = 3;
constexpr int kWarmUpSteps = 4;
constexpr int kMemorySteps = 3;
constexpr int kSplitSteps = 8;

// Bytes of VmRSS or VmHWM.
int64_t ResidentBytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  return 0;
}

// What a mode trains.
class Trainee {
 public:
  virtual ~Trainee() = default;
  virtual void Step() = 0;
};

std::unique_ptr<bitstair::core::Network> MakeNetwork(const bitstair::core::NetworkConfig& config) {
  auto made = bitstair::core::CreateNetwork(config);
  if (!made.ok()) throw std::runtime_error(std::string(made.status().message()));
  return *std::move(made);
}

Batch MakeBatch(const bitstair::core::NetworkConfig& config, int64_t images) {
  at::manual_seed(20171101);
  Batch batch;
  batch.images = at::randn({images, config.image_channels, config.image_height, config.image_width});
  batch.labels = at::randint(config.classes, {images}, at::kLong);
  return batch;
}

struct Trainer final : Trainee {
  std::unique_ptr<bitstair::core::Network> network;
  std::unique_ptr<bitstair::core::Sgd> sgd;
  bitstair::core::LocalGradients gradients;
  std::unique_ptr<bitstair::core::TrainStep> step;
  Batch batch;
  std::vector<bitstair::core::ClipCount> clips;
  std::vector<double> gradient_norms;

  // telemetry: with what the trainer's telemetry of layers takes from each step.
  Trainer(const bitstair::core::NetworkConfig& config, int64_t images, bool telemetry) : network(MakeNetwork(config)), batch(MakeBatch(config, images)) {
    sgd = std::make_unique<bitstair::core::Sgd>(network->parameters(), bitstair::core::SgdOptions{});
    step = std::make_unique<bitstair::core::TrainStep>(network.get(), sgd.get(), &gradients);
    if (!telemetry) return;
    clips.resize(network->activation_groups().size());
    network->set_clip_counts(&clips);
    sgd->set_gradient_norms(&gradient_norms);
  }

  void Step() override {
    ++batch.position.batch;
    const auto result = step->Run(batch, 0.01);
    if (!result.ok()) throw std::runtime_error(std::string(result.status().message()));
  }
};

// A low-precision net and the full-precision one that guides it, on the network's default hint points.
struct PairTrainer final : Trainee {
  std::unique_ptr<bitstair::core::Network> low, full;
  std::unique_ptr<bitstair::core::Sgd> low_sgd, full_sgd;
  bitstair::core::LocalGradients gradients;
  std::unique_ptr<bitstair::core::GuidedStep> step;
  Batch batch;

  PairTrainer(const bitstair::core::NetworkConfig& config, int64_t images) : low(MakeNetwork(config)), batch(MakeBatch(config, images)) {
    bitstair::core::NetworkConfig full_config = config;
    full_config.weight_bits = full_config.activation_bits = 32;
    full_config.activation = bitstair::core::ActivationFunction::kClip;
    full = MakeNetwork(full_config);
    low_sgd = std::make_unique<bitstair::core::Sgd>(low->parameters(), bitstair::core::SgdOptions{});
    full_sgd = std::make_unique<bitstair::core::Sgd>(full->parameters(), bitstair::core::SgdOptions{});
    auto made = bitstair::core::GuidedStep::Create({low.get(), low_sgd.get(), &gradients}, {full.get(), full_sgd.get(), &gradients}, {});
    if (!made.ok()) throw std::runtime_error(std::string(made.status().message()));
    step = *std::move(made);
  }

  void Step() override {
    ++batch.position.batch;
    const auto result = step->Run(batch, 0.01, 0.002);
    if (!result.ok()) throw std::runtime_error(std::string(result.status().message()));
  }
};

// Bytes per second of copying an array that no cache holds: read once, written once.
double CopyBandwidth() {
  constexpr int64_t bytes = int64_t{256} << 20;
  const at::Tensor from = at::ones({bytes}, at::kByte), to = at::ones({bytes}, at::kByte);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    at::parallel_for(0, bytes, bytes / 64, [&](int64_t a, int64_t b) { std::memcpy(to.data_ptr<uint8_t>() + a, from.data_ptr<uint8_t>() + a, b - a); });
    best = std::max(best, 2.0 * bytes / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

// Seconds of the parts of a step; bytes that the element-wise kernels move; and how fast they and a plain copy go, in bytes per second.
nlohmann::json Split(Trainee& trainee) {
  bitstair::core::StartStepClock();
  for (int i = 0; i < kSplitSteps; ++i) trainee.Step();
  const bitstair::core::StepTimes times = bitstair::core::StopStepClock();
  nlohmann::json split;
  for (int i = 0; i < bitstair::core::kStepParts; ++i) split[NameOf(static_cast<bitstair::core::StepPart>(i))] = times.seconds[i] / kSplitSteps;
  split["elementwise_bytes"] = times.elementwise_bytes / kSplitSteps;
  split["elementwise_bandwidth"] = static_cast<double>(times.elementwise_bytes) / times.seconds[static_cast<size_t>(bitstair::core::StepPart::kElementwise)];
  split["copy_bandwidth"] = CopyBandwidth();
  return split;
}

bitstair::core::NetworkConfig ConfigOf(const std::string& network, int bits, const std::string& numerics) {
  bitstair::core::NetworkConfig config;
  config.network = network;
  config.image_channels = 3;
  config.image_height = config.image_width = network == "resnet18" ? 224 : 32;
  config.classes = network == "resnet18" ? 1000 : 100;
  config.weight_bits = config.activation_bits = bits;
  config.numerics = numerics == "reference" ? bitstair::core::Numerics::kReference
                    : numerics == "fast8"   ? bitstair::core::Numerics::kFast8
                                            : bitstair::core::Numerics::kFast;
  return config;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains a network of the core on one batch, as bench/step.py asks on standard input (bench/peers/protocol.py).");
  std::string network, mode, numerics = "fast";
  int batch = 0, threads = 0;
  app.add_option("--network", network)->required()->check(CLI::IsMember({"resnet20", "resnet18"}));
  app.add_option("--mode", mode,
                 "w4a4; w4a4_fast8: with int8 input gradients; guided_w4a4: w4a4 and a full-precision net that guides it; bf16: the full-precision network in "
                 "the float type of numerics fast")
      ->required();
  app.add_option("--batch", batch)->required()->check(CLI::PositiveNumber);
  app.add_option("--threads", threads)->required()->check(CLI::PositiveNumber);
  app.add_option("--numerics", numerics)->check(CLI::IsMember({"fast", "reference"}));
  bool telemetry = false;
  app.add_flag("--telemetry", telemetry, "Count clips and gradient norms in every step, as the trainer does (of one net; not in guided_w4a4)");
  CLI11_PARSE(app, argc, argv);
  if (mode != "w4a4" && mode != "bf16" && mode != "w4a4_fast8" && mode != "guided_w4a4") {
    std::cerr << "bench_step: mode " << mode << " is not supported\n";
    return kUnsupported;
  }
  try {
    at::set_num_threads(threads);
    {
      // Code and tables that are loaded late belong to the libraries, not to the network's memory.
      Trainer small(ConfigOf("resnet20", 4, numerics), 2, telemetry);
      small.Step();
    }
    MallocExtension::instance()->ReleaseFreeMemory();
    const int64_t baseline = ResidentBytes("VmRSS");
    const bitstair::core::NetworkConfig config = ConfigOf(network, mode == "bf16" ? 32 : 4, mode == "w4a4_fast8" ? "fast8" : numerics);
    std::unique_ptr<Trainee> trainee;
    if (mode == "guided_w4a4") {
      trainee = std::make_unique<PairTrainer>(config, batch);
    } else {
      trainee = std::make_unique<Trainer>(config, batch, telemetry);
    }
    for (int i = 0; i < kWarmUpSteps; ++i) trainee->Step();
    std::cout << nlohmann::json{{"ready", true}, {"threads", at::get_num_threads()}} << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream words(line);
      std::string command;
      words >> command;
      nlohmann::json answer;
      if (command == "quit") break;
      if (command == "run") {
        int steps = 0;
        words >> steps;
        answer["seconds"] = nlohmann::json::array();
        for (int i = 0; i < steps; ++i) {
          const auto begin = std::chrono::steady_clock::now();
          trainee->Step();
          answer["seconds"].push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        }
      } else if (command == "split") {
        answer["split"] = Split(*trainee);
      } else if (command == "memory") {
        std::ofstream("/proc/self/clear_refs") << "5";
        for (int i = 0; i < kMemorySteps; ++i) trainee->Step();
        answer = {{"baseline_bytes", baseline}, {"peak_bytes", ResidentBytes("VmHWM")}};
      } else {
        std::cerr << "bench_step: unknown command " << command << "\n";
        return 2;
      }
      std::cout << answer << std::endl;
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_step: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
