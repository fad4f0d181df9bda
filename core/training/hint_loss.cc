#include "core/training/hint_loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/hint_distance.h"
#include "core/kernels/quant_math.h"
#include "core/nn/fast_arrays.h"
#include "core/training/divergence.h"

namespace bitstair::core {
namespace {

// Q(features) in units of 1/n (n = 0: the clip), and where the gradient passes.
struct Levels {
  at::Tensor values, passes;
};

Levels LevelsOf(const Features& features, double n) {
  const at::Tensor numbers = features.tensor.detach();
  if (features.greatest_code > 0) return {numbers, at::ones_like(numbers)};
  const at::Tensor clipped = numbers.clamp(0, 1);
  return {n > 0 ? (clipped * n).round() : clipped, numbers.eq(clipped).to(numbers.scalar_type())};
}

// d value / d number in units of 1/n: features of codes count in these units, others in whole ones.
double UnitsPerNumber(const Features& features, double n) {
  return features.greatest_code > 0 || n == 0 ? 1 : n;
}

at::Tensor Node(const Features& features, double value, const at::Tensor& gradient) {
  at::Tensor node = at::full({}, value, gradient.options());
  Record({features.tensor}, node, [gradient](const at::Tensor& grad) -> std::vector<at::Tensor> { return {gradient * grad}; });
  return node;
}

// 1 / n^2, of squares in units of 1/n.
double SquaredUnit(double n) {
  return n > 0 ? 1 / (n * n) : 1;
}

HintTerm Reference(const Features& low, const Features& full, double n, double weight) {
  HintTerm term;
  at::Tensor low_gradient, full_gradient;
  {
    const at::NoGradGuard no_grad;
    const Levels a = LevelsOf(low, n), b = LevelsOf(full, n);
    const at::Tensor d = a.values - b.values;
    const double unit = SquaredUnit(n) / static_cast<double>(d.numel());
    term.distance = 0.5 * unit * d.square().sum(at::kDouble).item<double>();
    low_gradient = d * a.passes * (weight * unit * UnitsPerNumber(low, n));
    full_gradient = d * b.passes * (-weight * unit * UnitsPerNumber(full, n));
  }
  term.low = Node(low, weight * term.distance, low_gradient);
  term.full = Node(full, weight * term.distance, full_gradient);
  return term;
}

HintTerm Fast(const Features& low, const Features& full, double n, const HintOptions& options) {
  const at::NoGradGuard no_grad;
  const at::Tensor &a = low.fast->numbers, &b = full.fast->numbers;
  at::Tensor difference = at::empty(b.sizes(), b.scalar_type());
  at::Tensor masked = options.clipped ? at::Tensor() : at::empty(b.sizes(), b.scalar_type());
  const double squares = HintDistance(
      {.size = b.numel(), .low = Read(a), .full = Read(b), .n = static_cast<float>(n), .difference = Write(difference), .full_masked = Write(masked)});
  const double unit = SquaredUnit(n) / static_cast<double>(b.numel());
  if (options.weight != 0) {
    low.fast->parts->push_back({difference, static_cast<float>(options.weight * unit * UnitsPerNumber(low, n))});
    full.fast->parts->push_back({options.clipped ? difference : masked, static_cast<float>(-options.weight * unit * UnitsPerNumber(full, n))});
  }
  return {.distance = 0.5 * unit * squares};
}

HintTerm OfPredictions(const at::Tensor& low, const at::Tensor& full, const HintOptions& options) {
  const double square = options.temperature * options.temperature;
  const at::Tensor of_low = DivergenceFrom(full, low, options.temperature), of_full = DivergenceFrom(low, full, options.temperature);
  return {.distance = square * of_low.item<double>(), .low = options.weight * square * of_low, .full = options.weight * square * of_full};
}

}  // namespace

HintTerm HintLoss(const Features& low, const Features& full, const HintOptions& options) {
  const int64_t greatest = low.greatest_code > 0 ? low.greatest_code : options.bits == 32 ? 0 : GreatestCode(options.bits);
  const auto n = static_cast<double>(greatest);
  const bool fast = low.fast != nullptr;
  TORCH_CHECK(fast == (full.fast != nullptr), "a hint between nets of different numerics");
  const at::Tensor &a = fast ? low.fast->numbers : low.tensor, &b = fast ? full.fast->numbers : full.tensor;
  TORCH_CHECK(a.sizes() == b.sizes(), "a hint between features of shapes ", a.sizes(), " and ", b.sizes());
  if (options.temperature > 0) return OfPredictions(a, b, options);
  TORCH_CHECK(full.greatest_code == 0 || full.greatest_code == greatest, "a hint to a net with codes up to ", full.greatest_code);
  return fast ? Fast(low, full, n, options) : Reference(low, full, n, options.weight);
}

}  // namespace bitstair::core
