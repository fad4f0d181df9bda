#include "core/training/evaluate.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/training/normalized_images.h"

namespace bitstair::core {

EvaluationSums Evaluate(Network& network, const ImageDataset& data, int64_t begin, int64_t end, int batch_size, const std::function<void(int64_t)>& progress) {
  TORCH_CHECK(begin >= 0 && begin <= end && end <= data.size() && batch_size > 0, "evaluation of images [", begin, ", ", end, ") of ", data.size(),
              " in batches of ", batch_size);
  const at::NoGradGuard no_grad;
  network.QuantizeWeights();
  EvaluationSums sums;
  for (int64_t at = begin; at < end; at += batch_size) {
    const int64_t stop = std::min<int64_t>(end, at + batch_size);
    const at::Tensor labels = data.labels.slice(0, at, stop);
    const at::Tensor logits = network.Forward(NormalizedImages(data, at, stop, network.config().dtype), /*training=*/false);
    sums.loss += at::cross_entropy_loss(logits.to(at::kDouble), labels, {}, at::Reduction::Sum).item<double>();
    const at::Tensor hits = std::get<1>(logits.topk(std::min<int64_t>(5, logits.size(1)), 1)).eq(labels.unsqueeze(1));
    sums.top1 += hits.select(1, 0).sum().item<int64_t>();
    sums.top5 += hits.sum().item<int64_t>();
    sums.images += stop - at;
    if (progress) progress(sums.images);
  }
  return sums;
}

}  // namespace bitstair::core
