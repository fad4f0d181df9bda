// Softmax and cross-entropy in one pass over the logits, forward and backward together.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

struct CrossEntropy {
  double loss = 0;      // mean over images of log(sum_j exp(x_j)) - x_label; NaN or infinite where the logits are
  int64_t correct = 0;  // images whose first greatest logit is the label's
  at::Tensor gradient;  // dL/dlogits = (softmax(x) - onehot(label)) / images
};

// logits: [images, classes], float32 or float64, contiguous; labels: [images], int64, in [0, classes). Computed in float64, images in order. c10::Error for a
// label out of range.
CrossEntropy SoftmaxCrossEntropy(const at::Tensor& logits, const at::Tensor& labels);

}  // namespace bitstair::core
