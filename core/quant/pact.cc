#include "core/quant/pact.h"

#include "core/quant/ranged_activation.h"

namespace bitstair::core {
namespace {

class PactActivationQuantizer final : public RangedActivation {
 public:
  using RangedActivation::RangedActivation;

  double range() const override { return value(); }
  LearnedScalar learned() const override { return {"clip", tensor(), true}; }
  // dL/dalpha = sum dL/dvalue [x > alpha], dL/dvalue = (n / alpha) dL/dcode.
  double LearnedFactor(int64_t) const override { return 1 / value(); }
};

}  // namespace

std::unique_ptr<ActivationQuantizer> MakePactActivationQuantizer(int bits, const QuantizerOptions& options) {
  return std::make_unique<PactActivationQuantizer>(bits, 1.0, options.dtype);
}

}  // namespace bitstair::core
