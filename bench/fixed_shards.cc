// `./dev bench fixed_shards`: what the fixed tree over shards costs beside the Reducer (docs/elastic.md), in gangs of one and of two ranks of one thread each.
// Gangs of real processes over loopback are started once and take turns, a few steps each, in every round. A line `vs_reducer` is the median over the rounds of
// sharded / Reducer in the same gang and round; low and high are its quartiles. Synthetic images; steps without loading, telemetry or checkpoints.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/wait.h>
#include <unistd.h>

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
#include <nlohmann/json.hpp>

#include "core/nn/network.h"
#include "core/training/sgd.h"
#include "core/training/train_step.h"
#include "worker/trainer/gradient_allreduce.h"
#include "worker/trainer/process_group.h"
#include "worker/trainer/rendezvous.h"
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

double Median(std::vector<double> numbers, double at = 0.5) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[static_cast<size_t>(at * static_cast<double>(numbers.size() - 1) + 0.5)];
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

void Write(int fd, double number) {
  if (write(fd, &number, sizeof number) != sizeof number) throw std::runtime_error("a rank is gone");
}

double Read(int fd) {
  double number = 0;
  if (read(fd, &number, sizeof number) != sizeof number) throw std::runtime_error("a rank is gone");
  return number;
}

// A rank's process. Reads which way is next, and answers with the median seconds of a step.
void RunRank(const Options& options, int rank, int world_size, int from, int to, int port_from, int port_to) {
  at::set_num_threads(1);
  std::unique_ptr<trainer::RendezvousStore> store;
  std::unique_ptr<trainer::ProcessGroup> group;
  if (world_size == 1) {
    group = std::make_unique<trainer::ProcessGroup>();
  } else {
    std::array<char, 64> address{};
    if (rank == 0) {
      store = trainer::RendezvousStore::Host("127.0.0.1", "bench").value();
      store->address().copy(address.data(), address.size() - 1);
      for (int peer = 1; peer < world_size; ++peer) {
        if (write(port_to, address.data(), address.size()) != static_cast<ssize_t>(address.size())) throw std::runtime_error("a rank is gone");
      }
    } else {
      if (read(port_from, address.data(), address.size()) != static_cast<ssize_t>(address.size())) throw std::runtime_error("rank 0 is gone");
      store = trainer::RendezvousStore::Connect(address.data(), "bench").value();
    }
    group = std::make_unique<trainer::ProcessGroup>(store->store(), rank, world_size, "127.0.0.1");
  }
  std::vector<std::unique_ptr<Trainee>> trainees;
  for (const int shards : kShards) {
    trainees.push_back(std::make_unique<Trainee>(options, shards, *group));
    for (int i = 0; i < kWarmUpSteps; ++i) trainees.back()->Step();
  }
  Write(to, 0);  // ready
  for (double way = Read(from); way >= 0; way = Read(from)) {
    std::vector<double> seconds;
    for (int i = 0; i < options.steps; ++i) {
      group->Barrier();
      const auto begin = std::chrono::steady_clock::now();
      trainees[static_cast<size_t>(way)]->Step();
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    Write(to, Median(seconds));
  }
  if (store != nullptr) store->Leave(rank, world_size);
}

// Started before LibTorch has threads in this process.
class Gang {
 public:
  Gang(const Options& options, int world_size) {
    std::array<int, 2> port{};
    if (pipe(port.data()) != 0) throw std::runtime_error("no pipe");
    for (int rank = 0; rank < world_size; ++rank) {
      std::array<int, 2> down{}, up{};
      if (pipe(down.data()) != 0 || pipe(up.data()) != 0) throw std::runtime_error("no pipe");
      const pid_t pid = fork();
      if (pid == 0) {
        int status = 0;
        try {
          close(down[1]);
          close(up[0]);
          RunRank(options, rank, world_size, down[0], up[1], port[0], port[1]);
        } catch (const std::exception& error) {
          std::cerr << "rank " << rank << " of " << world_size << ": " << error.what() << "\n";
          status = 1;
        }
        _exit(status);
      }
      close(down[0]);
      close(up[1]);
      ranks_.push_back({pid, down[1], up[0]});
    }
    close(port[0]);
    close(port[1]);
  }

  void AwaitReady() {
    for (const Rank& rank : ranks_) Read(rank.up);
  }
  // Seconds of a step: the slowest rank's.
  double TakeTurn(size_t way) {
    for (const Rank& rank : ranks_) Write(rank.down, static_cast<double>(way));
    double slowest = 0;
    for (const Rank& rank : ranks_) slowest = std::max(slowest, Read(rank.up));
    return slowest;
  }
  void End() {
    for (const Rank& rank : ranks_) Write(rank.down, -1);
    for (const Rank& rank : ranks_) waitpid(rank.pid, nullptr, 0);
  }

 private:
  struct Rank {
    pid_t pid;
    int down, up;
  };
  std::vector<Rank> ranks_;
};

void Measure(const Options& options) {
  std::vector<Gang> gangs;
  for (const int ranks : {1, 2}) gangs.emplace_back(options, ranks);
  for (Gang& gang : gangs) gang.AwaitReady();
  std::array<std::array<std::vector<double>, kShards.size()>, 2> seconds;
  for (int round = 0; round < options.rounds; ++round) {
    for (size_t gang = 0; gang < gangs.size(); ++gang) {
      for (size_t i = 0; i < kShards.size(); ++i) {
        const size_t way = (i + static_cast<size_t>(round)) % kShards.size();
        seconds[gang][way].push_back(gangs[gang].TakeTurn(way));
      }
    }
  }
  for (size_t gang = 0; gang < gangs.size(); ++gang) {
    const std::string place = "fixed_shards/" + options.network + "/ranks" + std::to_string(gang + 1) + "/";
    for (size_t way = 0; way < kShards.size(); ++way) {
      std::cout << nlohmann::json{{"name", place + NameOf(kShards[way])}, {"value", Median(seconds[gang][way])}, {"unit", "s"}} << std::endl;
      if (way == 0) continue;
      std::vector<double> ratios;
      for (size_t i = 0; i < seconds[gang][way].size(); ++i) ratios.push_back(seconds[gang][way][i] / seconds[gang][0][i]);
      std::cout << nlohmann::json{{"name", place + NameOf(kShards[way]) + "/vs_reducer"},
                                  {"value", Median(ratios)},
                                  {"unit", "ratio"},
                                  {"peer", "reducer"},
                                  {"ratio", Median(ratios)},
                                  {"low", Median(ratios, 0.25)},
                                  {"high", Median(ratios, 0.75)}}
                << std::endl;
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
