// Quantisers: what turns floats into integer codes, and how gradients go back. Layers know only these interfaces; names are resolved by a registry.
// Objects are immutable but for a learned scalar that a quantiser may own, such as LSQ's step or PACT's clip: the network lists it among its parameters, and
// the optimiser changes it between steps (docs/quantizers.md). Bits: 1..8 (the integer contract, DESIGN section 4) or 16 (the same formulas, outside of the
// contract).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace bitstair::core {

// A positive number that a quantiser learns.
struct LearnedScalar {
  const char* name = "";  // behind the name of what is quantised: "step" of "layer1.0.conv1.weight" is layer1.0.conv1.weight_step
  at::Tensor value;       // [1], QuantizerOptions::dtype; undefined: nothing is learned
  bool is_clip = false;   // decays with SgdOptions::clip_weight_decay; others do not decay
};

// value = scale * code + offset
struct Quantized {
  at::Tensor codes;  // integer-valued, dtype and shape of what was quantised
  double scale = 1;
  double offset = 0;
};

// What a weight quantiser gathers of a whole tensor in a first pass and needs of it in the second; what the numbers mean is its own affair.
using WeightSummary = std::array<double, 4>;

// Elements of a tensor: float32 or float64.
struct WeightBlock {
  const void* data = nullptr;
  c10::ScalarType type = c10::ScalarType::Float;
  int64_t size = 0;
};

// Works on blocks of a tensor, so that one pass over all tensors of a network keeps all threads busy (quant/weight_pass.h). Each direction has two passes:
// one gathers summaries, which are added in the order of the blocks, one writes. Calls come from several threads at once. value = scale() * code.
class WeightQuantizer {
 public:
  virtual ~WeightQuantizer() = default;

  // A tensor with a NaN has one at [0].
  virtual WeightSummary Summarize(WeightBlock latent) const = 0;
  virtual void Add(WeightSummary& sum, const WeightSummary& block) const = 0;
  // codes: `size` integers of latent.type, or kChar or kShort, whichever holds greatest_code().
  virtual void WriteCodes(WeightBlock latent, const WeightSummary& all, void* codes, c10::ScalarType type) const = 0;

  // scale() * code before it was rounded, of latent.type. Its gradient is that of the rounded value: rounding is straight-through. A quantiser that does not
  // override it throws c10::Error; stochastic precision needs it.
  virtual void WriteValues(WeightBlock latent, const WeightSummary& all, void* values) const;

  // dL/dlatent from dL/dvalue; linear in grad_values, so it may run after gradients were averaged over ranks. All of latent.type. values: the sum of Summarize
  // over the tensor, where gradient_needs_values(); else zeros.
  virtual bool gradient_needs_values() const { return false; }
  virtual WeightSummary SummarizeGradient(WeightBlock latent, const WeightSummary& values, const void* grad_values) const = 0;
  virtual void AddGradient(WeightSummary& sum, const WeightSummary& block) const = 0;
  // grad_latent may be grad_values.
  virtual void WriteGradient(WeightBlock latent, const WeightSummary& values, const void* grad_values, const WeightSummary& all, void* grad_latent) const = 0;

  // max |code|
  virtual int64_t greatest_code() const = 0;
  virtual double scale() const = 0;

  virtual LearnedScalar learned() const { return {}; }
  // Sets the scalar as a new stage begins with these weights.
  virtual void StartLearning(const at::Tensor& /*latent*/) const {}
  // dL/dscalar from the sum of SummarizeGradient over the tensor's `size` elements; linear in grad_values, too.
  virtual double LearnedGradient(const WeightSummary& /*all*/, int64_t /*size*/) const { return 0; }
};

// codes = rint(n clip(u, 0, 1)) with u = x / range(): what comes before divides, for the factors of a batch norm cost nothing to change. value = scale() code.
class ActivationQuantizer {
 public:
  virtual ~ActivationQuantizer() = default;

  // u: contiguous, float32 or float64, CPU. Codes are at least 0; code 0 has the value 0 (padding).
  virtual Quantized Forward(const at::Tensor& u) const = 0;

  // dL/du from dL/dcode (not dL/dvalue: gradients in a network are derivatives by the numbers that its tensors hold, see nn/features.h).
  virtual at::Tensor Backward(const at::Tensor& u, const at::Tensor& grad_codes) const = 0;

  virtual int64_t greatest_code() const = 0;
  virtual double range() const { return 1; }
  virtual double scale() const { return range() / static_cast<double>(greatest_code()); }

  virtual LearnedScalar learned() const { return {}; }
  // dL/dscalar = LearnedFactor(features) sum_i dL/dcode_i t_i, t_i = n where u_i > 1, else 0 where the gradient does not pass, else code_i - n u_i if
  // learns_rounding(), else 0. features: elements of one image.
  virtual bool learns_rounding() const { return false; }
  virtual double LearnedFactor(int64_t /*features*/) const { return 0; }
};

// What weights are divided by before they are rounded: their greatest magnitude, or a multiple of their root mean square.
enum class WeightNorm : uint8_t { kMax, kStd };

struct QuantizerOptions {
  bool detach_weight_max = false;  // the gradient takes the divisor as a constant
  WeightNorm weight_norm = WeightNorm::kMax;
  c10::ScalarType dtype = c10::ScalarType::Float;  // of learned scalars
};

// One line per quantiser in quantizer.cc.
struct QuantizerFamily {
  std::string name;
  std::unique_ptr<WeightQuantizer> (*weights)(int bits, const QuantizerOptions& options);
  std::unique_ptr<ActivationQuantizer> (*activations)(int bits, const QuantizerOptions& options);
  bool learns = false;        // activations have a learned scalar; then 16 bits are refused
  int least_weight_bits = 1;  // fewer are refused
};

// INVALID_ARGUMENT, listing the known names, if there is no such quantiser.
absl::StatusOr<QuantizerFamily> FindQuantizer(const std::string& name);

// True for 1..8, 16 and 32 (32: not quantised).
bool IsLegalWidth(int bits);

}  // namespace bitstair::core
