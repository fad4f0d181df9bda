// `./dev bench convolutions`: how fast oneDNN's convolutions are on this processor in the types that numerics "fast" has to choose from, one JSON line each,
// with the multiply-adds per second, so that a step's time can be held against what the processor can do. Which type gradients have follows from it
// (docs/adr/0005).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/kernels/convolution.h"

namespace {

using bitstair::core::Convolution;
using bitstair::core::ConvolutionShape;

struct Layer {
  const char* name;
  int64_t images, channels, size;
  int64_t in_channels = channels, kernel = 3, stride = 1;  // the first layer's differ

  bool is_first() const { return in_channels != channels; }
};
// The 3x3 convolutions of ResNet-20 (batch 128) and ResNet-18 (224x224, batch 16), and their first layers, which have no integers and no input gradient.
constexpr Layer kLayers[] = {{"resnet20/16x32x32", 128, 16, 32}, {"resnet20/32x16x16", 128, 32, 16},  {"resnet20/64x8x8", 128, 64, 8},
                             {"resnet18/64x56x56", 16, 64, 56},  {"resnet18/128x28x28", 16, 128, 28}, {"resnet18/256x14x14", 16, 256, 14},
                             {"resnet18/512x7x7", 16, 512, 7},   {"resnet20/first", 128, 16, 32, 3},  {"resnet18/first", 16, 64, 224, 3, 7, 2}};

// The least of `times` calls: what the machine can do when nothing else runs.
double Seconds(int times, const std::function<void()>& f) {
  f();
  double least = 1e9;
  for (int i = 0; i < times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return least;
}

void Report(const Layer& layer, const ConvolutionShape& shape, const std::string& what, double seconds) {
  const int64_t positions = shape.Out(layer.size) * shape.Out(layer.size);
  const auto products = static_cast<double>(layer.images * positions * shape.out_channels * shape.in_channels * shape.kernel * shape.kernel);
  std::cout << nlohmann::json{{"name", std::string("convolutions/") + layer.name + "/" + what},
                              {"value", seconds},
                              {"unit", "s"},
                              {"multiply_adds_per_second", products / seconds}}
            << std::endl;
}

void Measure(const Layer& layer, int times) {
  const ConvolutionShape shape{layer.in_channels, layer.channels, layer.kernel, layer.stride, layer.kernel / 2};
  const int64_t out_size = shape.Out(layer.size);
  const std::vector<int64_t> in_sizes{layer.images, layer.size, layer.size, layer.in_channels}, out_sizes{layer.images, out_size, out_size, layer.channels};
  const at::Tensor weights = at::randint(16, {layer.channels, layer.in_channels, layer.kernel, layer.kernel}, at::kFloat) * 2 - 15;
  const auto report = [&](const std::string& what, const std::function<void()>& f) { Report(layer, shape, what, Seconds(times, f)); };
  if (!layer.is_first()) {
    Convolution convolution(shape);
    convolution.SetWeights(weights, 15);
    const at::Tensor codes = at::randint(16, in_sizes, at::kByte);
    at::Tensor sums = at::empty(out_sizes, at::kInt);
    report("int8_forward", [&] { convolution.SumCodes(codes, 15, sums); });
  }
  for (const c10::ScalarType type : {at::kFloat, at::kBFloat16}) {
    if (!bitstair::core::SetFastFloat(type)) continue;
    const std::string name = type == at::kFloat ? "float32" : "bf16";
    Convolution convolution(shape);
    convolution.SetWeights(weights, 15);
    const at::Tensor x = at::randn(in_sizes).to(type), grad = at::randn(out_sizes).to(type);
    at::Tensor out = at::empty(out_sizes, type), grad_x = at::empty(in_sizes, type);
    report(name + "_forward", [&] { convolution.Forward(x, out); });
    convolution.BeginBackward();
    if (!layer.is_first()) {
      const at::Tensor grad_codes = at::randint(255, out_sizes, at::kShort).sub(127).to(at::kChar);
      report(name + "_input_gradient", [&] { convolution.InputGradient(grad, grad_x); });
      report("int8_input_gradient_to_" + name, [&] { convolution.InputGradientOfCodes(grad_codes, grad_x); });
    }
    report(name + "_weight_gradient", [&] {
      bitstair::core::WeightGradientSum sum;
      convolution.AddWeightGradient(x, grad, sum);
      convolution.TakeWeightGradient({sum}, 1);
    });
  }
  bitstair::core::SetFastFloat(at::kHalf);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times oneDNN's convolutions as numerics fast calls them.");
  int threads = at::get_num_threads(), times = 20;
  app.add_option("--threads", threads, "default: all cores")->check(CLI::PositiveNumber);
  app.add_option("--times", times, "calls of which the fastest counts")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    at::set_num_threads(threads);
    const bool bfloat16 = bitstair::core::FastFloat() == at::kBFloat16;
    std::cerr << "gradients of numerics fast are " << (bfloat16 ? "bf16" : "float32") << " on this processor; " << threads << " threads\n";
    for (const Layer& layer : kLayers) Measure(layer, times);
  } catch (const std::exception& error) {
    std::cerr << "bench_convolutions: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
