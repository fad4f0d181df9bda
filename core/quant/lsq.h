// LSQ, Learned Step Size Quantization (Esser et al., arXiv 1902.08153).
//   v_q = s rint(clip(v / s, -Q_N, Q_P));   dv_q/dv = 1 within the clip (both ends included), else 0
//   dv_q/ds = rint(v / s) - v / s within the clip, -Q_N below it, Q_P above it; times g = 1 / sqrt(N Q_P)
// N: weights of the tensor, or features of one image. The step s is learned itself, not its logarithm, because g is made for that: changes of s are then as
// great beside s as those of the weights beside the weights. It stays positive because one update at most halves it (training/sgd.h). No weight decay.
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace bitstair::core {

// bits: 2..8. codes: -2^(bits-1) .. 2^(bits-1) - 1, zero among them; scale s. StartLearning: s = 2 mean|w| / sqrt(Q_P); 1 if all weights are 0.
std::unique_ptr<WeightQuantizer> MakeLsqWeightQuantizer(int bits, const QuantizerOptions& options);

// codes: 0 .. 2^bits - 1; scale s. s starts at 1/n: the calibration makes ranges [0, 1].
std::unique_ptr<ActivationQuantizer> MakeLsqActivationQuantizer(int bits, const QuantizerOptions& options);

}  // namespace bitstair::core
