#include "core/kernels/cross_entropy.h"

#include <cmath>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

namespace bitstair::core {

CrossEntropy SoftmaxCrossEntropy(const at::Tensor& logits, const at::Tensor& labels) {
  TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous() && labels.dim() == 1 && labels.is_contiguous() && labels.size(0) == logits.size(0) &&
                  labels.scalar_type() == at::kLong,
              "cross-entropy: logits ", logits.sizes(), " and labels ", labels.sizes());
  const int64_t images = logits.size(0), classes = logits.size(1);
  CrossEntropy out;
  out.gradient = at::empty_like(logits);
  std::vector<double> losses(static_cast<size_t>(images));
  std::vector<uint8_t> correct(static_cast<size_t>(images));
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "SoftmaxCrossEntropy", [&] {
    const auto* x = logits.const_data_ptr<scalar_t>();
    const auto* label = labels.const_data_ptr<int64_t>();
    auto* gradient = out.gradient.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
      std::vector<double> exponential(static_cast<size_t>(classes));
      for (int64_t i = begin; i < end; ++i) {
        const scalar_t* row = x + i * classes;
        TORCH_CHECK(label[i] >= 0 && label[i] < classes, "label ", label[i], " of ", classes, " classes");
        int64_t greatest = 0;
        for (int64_t j = 1; j < classes; ++j) {
          if (row[j] > row[greatest]) greatest = j;
        }
        const double max = row[greatest];
        double sum = 0;
        for (int64_t j = 0; j < classes; ++j) sum += exponential[j] = std::exp(static_cast<double>(row[j]) - max);
        losses[i] = std::log(sum) + max - static_cast<double>(row[label[i]]);
        correct[i] = greatest == label[i] ? 1 : 0;
        for (int64_t j = 0; j < classes; ++j) {
          gradient[i * classes + j] = static_cast<scalar_t>((exponential[j] / sum - (j == label[i] ? 1 : 0)) / static_cast<double>(images));
        }
      }
    });
  });
  for (int64_t i = 0; i < images; ++i) {
    out.loss += losses[i] / static_cast<double>(images);
    out.correct += correct[i];
  }
  return out;
}

}  // namespace bitstair::core
