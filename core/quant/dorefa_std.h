// DoReFa's weight levels with another divisor: a multiple of the weights' root mean square instead of the greatest weight.
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace bitstair::core {

// sigma = sqrt(mean w^2), t = clip(w / (c sigma), -1, 1), o = 2 rint(n (t/2 + 1/2)) - n, n = 2^bits - 1; scale 1/n. c is where a uniform quantiser of 2^bits
// levels has the least mean square error on Gaussian values (J. Max, Quantizing for minimum distortion, 1960), so that all levels are in use: divided by the
// greatest weight, two-bit weights start out nearly binary. Backward: straight-through rounding; the gradient passes where |w| <= c sigma; the term through
// sigma is kept unless detach_norm. All weights 0: codes of t = 0, gradient 0.
std::unique_ptr<WeightQuantizer> MakeStdWeightQuantizer(int bits, bool detach_norm);

}  // namespace bitstair::core
