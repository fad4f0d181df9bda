// Quantisers: what turns floats into integer codes, and how gradients go back. Layers know only these interfaces; names are resolved by a registry.
// Objects are immutable unless a quantiser says otherwise (one with learned parameters of its own, such as LSQ's step or PACT's clip, owns them and gathers
// their gradients in Backward). Bits: 1..8 (the integer contract, DESIGN section 4) or 16 (the same formulas, outside of the contract).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace bitstair::core {

// value = scale * code + offset
struct Quantized {
  at::Tensor codes;  // integer-valued, dtype and shape of what was quantised
  double scale = 1;
  double offset = 0;
};

class WeightQuantizer {
 public:
  virtual ~WeightQuantizer() = default;

  // Codes of the latent weights (contiguous, float32 or float64, CPU), and into `values` (same shape and dtype, written in place) what the codes mean.
  virtual Quantized Forward(const at::Tensor& latent, at::Tensor& values) const = 0;

  // dL/dlatent from dL/dvalue; linear in grad_values, so it may run after gradients were averaged over ranks.
  virtual at::Tensor Backward(const at::Tensor& latent, const at::Tensor& grad_values) const = 0;

  // max |code| that Forward can give.
  virtual int64_t greatest_code() const = 0;
};

class ActivationQuantizer {
 public:
  virtual ~ActivationQuantizer() = default;

  // x: contiguous, float32 or float64, CPU. Codes are at least 0; code 0 has the value 0 (padding).
  virtual Quantized Forward(const at::Tensor& x) const = 0;

  // dL/dx from dL/dcode (not dL/dvalue: gradients in a network are derivatives by the numbers that its tensors hold, see nn/features.h).
  virtual at::Tensor Backward(const at::Tensor& x, const at::Tensor& grad_codes) const = 0;

  virtual int64_t greatest_code() const = 0;
};

struct QuantizerOptions {
  bool detach_weight_max = false;
};

// One line per quantiser in quantizer.cc.
struct QuantizerFamily {
  std::string name;
  std::unique_ptr<WeightQuantizer> (*weights)(int bits, const QuantizerOptions& options);
  std::unique_ptr<ActivationQuantizer> (*activations)(int bits, const QuantizerOptions& options);
};

// INVALID_ARGUMENT, listing the known names, if there is no such quantiser.
absl::StatusOr<QuantizerFamily> FindQuantizer(const std::string& name);

// True for 1..8, 16 and 32 (32: not quantised).
bool IsLegalWidth(int bits);

}  // namespace bitstair::core
