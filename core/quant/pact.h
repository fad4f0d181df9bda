// PACT (Choi et al., arXiv 1805.06085): activations with a learned clip. Weights are DoReFa's, as in the paper.
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace bitstair::core {

// codes: rint(n clip(x / alpha, 0, 1)), scale alpha/n. Backward: straight-through where 0 <= x <= alpha; dL/dalpha = sum of dL/dvalue where x > alpha. alpha
// starts at 1, where the calibration puts the end of the range, and decays with SgdOptions::clip_weight_decay.
std::unique_ptr<ActivationQuantizer> MakePactActivationQuantizer(int bits, const QuantizerOptions& options);

}  // namespace bitstair::core
