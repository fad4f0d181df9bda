// What training steps share: the loss of a batch, and where numbers stopped being numbers.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "core/nn/network.h"

namespace bitstair::core {

// The mean cross-entropy of `logits` [N, classes], which network.Forward gave in training, as a node of autograd's graph: a scalar of the logits' dtype.
// labels: [N], int64. correct: images whose greatest logit is the label's.
at::Tensor ClassificationLoss(const Network& network, const at::Tensor& logits, const at::Tensor& labels, int64_t* correct);

// Where the first number that is not finite can be seen, in words. Running statistics have just taken up this batch's, so they tell the layer.
std::string WhereNotFinite(Network& network, const at::Tensor& images);

}  // namespace bitstair::core
