// `./dev bench fixed_shards`: what the fixed tree over shards costs beside the Reducer (docs/elastic.md), in gangs of one and of two ranks of one thread each.
// Gangs of real processes over loopback are started once and take turns, a few steps each, in every round. A line `vs_reducer` is the median over the rounds of
// sharded / Reducer in the same gang and round; low and high are its quartiles. Synthetic images; steps without loading, telemetry or checkpoints.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "bench/gang.h"
#include "bench/lines.h"
#include "core/nn/network.h"
#include "core/training/sgd.h"
#include "core/training/train_step.h"
#include "worker/trainer/gradient_allreduce.h"
#include "worker/trainer/process_group.h"
#include "worker/trainer/training_state.h"

namespace {

using namespace bitstair;

constexpr int kWarmUpSteps = 3;
constexpr std::array kShards{0, 2, 4};  // 0: the Reducer

struct Options {
  std::string network = "resnet20";
  int batch = 128, bits = 4, rounds = 9, steps = 3;
};

std::string NameOf(int shards) {
  return shards == 0 ? "reducer" : "shards" + std::to_string(shards);
}

// A rank's net under one way of summing gradients.
class Trainee {
 public:
  Trainee(const Options& options, int shards, trainer::ProcessGroup& group) {
    core::NetworkConfig config;
    config.network = options.network;
    config.weight_bits = config.activation_bits = options.bits;
    config.activation = core::ActivationFunction::kClip;
    config.numerics = core::Numerics::kFast;
    const bool pictures = options.network != "resnet20";
    config.image_channels = 3;
    config.image_height = config.image_width = pictures ? 224 : 32;
    config.classes = pictures ? 1000 : 10;
    auto made = core::CreateNetwork(config);
    if (!made.ok()) throw std::runtime_error(std::string(made.status().message()));
    network_ = *std::move(made);
    sgd_ = std::make_unique<core::Sgd>(network_->parameters(), core::SgdOptions{});
    gradients_ =
        shards == 0 ? trainer::MakeGradientAllreduce(network_->parameters(), group) : trainer::MakeFixedShardsAllreduce(network_->parameters(), shards, group);
    step_ = std::make_unique<core::TrainStep>(network_.get(), sgd_.get(), gradients_.get());
    const int own = std::max(1, shards / group.world_size());
    at::manual_seed(20171101 + static_cast<uint64_t>(group.rank()));
    for (int i = 0; i < own; ++i) {
      core::Batch& batch = batches_.emplace_back();
      const int64_t images = options.batch / group.world_size() / own;
      batch.images = at::randn({images, config.image_channels, config.image_height, config.image_width});
      batch.labels = at::randint(config.classes, {images}, at::kLong);
    }
    statistics_.assign(static_cast<size_t>(own), trainer::FlattenStatistics(*network_));
  }

  void Step() {
    for (size_t i = 0; i < batches_.size(); ++i) {
      if (batches_.size() > 1) trainer::SetStatistics(statistics_[i], *network_);
      if (const auto result = step_->ComputeGradients(batches_[i], i == 0); !result.ok()) throw std::runtime_error(std::string(result.status().message()));
      if (batches_.size() > 1) statistics_[i] = trainer::FlattenStatistics(*network_);
    }
    gradients_->Average();
    step_->Update(0.01);
  }

 private:
  std::unique_ptr<core::Network> network_;
  std::unique_ptr<core::Sgd> sgd_;
  std::unique_ptr<trainer::GradientAllreduce> gradients_;
  std::unique_ptr<core::TrainStep> step_;
  std::vector<core::Batch> batches_;
  std::vector<at::Tensor> statistics_;
};

// Seconds of a step: the median of a turn's.
double TakeTurn(const Options& options, trainer::ProcessGroup& group, Trainee& trainee) {
  std::vector<double> seconds;
  for (int i = 0; i < options.steps; ++i) {
    group.Barrier();
    const auto begin = std::chrono::steady_clock::now();
    trainee.Step();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return bench::Quantile(seconds);
}

bench::Gang::Ways MakeWays(const Options& options, bench::Seat& seat) {
  bench::Gang::Ways ways;
  for (const int shards : kShards) {
    const auto trainee = std::make_shared<Trainee>(options, shards, *seat.group);
    for (int i = 0; i < kWarmUpSteps; ++i) trainee->Step();
    ways.emplace_back([&options, &seat, trainee] { return TakeTurn(options, *seat.group, *trainee); });
  }
  return ways;
}

void Measure(const Options& options) {
  std::vector<bench::Gang> gangs;
  for (const int ranks : {1, 2}) gangs.emplace_back(ranks, [&options](bench::Seat& seat) { return MakeWays(options, seat); });
  for (bench::Gang& gang : gangs) gang.AwaitReady();
  std::array<std::array<std::vector<double>, kShards.size()>, 2> seconds;
  for (int round = 0; round < options.rounds; ++round) {
    for (size_t gang = 0; gang < gangs.size(); ++gang) {
      for (size_t i = 0; i < kShards.size(); ++i) {
        const size_t way = (i + static_cast<size_t>(round)) % kShards.size();
        const std::vector<double> by_rank = gangs[gang].TakeTurn(way);
        seconds[gang][way].push_back(*std::max_element(by_rank.begin(), by_rank.end()));
      }
    }
  }
  for (size_t gang = 0; gang < gangs.size(); ++gang) {
    const std::string place = "fixed_shards/" + options.network + "/ranks" + std::to_string(gang + 1) + "/";
    for (size_t way = 0; way < kShards.size(); ++way) {
      bench::Line(place + NameOf(kShards[way]), bench::Quantile(seconds[gang][way]), "s");
      if (way > 0) bench::Comparison(place + NameOf(kShards[way]) + "/vs_reducer", "reducer", seconds[gang][way], seconds[gang][0]);
    }
    gangs[gang].End();
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Step time of fixed shards beside the Reducer, at one and two ranks"};
  Options options;
  app.add_option("--network", options.network)->capture_default_str()->check(CLI::IsMember({"resnet20", "resnet18"}));
  app.add_option("--batch", options.batch, "over all ranks")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--bits", options.bits, "of weights and activations")->capture_default_str()->check(CLI::Range(1, 8));
  app.add_option("--rounds", options.rounds)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps, "of a gang's turn, of which the median counts")->capture_default_str()->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  if (options.batch % 4 != 0) {
    std::cerr << "--batch must be a multiple of 4, the greatest number of shards\n";
    return 2;
  }
  try {
    Measure(options);
  } catch (const std::exception& error) {
    std::cerr << "bench_fixed_shards: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
