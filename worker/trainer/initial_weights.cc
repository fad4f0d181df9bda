#include "worker/trainer/initial_weights.h"

#include <spdlog/spdlog.h>

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/import/fit_weights.h"
#include "core/import/weights_file.h"
#include "core/nn/network.h"
#include "worker/trainer/stage_config.h"

namespace bitstair::trainer {
namespace {

// Of a checkpoint of our own: what its metadata rules out.
absl::Status CheckOrigin(const core::WeightsFile& file, const v1::StageSpec& spec) {
  if (!file.is_checkpoint()) return absl::OkStatus();
  if (file.word("network") != spec.network()) return absl::InvalidArgumentError(absl::StrCat("is of a ", file.word("network"), ", not a ", spec.network()));
  if (file.word("activation_bits") != "32" && spec.calibration() == v1::ACTIVATION_CALIBRATION_PERCENTILE) {
    return absl::InvalidArgumentError(absl::StrCat("has activations of ", file.word("activation_bits"),
                                                   " bits, which clip already: set pretrain_activation: clip, so that they are not calibrated"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<core::Checkpoint> ImportInitialWeights(const std::string& path, const v1::StageSpec& spec, const core::SampleSource& train) {
  const auto wrong = [&path](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("initial weights ", path, ": ", status.message()));
  };
  absl::StatusOr<core::WeightsFile> file = core::ReadWeightsFile(path, spec.initial_weights_digest());
  if (!file.ok()) return absl::Status(file.status().code(), absl::StrCat("initial weights: ", file.status().message()));
  if (const absl::Status status = CheckOrigin(*file, spec); !status.ok()) return wrong(status);
  const absl::StatusOr<std::unique_ptr<core::Network>> network = core::CreateNetwork(ParentReluConfigOf(spec, train));
  if (!network.ok()) return network.status();
  // The full-precision network has none, but the stage's own net goes on with it where it is all that starts from the file.
  std::map<std::string, at::Tensor>::node_type logit_scale;
  if (spec.quantize_first_last() && spec.calibration() != v1::ACTIVATION_CALIBRATION_PERCENTILE && !HasTeacher(spec)) {
    logit_scale = file->tensors.extract("logit_scale");
  }
  const core::FitOptions options{.allow_missing = spec.initial_weights().allow_missing(), .allow_unexpected = spec.initial_weights().allow_unexpected()};
  absl::StatusOr<core::FittedWeights> fitted = core::FitWeights(*file, **network, options);
  if (!fitted.ok()) return wrong(fitted.status());
  for (const auto& [what, names] : {std::pair{"missing, kept from the seed", &fitted->missing}, std::pair{"unexpected, passed over", &fitted->unexpected}}) {
    if (!names->empty()) spdlog::warn("initial weights {}: {}: {}", path, what, absl::StrJoin(*names, ", "));
  }
  core::Checkpoint checkpoint;
  checkpoint.stage_name = "initial_weights";
  checkpoint.network = spec.network();
  checkpoint.final = true;
  checkpoint.tensors = std::move(fitted->tensors);
  if (!logit_scale.empty()) checkpoint.tensors.insert(std::move(logit_scale));
  return checkpoint;
}

}  // namespace bitstair::trainer
