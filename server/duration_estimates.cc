#include "server/duration_estimates.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {

std::string KindOf(const v1::StageSpec& spec) {
  return absl::StrCat(spec.network(), " W", spec.weight_bits(), "A", spec.activation_bits(), " ", spec.ranks(), "x", spec.batch_size(), " ", spec.numerics(),
                      " ", spec.data_digest(), " ", spec.data().train_limit(), "-", spec.data().test_limit(), "-", spec.data().held_back(),
                      spec.has_guided() ? " guided" : "", spec.has_distillation() ? absl::StrCat(" distillation ", spec.distillation().students_size()) : "",
                      spec.has_stochastic_precision() ? " stochastic" : "", " ", spec.quantizer());
}

}  // namespace

void DurationEstimates::Learn(const Stage& stage, double seconds) {
  if (!(seconds > 0)) return;
  const std::string kind = KindOf(stage.record.spec());
  per_epoch_[kind] = seconds;
  per_epoch_[absl::StrCat(kind, "\n", stage.record.numeric_profile())] = seconds;
}

std::optional<double> DurationEstimates::PerEpoch(const v1::StageSpec& spec, const std::string& profile) const {
  const std::string kind = KindOf(spec);
  auto found = per_epoch_.find(absl::StrCat(kind, "\n", profile));
  if (profile.empty() || found == per_epoch_.end()) found = per_epoch_.find(kind);
  return found == per_epoch_.end() ? std::nullopt : std::optional<double>(found->second);
}

std::optional<double> DurationEstimates::SecondsLeft(const Stage& stage) const {
  const auto each = PerEpoch(stage.record.spec(), stage.record.numeric_profile());
  if (!each.has_value()) return std::nullopt;
  return *each * std::max(0, stage.record.spec().epochs() - stage.record.checkpoint().epoch());
}

std::optional<double> DurationEstimates::Seconds(const v1::StageSpec& spec) const {
  const auto each = PerEpoch(spec, "");
  return each.has_value() ? std::optional<double>(*each * spec.epochs()) : std::nullopt;
}

void DurationEstimates::LearnMemory(const Stage& stage, int64_t bytes) {
  if (bytes > 0) memory_[KindOf(stage.record.spec())] = bytes;
}

std::optional<int64_t> DurationEstimates::MemoryBytes(const v1::StageSpec& spec) const {
  const auto found = memory_.find(KindOf(spec));
  return found == memory_.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

}  // namespace bitstair::server
