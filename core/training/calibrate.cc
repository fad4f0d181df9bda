#include "core/training/calibrate.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "absl/strings/str_cat.h"
#include "core/nn/batch_norm.h"
#include "core/training/normalized_images.h"

namespace bitstair::core {
namespace {

constexpr int64_t kBatchSize = 128;

// Counts of non-negative float32 values by the upper 20 bits of their pattern, which order as the values do: bins 2^-11 wide, relative to the value. Counts do
// not depend on the order of the values.
class Histogram {
 public:
  Histogram() : counts_(size_t{1} << (32 - kDropped)) {}

  // False on a value that is not finite. Values below zero count as zero.
  bool Add(const at::Tensor& values) {
    const at::Tensor v = values.detach().to(at::kFloat).contiguous();
    const float* p = v.const_data_ptr<float>();
    for (int64_t i = 0; i < v.numel(); ++i) {
      if (!std::isfinite(p[i])) return false;
      const float value = p[i] > 0 ? p[i] : 0.0f;
      ++counts_[std::bit_cast<uint32_t>(value) >> kDropped];
      max_ = std::max(max_, value);
    }
    total_ += v.numel();
    return true;
  }

  // The least upper edge of a bin with at least `percentile` percent of the values at or below it; at most the greatest value.
  double Percentile(double percentile) const {
    const double needed = std::ceil(percentile / 100 * static_cast<double>(total_));
    int64_t seen = 0;
    for (size_t bin = 0; bin < counts_.size(); ++bin) {
      seen += counts_[bin];
      if (static_cast<double>(seen) >= needed) return std::min(max_, std::bit_cast<float>(static_cast<uint32_t>((bin + 1) << kDropped) - 1));
    }
    return max_;
  }

 private:
  static constexpr int kDropped = 12;
  std::vector<int64_t> counts_;
  int64_t total_ = 0;
  float max_ = 0;
};

absl::Status CheckImages(const SampleSource& data, int64_t images) {
  if (images < 1 || data.size() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("calibration needs at least one image, got ", images, " of ", data.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CalibrateActivations(Network& network, const SampleSource& data, int64_t images, double percentile) {
  const NetworkConfig& config = network.config();
  if (config.activation_bits != 32 || config.activation != ActivationFunction::kRelu) {
    return absl::FailedPreconditionError("only a network with ReLU and unquantised activations can be calibrated");
  }
  if (!(percentile > 0 && percentile <= 100)) return absl::InvalidArgumentError(absl::StrCat("percentile ", percentile, " is not in (0, 100]"));
  if (absl::Status status = CheckImages(data, images); !status.ok()) return status;

  const at::NoGradGuard no_grad;
  network.QuantizeWeights();
  const std::vector<ActivationGroup>& groups = network.activation_groups();
  std::vector<Histogram> histograms(groups.size());
  std::string not_finite;
  network.set_activation_observer([&](size_t group, const at::Tensor& values) {
    if (!histograms[group].Add(values) && not_finite.empty()) not_finite = groups[group].name;
  });
  absl::Status unreadable;
  const int64_t count = std::min(images, data.size());
  for (int64_t at = 0; at < count && not_finite.empty(); at += kBatchSize) {
    const absl::StatusOr<LabelledImages> read = ReadImages(data, at, std::min(count, at + kBatchSize), config.dtype);
    unreadable = read.status();
    if (!read.ok()) break;
    network.Forward(read->images, /*training=*/false);
  }
  network.set_activation_observer(nullptr);
  if (!unreadable.ok()) return unreadable;
  if (!not_finite.empty()) return absl::InternalError(absl::StrCat("calibration: activation ", not_finite, " is not finite"));

  std::map<std::string, at::Tensor> latent;
  for (const Parameter& p : network.parameters()) latent[p.name] = p.latent.detach();
  for (size_t g = 0; g < groups.size(); ++g) {
    const double range = histograms[g].Percentile(percentile);
    if (!(range > 0)) continue;
    for (const std::string& norm : groups[g].batch_norms) {
      latent.at(norm + ".weight").div_(range);
      latent.at(norm + ".bias").div_(range);
    }
    for (const std::string& name : groups[g].restored_by) latent.at(name).mul_(range);
  }
  network.QuantizeWeights();
  return absl::OkStatus();
}

absl::Status ReestimateBatchNorm(Network& network, const SampleSource& data, int64_t images, int batch_size) {
  if (absl::Status status = CheckImages(data, images); !status.ok()) return status;
  if (batch_size < 2) return absl::InvalidArgumentError(absl::StrCat("batch statistics need batches of at least 2 images, not ", batch_size));
  network.QuantizeWeights();
  const int64_t count = std::min(images, data.size());
  const int64_t size = std::min<int64_t>(batch_size, count);
  const int64_t batches = count / size;
  std::vector<at::Tensor> sums;
  for (const Buffer& b : network.buffers()) sums.push_back(at::zeros_like(b.value));
  for (int64_t k = 0; k < batches; ++k) {
    // From zero, one training pass leaves momentum * (this batch's statistics).
    for (Buffer& b : network.buffers()) b.value.zero_();
    const absl::StatusOr<LabelledImages> read = ReadImages(data, k * size, (k + 1) * size, network.config().dtype);
    if (!read.ok()) return read.status();
    network.Forward(read->images, /*training=*/true);
    for (size_t i = 0; i < sums.size(); ++i) sums[i].add_(network.buffers()[i].value);
  }
  for (size_t i = 0; i < sums.size(); ++i) network.buffers()[i].value.copy_(sums[i] / (BatchNorm::kMomentum * static_cast<double>(batches)));
  return absl::OkStatus();
}

}  // namespace bitstair::core
