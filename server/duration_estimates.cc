#include "server/duration_estimates.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {

std::string KindOf(const v1::StageSpec& spec) {
  return absl::StrCat(spec.network(), " W", spec.weight_bits(), "A", spec.activation_bits(), " ",
                      spec.reduction() == v1::REDUCTION_FIXED_SHARDS ? absl::StrCat("shards ", spec.shards()) : absl::StrCat(spec.ranks()), "x",
                      spec.batch_size(), " ", spec.numerics(), " ", spec.data_digest(), " ", spec.data().train_limit(), "-", spec.data().test_limit(), "-",
                      spec.data().held_back(), spec.has_guided() ? " guided" : "", spec.placement() == v1::PAIR_PLACEMENT_SPLIT ? " split" : "",
                      spec.has_distillation() ? absl::StrCat(" distillation ", spec.distillation().students_size()) : "",
                      spec.has_stochastic_precision() ? " stochastic" : "", " ", spec.quantizer());
}

}  // namespace

void DurationEstimates::Learn(const Stage& stage, double seconds) {
  if (!(seconds > 0)) return;
  const std::string kind = KindOf(stage.record.spec());
  const int ranks = stage.record.ranks().empty() ? MostRanks(stage.record.spec()) : stage.record.ranks_size();
  per_epoch_[kind][ranks] = seconds;
  per_epoch_[absl::StrCat(kind, "\n", stage.record.numeric_profile())][ranks] = seconds;
}

std::optional<double> DurationEstimates::PerEpoch(const v1::StageSpec& spec, const std::string& profile, int ranks) const {
  const std::string kind = KindOf(spec);
  auto found = per_epoch_.find(absl::StrCat(kind, "\n", profile));
  if (profile.empty() || found == per_epoch_.end()) found = per_epoch_.find(kind);
  if (found == per_epoch_.end()) return std::nullopt;
  const auto nearer = [&](const auto& a, const auto& b) { return std::abs(a.first - ranks) < std::abs(b.first - ranks); };
  const auto [measured, seconds] = *std::min_element(found->second.begin(), found->second.end(), nearer);
  return seconds * measured / ranks;
}

std::optional<double> DurationEstimates::SecondsLeft(const Stage& stage) const {
  const int ranks = stage.attempt.has_value() ? static_cast<int>(stage.attempt->ranks.size()) : LeastRanks(stage.record.spec());
  const auto each = PerEpoch(stage.record.spec(), stage.record.numeric_profile(), ranks);
  if (!each.has_value()) return std::nullopt;
  return *each * std::max(0, stage.record.spec().epochs() - stage.record.checkpoint().epoch());
}

std::optional<double> DurationEstimates::Seconds(const v1::StageSpec& spec) const {
  const auto each = PerEpoch(spec, "", LeastRanks(spec));
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
