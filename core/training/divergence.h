// How far the predictions of two nets are apart: what distillation learns from, and guided pairs at the hint point "logits" (Hinton et al., arXiv 1503.02531).
#pragma once

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// KL(softmax(constant / T) || softmax(logits / T)), mean over the batch, as a node of autograd's graph of `logits` alone: a scalar of its dtype. Both [N,
// classes].
at::Tensor DivergenceFrom(const at::Tensor& constant, const at::Tensor& logits, double temperature);

}  // namespace bitstair::core
