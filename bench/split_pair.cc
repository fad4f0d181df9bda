// `./dev bench split_pair`: a guided pair whose nets are two processes, beside the same pair in one (docs/guided.md), and whether its features travel while it
// computes. Two processes of one thread each over loopback, or over a link of a given rate (split_pair.py), and one process with both nets, take turns in every
// round. `held_back` is the split pair whose features are kept until the forward pass is over: what it takes longer is what the overlap saves. Medians over the
// rounds; low and high are quartiles of the ratios. Synthetic images; steps without loading, telemetry or checkpoints.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "bench/gang.h"
#include "bench/lines.h"
#include "core/nn/network.h"
#include "core/training/guided_step.h"
#include "core/training/sgd.h"
#include "core/training/split_guided_step.h"
#include "core/training/train_step.h"
#include "worker/trainer/pair_exchange.h"

namespace {

using namespace bitstair;

constexpr int kWarmUpSteps = 3;

struct Options {
  std::string network = "resnet20", link;
  int batch = 128, bits = 4, rounds = 9, steps = 5;
};

// Keeps what is to be sent until this side waits for the other, and measures how long this side waits for the other: in Receive and in Finish.
class MeasuredExchange final : public core::FeatureExchange {
 public:
  MeasuredExchange(core::FeatureExchange& way, bool hold_back) : way_(way), hold_back_(hold_back) {}

  void Begin() override { way_.Begin(); }
  void Send(size_t point, const core::HintFeatures& own) override { hold_back_ ? void(held_.emplace(point, own)) : way_.Send(point, own); }
  void SendFailure(size_t point) override { way_.SendFailure(point); }
  core::HintFeatures Receive(size_t point, at::IntArrayRef shape) override {
    SendHeld();
    return Wait([&] { return way_.Receive(point, shape); });
  }
  void Finish() override {
    SendHeld();
    Wait([&] { return way_.Finish(), 0; });
  }
  double TakeWaited() { return std::exchange(waited_, 0); }

 private:
  void SendHeld() {
    for (const auto& [point, own] : held_) way_.Send(point, own);
    held_.clear();
  }
  template <typename Call>
  std::invoke_result_t<Call> Wait(Call call) {
    const auto begin = std::chrono::steady_clock::now();
    auto result = call();
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
  }

  core::FeatureExchange& way_;
  const bool hold_back_;
  std::map<size_t, core::HintFeatures> held_;
  double waited_ = 0;
};

core::NetworkConfig ConfigOf(const Options& options, core::PairSide side) {
  core::NetworkConfig config;
  config.network = options.network;
  config.weight_bits = config.activation_bits = side == core::PairSide::kLow ? options.bits : 32;
  config.activation = core::ActivationFunction::kClip;
  config.numerics = core::Numerics::kFast;
  const bool pictures = options.network != "resnet20";
  config.image_channels = 3;
  config.image_height = config.image_width = pictures ? 224 : 32;
  config.classes = pictures ? 1000 : 10;
  return config;
}

template <typename T>
T Must(absl::StatusOr<T> made) {
  if (!made.ok()) throw std::runtime_error(std::string(made.status().message()));
  return *std::move(made);
}

core::Batch MakeBatch(const Options& options) {
  const core::NetworkConfig config = ConfigOf(options, core::PairSide::kLow);
  at::manual_seed(20171101);
  core::Batch batch;
  batch.images = at::randn({options.batch, config.image_channels, config.image_height, config.image_width});
  batch.labels = at::randint(config.classes, {options.batch}, at::kLong);
  return batch;
}

struct Net {
  Net(const Options& options, core::PairSide side)
      : network(Must(core::CreateNetwork(ConfigOf(options, side)))), sgd(std::make_unique<core::Sgd>(network->parameters(), core::SgdOptions{})) {}
  core::PairMember member() { return {network.get(), sgd.get(), &gradients}; }

  std::unique_ptr<core::Network> network;
  std::unique_ptr<core::Sgd> sgd;
  core::LocalGradients gradients;
};

// The median seconds of some calls.
template <typename Step>
double MedianOf(int steps, trainer::ProcessGroup& group, Step step) {
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    group.Barrier();
    seconds.push_back(step());
  }
  return bench::Quantile(seconds);
}

template <typename Step>
double SecondsOf(Step step) {
  const auto begin = std::chrono::steady_clock::now();
  step();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A rank of a split pair. Ways: 0 a step; 1 held back; 2 a step's waiting; 3 held back; 4 bytes that this side sends in a step.
bench::Gang::Ways SplitWays(const Options& options, bench::Seat& seat) {
  struct State {
    State(const Options& options, bench::Seat& seat)
        : side(seat.group->rank() == 0 ? core::PairSide::kLow : core::PairSide::kFull), net(options, side), batch(MakeBatch(options)) {
      const size_t points = Must(core::ChooseHintPoints(*net.network, {})).size();
      exchange = std::make_unique<trainer::PairExchange>(*seat.group, *seat.group, 1 - seat.group->rank(), points, /*fixed_sizes=*/true);
      for (const bool hold_back : {false, true}) {
        measured.push_back(std::make_unique<MeasuredExchange>(*exchange, hold_back));
        steps.push_back(
            Must(core::SplitGuidedStep::Create(net.member(), side, ConfigOf(options, core::PairSide::kLow), ConfigOf(options, core::PairSide::kFull),
                                               core::GuidedOptions{}, /*early=*/true, measured.back().get())));
      }
    }
    void Step(size_t how) {
      ++batch.position.batch;
      Must(steps[how]->ComputeGradients(batch));
      steps[how]->Update(0.01);
    }
    core::PairSide side;
    Net net;
    core::Batch batch;
    std::unique_ptr<trainer::PairExchange> exchange;
    std::vector<std::unique_ptr<MeasuredExchange>> measured;
    std::vector<std::unique_ptr<core::SplitGuidedStep>> steps;
  };
  const auto state = std::make_shared<State>(options, seat);
  for (const size_t how : {0, 1}) {
    for (int i = 0; i < kWarmUpSteps; ++i) state->Step(how);
  }
  trainer::ProcessGroup& group = *seat.group;
  bench::Gang::Ways ways;
  for (const size_t how : {0, 1}) {
    ways.emplace_back([&options, &group, state, how] { return MedianOf(options.steps, group, [&] { return SecondsOf([&] { state->Step(how); }); }); });
  }
  for (const size_t how : {0, 1}) {
    ways.emplace_back([&options, &group, state, how] {
      return MedianOf(options.steps, group, [&] {
        state->measured[how]->TakeWaited();
        state->Step(how);
        return state->measured[how]->TakeWaited();
      });
    });
  }
  ways.emplace_back([state] {
    const int64_t before = state->exchange->bytes_sent();
    state->Step(0);
    return static_cast<double>(state->exchange->bytes_sent() - before);
  });
  return ways;
}

bench::Gang::Ways ColocatedWays(const Options& options, bench::Seat& seat) {
  struct State {
    explicit State(const Options& options)
        : low(options, core::PairSide::kLow),
          full(options, core::PairSide::kFull),
          batch(MakeBatch(options)),
          step(Must(core::GuidedStep::Create(low.member(), full.member(), {}))) {}
    void Step() {
      ++batch.position.batch;
      Must(step->Run(batch, 0.01, 0.002));
    }
    Net low, full;
    core::Batch batch;
    std::unique_ptr<core::GuidedStep> step;
  };
  const auto state = std::make_shared<State>(options);
  for (int i = 0; i < kWarmUpSteps; ++i) state->Step();
  return {[&options, &seat, state] { return MedianOf(options.steps, *seat.group, [&] { return SecondsOf([&] { state->Step(); }); }); }};
}

void Measure(const Options& options) {
  bench::Gang split(2, [&options](bench::Seat& seat) { return SplitWays(options, seat); });
  bench::Gang colocated(1, [&options](bench::Seat& seat) { return ColocatedWays(options, seat); });
  split.AwaitReady();
  colocated.AwaitReady();
  const auto slowest = [](const std::vector<double>& by_rank) { return *std::max_element(by_rank.begin(), by_rank.end()); };
  std::vector<double> apart, held_back, together;
  std::array<std::vector<double>, 2> waits, held_back_waits;  // low, full
  for (int round = 0; round < options.rounds; ++round) {
    apart.push_back(slowest(split.TakeTurn(0)));
    held_back.push_back(slowest(split.TakeTurn(1)));
    together.push_back(colocated.TakeTurn(0)[0]);
    const std::vector<double> wait = split.TakeTurn(2), held_back_wait = split.TakeTurn(3);
    for (size_t side = 0; side < 2; ++side) {
      waits[side].push_back(wait[side]);
      held_back_waits[side].push_back(held_back_wait[side]);
    }
  }
  const std::vector<double> bytes = split.TakeTurn(4);
  split.End();
  colocated.End();
  const std::string place = "split_pair/" + options.network + "/" + (options.link.empty() ? "" : options.link + "/");
  bench::Line(place + "split", bench::Quantile(apart), "s");
  bench::Line(place + "held_back", bench::Quantile(held_back), "s");
  bench::Line(place + "colocated", bench::Quantile(together), "s");
  for (size_t side = 0; side < 2; ++side) {
    const std::string name = place + (side == 0 ? "low" : "full");
    bench::Line(name + "/waits", bench::Quantile(waits[side]), "s");
    bench::Line(name + "/held_back/waits", bench::Quantile(held_back_waits[side]), "s");
    bench::Line(name + "/sends", bytes[side], "bytes");
  }
  bench::Comparison(place + "vs_colocated", "colocated", apart, together);
  bench::Comparison(place + "vs_held_back", "held_back", apart, held_back);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Step time of a split pair beside a colocated one, and what the overlap of its transfer saves"};
  Options options;
  app.add_option("--network", options.network)->capture_default_str()->check(CLI::IsMember({"resnet20", "resnet18"}));
  app.add_option("--link", options.link, "what the lines say of the network between the two");
  app.add_option("--batch", options.batch)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--bits", options.bits, "of weights and activations")->capture_default_str()->check(CLI::Range(1, 8));
  app.add_option("--rounds", options.rounds)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps, "of a turn, of which the median counts")->capture_default_str()->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    Measure(options);
  } catch (const std::exception& error) {
    std::cerr << "bench_split_pair: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
