#include "core/training/net_pass.h"

#include <cmath>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/step_clock.h"
#include "core/training/classification_loss.h"

namespace bitstair::core {
namespace {

std::string Describe(const NetworkConfig& config) {
  return absl::StrCat(config.network, " for ", config.image_channels, "x", config.image_height, "x", config.image_width, " images and ", config.classes,
                      " classes");
}

}  // namespace

const Features& SharedImages::For(const Network& network) {
  std::optional<Features>& prepared = network.config().quantizes_first_last() ? codes_ : floats_;
  if (!prepared.has_value()) prepared = network.PrepareImages(pixels_);
  return *prepared;
}

absl::StatusOr<NetPass> RunForward(Network& network, const std::string& name, SharedImages& images, const Batch& batch, bool quantize) {
  NetPass pass;
  std::string wrong;
  try {
    if (quantize) {
      const StepTimer timer(StepPart::kWeights);
      network.QuantizeWeights();
    }
    network.set_position(batch.position);
    pass.logits = network.ForwardPrepared(images.For(network), /*training=*/true);
  } catch (const NotANumber& error) {
    wrong = error.what();
  }
  if (wrong.empty()) {
    pass.loss = ClassificationLoss(network, pass.logits, batch.labels, &pass.result.correct);
    pass.result.loss = pass.loss.item<double>();
    pass.result.images = batch.labels.size(0);
    if (!std::isfinite(pass.result.loss)) wrong = absl::StrCat("the loss is ", pass.result.loss);
  }
  if (wrong.empty()) return pass;
  return absl::InternalError(absl::StrCat("batch ", batch.index, ", ", name, ": ", wrong, "; ", WhereNotFinite(network, images.pixels())));
}

absl::Status CheckAlike(const NetworkConfig& a, const std::string& a_name, const NetworkConfig& b, const std::string& b_name, const std::string& of) {
  if (Describe(a) != Describe(b)) {
    return absl::InvalidArgumentError(absl::StrCat(of, " needs nets of one network: the ", a_name, " is ", Describe(a), ", the ", b_name, " ", Describe(b)));
  }
  if (a.numerics != b.numerics || a.dtype != b.dtype) return absl::InvalidArgumentError(absl::StrCat(of, " needs nets of the same numerics and dtype"));
  return absl::OkStatus();
}

}  // namespace bitstair::core
