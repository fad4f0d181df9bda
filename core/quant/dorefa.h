// DoReFa-Net's quantisers (arXiv 1606.06160), as the paper 1711.00205 uses them. Formulas: DESIGN section 3, kernels/quant_math.h.
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace bitstair::core {

// codes: odd integers o in [-n, n], n = 2^bits - 1; scale 1/n; there is no zero level. Backward: kernels/dorefa_weights.h. options.weight_norm kStd:
// quant/dorefa_std.h.
std::unique_ptr<WeightQuantizer> MakeDorefaWeightQuantizer(int bits, const QuantizerOptions& options);

// codes: rint(n clip(x, 0, 1)), scale 1/n. Backward: dL/dx = n dL/dcode where 0 <= x <= 1, both ends included.
std::unique_ptr<ActivationQuantizer> MakeDorefaActivationQuantizer(int bits, const QuantizerOptions& options);

}  // namespace bitstair::core
