#include "core/training/guided_step.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/kernels/step_clock.h"
#include "core/training/classification_loss.h"

namespace bitstair::core {
namespace {

constexpr const char* kLowName = "low-precision net";
constexpr const char* kFullName = "full-precision net";

// Collects the features of some hint points, while it lives.
class HintCollector {
 public:
  HintCollector(Network& network, const std::vector<size_t>& points, std::vector<Features>& into) : network_(network) {
    into.assign(points.size(), {});
    network_.set_hint_observer([&points, &into](size_t point, const Features& features) {
      const auto at = std::find(points.begin(), points.end(), point);
      if (at != points.end()) into[at - points.begin()] = features;
    });
  }
  ~HintCollector() { network_.set_hint_observer(nullptr); }
  HintCollector(const HintCollector&) = delete;
  HintCollector& operator=(const HintCollector&) = delete;

 private:
  Network& network_;
};

// No activation lets a value above 1 through.
bool Clips(const NetworkConfig& config) {
  return config.activation_bits != 32 || config.activation == ActivationFunction::kClip;
}

}  // namespace

absl::StatusOr<std::vector<size_t>> ChooseHintPoints(const Network& network, const std::vector<std::string>& names) {
  const std::vector<HintPoint>& points = network.hint_points();
  if (points.empty()) return absl::InvalidArgumentError(absl::StrCat("network ", network.config().network, " has no hint points"));
  std::vector<size_t> chosen;
  for (const std::string& name : names) {
    const auto found = std::find_if(points.begin(), points.end(), [&](const HintPoint& point) { return point.name == name; });
    if (found == points.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("network ", network.config().network, " has no hint point \"", name,
                       "\"; known: ", absl::StrJoin(points, ", ", [](std::string* out, const HintPoint& point) { absl::StrAppend(out, point.name); })));
    }
    const auto index = static_cast<size_t>(found - points.begin());
    if (std::find(chosen.begin(), chosen.end(), index) != chosen.end())
      return absl::InvalidArgumentError(absl::StrCat("hint point \"", name, "\" is named twice"));
    chosen.push_back(index);
  }
  for (size_t i = 0; names.empty() && i < points.size(); ++i) {
    if (points[i].by_default) chosen.push_back(i);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

absl::Status CheckGuidedPair(const NetworkConfig& low, const NetworkConfig& full, const GuidedOptions& options) {
  if (absl::Status status = CheckAlike(low, kLowName, full, kFullName, "a guided pair"); !status.ok()) return status;
  if (full.weight_bits != 32 || full.activation_bits != 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", kFullName, " of a guided pair has ", full.weight_bits, "-bit weights and ", full.activation_bits, "-bit activations, not 32"));
  }
  if (!(options.lambda >= 0 && std::isfinite(options.lambda))) {
    return absl::InvalidArgumentError(absl::StrCat("lambda of a guided pair is ", options.lambda, ", not a number of at least 0"));
  }
  if (!(options.temperature > 0 && std::isfinite(options.temperature))) {
    return absl::InvalidArgumentError(absl::StrCat("temperature of a guided pair is ", options.temperature, ", not a number above 0"));
  }
  return absl::OkStatus();
}

std::vector<HintOptions> OptionsOfHints(const Network& network, const std::vector<size_t>& hint_points, const NetworkConfig& low, const NetworkConfig& full,
                                        const GuidedOptions& options) {
  std::vector<HintOptions> result;
  for (const size_t point : hint_points) {
    result.push_back({.bits = low.activation_bits,
                      .weight = options.lambda,
                      .temperature = network.hint_points()[point].logits ? options.temperature : 0,
                      .clipped = Clips(low) && Clips(full)});
  }
  return result;
}

absl::StatusOr<std::unique_ptr<GuidedStep>> GuidedStep::Create(PairMember low, PairMember full, const GuidedOptions& options) {
  if (absl::Status status = CheckGuidedPair(low.network->config(), full.network->config(), options); !status.ok()) return status;
  absl::StatusOr<std::vector<size_t>> hint_points = ChooseHintPoints(*low.network, options.hint_points);
  if (!hint_points.ok()) return hint_points.status();
  return std::unique_ptr<GuidedStep>(new GuidedStep(low, full, options, *std::move(hint_points)));
}

GuidedStep::GuidedStep(PairMember low, PairMember full, const GuidedOptions& options, std::vector<size_t> hint_points)
    : members_{Member{low, kLowName, {}, {}}, Member{full, kFullName, {}, {}}},
      hint_points_(std::move(hint_points)),
      hint_options_(OptionsOfHints(*low.network, hint_points_, low.network->config(), full.network->config(), options)) {}

absl::StatusOr<GuidedStepResult> GuidedStep::Run(const Batch& batch, double low_learning_rate, double full_learning_rate) {
  absl::StatusOr<GuidedStepResult> result = ComputeGradients(batch);
  if (result.ok()) Update(low_learning_rate, full_learning_rate);
  return result;
}

absl::StatusOr<GuidedStepResult> GuidedStep::ComputeGradients(const Batch& batch, bool quantize) {
  auto& [low, full] = members_;
  for (Member& member : members_) member.gradients->PrepareForward();
  SharedImages images(batch.images.to(low.network->config().dtype));

  GuidedStepResult result;
  // The low-precision net last: autograd goes backward through the net that came last first, while its arrays may still be in the cache.
  if (absl::Status status = Forward(full, images, batch, quantize, &result.full); !status.ok()) return status;
  if (absl::Status status = Forward(low, images, batch, quantize, &result.low); !status.ok()) return status;
  result.hint = AddHints(&result.hints);
  if (!std::isfinite(result.hint)) {  // a pooling layer may have passed by what is not a number
    Forget();
    return absl::InternalError(absl::StrCat("batch ", batch.index, ": the hint is ", result.hint, "; ", low.name, ": ",
                                            WhereNotFinite(*low.network, images.pixels()), "; ", full.name, ": ",
                                            WhereNotFinite(*full.network, images.pixels())));
  }

  for (Member& member : members_) member.gradients->PrepareBackward(member.loss);
  torch::autograd::backward({std::exchange(low.loss, {}), std::exchange(full.loss, {})});
  const StepTimer timer(StepPart::kAllReduce);
  for (Member& member : members_) member.gradients->Finish();
  return result;
}

void GuidedStep::Update(double low_learning_rate, double full_learning_rate) {
  const StepTimer timer(StepPart::kOptimiser);
  members_[0].sgd->Step(low_learning_rate);
  members_[1].sgd->Step(full_learning_rate);
}

// Features and loss of one net.
absl::Status GuidedStep::Forward(Member& member, SharedImages& images, const Batch& batch, bool quantize, StepResult* result) {
  absl::StatusOr<NetPass> pass = absl::UnknownError("");
  {
    const HintCollector collector(*member.network, hint_points_, member.hints);
    pass = RunForward(*member.network, member.name, images, batch, quantize);
  }
  if (!pass.ok()) {
    Forget();
    return pass.status();
  }
  member.loss = std::move(pass->loss);
  *result = pass->result;
  return absl::OkStatus();
}

// Frees the graphs of a step that ends here.
void GuidedStep::Forget() {
  for (Member& member : members_) {
    member.hints.clear();
    member.loss.reset();
  }
}

// Adds lambda R to both losses and returns R.
double GuidedStep::AddHints(std::vector<double>* terms) {
  auto& [low, full] = members_;
  double distance = 0;
  for (size_t i = 0; i < hint_points_.size(); ++i) {
    const HintTerm term = HintLoss(low.hints[i], full.hints[i], hint_options_[i]);
    distance += term.distance;
    terms->push_back(term.distance);
    if (term.low.defined()) low.loss = low.loss + term.low;
    if (term.full.defined()) full.loss = full.loss + term.full;
  }
  for (Member& member : members_) member.hints.clear();
  return distance;
}

}  // namespace bitstair::core
