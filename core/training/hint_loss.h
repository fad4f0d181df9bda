// The hint of guided training: how far the features of two nets are apart (DESIGN section 3, "Guided"; Zhuang et al., arXiv 1711.00205).
//   R = 1/2 mean (Q(mu_full) - Q(mu_low))^2 over the elements of a hint point;   Q(z) = rint(n clip(z, 0, 1)) / n, n = 2^bits - 1, straight through where
//   0 <= z <= 1;   for 32 bits Q is the clip
// The width is that of the low-precision net's features at the hint point, so Q leaves them as they are; where they are not quantised, it is the width of that
// net's activations.
// At the logits, which no activation bounds, predictions are compared, as mutual distillation does (divergence.h): in the loss of each net
//   R = T^2 KL(softmax(z_other / T) || softmax(z_own / T)), mean over the batch
#pragma once

#include <ATen/core/Tensor.h>

#include "core/nn/features.h"

namespace bitstair::core {

struct HintOptions {
  int bits = 32;           // the low-precision net's activation width; features of codes have their own
  double weight = 1;       // lambda, for the element mean
  double temperature = 0;  // T, above 0, for logits; 0 for features
  bool clipped = false;    // both nets' activations are clips: no feature is above 1. Spares numerics fast an array, changes no result
};

struct HintTerm {
  double distance = 0;  // R; for logits the low-precision net's
  // weight R as scalars for the losses of the two nets, each a function of its own net's features alone: the other's are constants. Undefined for features in
  // numerics fast.
  at::Tensor low, full;
};

// low, full: features of one hint point of two nets of equal numerics, for the same images; from Forward in training, before the backward pass. Numerics
// reference, and logits: nodes of autograd's graph. Features in numerics fast: one pass, and the gradients of weight R lie in both nets' FastFeatures::parts.
// c10::Error for features of different shapes.
HintTerm HintLoss(const Features& low, const Features& full, const HintOptions& options);

}  // namespace bitstair::core
