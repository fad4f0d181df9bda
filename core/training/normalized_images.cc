#include "core/training/normalized_images.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/data/sample_pipeline.h"

namespace bitstair::core {

absl::StatusOr<LabelledImages> ReadImages(const SampleSource& data, int64_t begin, int64_t end, c10::ScalarType dtype) {
  TORCH_CHECK(begin >= 0 && begin < end && end <= data.size(), "samples [", begin, ", ", end, ") of ", data.size());
  std::vector<int32_t> order(static_cast<size_t>(end - begin));
  std::iota(order.begin(), order.end(), static_cast<int32_t>(begin));
  SamplePipeline pipeline(data, at::get_num_threads());
  pipeline.Start(std::move(order), end - begin, std::nullopt, WhenSkipped::kLeaveOut);
  SampleBatch batch;
  if (!pipeline.Next(&batch)) return absl::DataLossError(pipeline.status().message());
  if (batch.labels.size(0) == 0) {
    return absl::DataLossError(absl::StrCat("none of images ", begin, " to ", end - 1, " can be read; the first: ", batch.skipped.front()));
  }
  return LabelledImages{batch.images.to(dtype), std::move(batch.labels)};
}

at::Tensor NormalizedImages(const SampleSource& data, int64_t begin, int64_t end, c10::ScalarType dtype) {
  const absl::StatusOr<LabelledImages> read = ReadImages(data, begin, end, dtype);
  TORCH_CHECK(read.ok(), read.status().ToString());
  return read->images;
}

}  // namespace bitstair::core
