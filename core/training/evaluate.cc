#include "core/training/evaluate.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "core/data/sample_pipeline.h"

namespace bitstair::core {

int EvaluationBatchSize(const ImageShape& shape) {
  constexpr int64_t pixels = 256 * 32 * 32, least = 32, most = 256;
  return static_cast<int>(std::clamp(pixels / (int64_t{shape.height} * shape.width), least, most));
}

absl::StatusOr<EvaluationSums> Evaluate(Network& network, const SampleSource& data, int64_t begin, int64_t end, int batch_size,
                                        const std::function<void(int64_t)>& progress) {
  TORCH_CHECK(begin >= 0 && begin <= end && end <= data.size() && batch_size > 0, "evaluation of images [", begin, ", ", end, ") of ", data.size(),
              " in batches of ", batch_size);
  const at::NoGradGuard no_grad;
  network.QuantizeWeights();
  std::vector<int32_t> order(static_cast<size_t>(end - begin));
  std::iota(order.begin(), order.end(), static_cast<int32_t>(begin));
  SamplePipeline pipeline(data, at::get_num_threads());
  pipeline.Start(std::move(order), batch_size, std::nullopt, WhenSkipped::kLeaveOut);
  EvaluationSums sums;
  for (SampleBatch batch; pipeline.Next(&batch);) {
    sums.skipped += static_cast<int64_t>(batch.skipped.size());
    const int64_t images = batch.labels.size(0);
    if (images == 0) continue;
    const at::Tensor logits = network.Forward(batch.images.to(network.config().dtype), /*training=*/false);
    sums.loss += at::cross_entropy_loss(logits.to(at::kDouble), batch.labels, {}, at::Reduction::Sum).item<double>();
    const at::Tensor hits = std::get<1>(logits.topk(std::min<int64_t>(5, logits.size(1)), 1)).eq(batch.labels.unsqueeze(1));
    sums.top1 += hits.select(1, 0).sum().item<int64_t>();
    sums.top5 += hits.sum().item<int64_t>();
    sums.images += images;
    if (progress) progress(sums.images);
  }
  if (!pipeline.status().ok()) return pipeline.status();
  return sums;
}

}  // namespace bitstair::core
