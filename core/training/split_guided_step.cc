#include "core/training/split_guided_step.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/convolution.h"
#include "core/kernels/quant_math.h"
#include "core/kernels/step_clock.h"
#include "core/nn/fast_arrays.h"
#include "core/training/classification_loss.h"
#include "core/training/hint_loss.h"

namespace bitstair::core {
namespace {

// In Q of how many bits the pair is compared at this hint point of the low-precision net (hint_loss.h).
int WidthOf(const Features& low, int bits) {
  return low.greatest_code > 0 ? std::bit_width(static_cast<uint64_t>(low.greatest_code)) : bits;
}

// Q(features) with this many bits; of logits: themselves.
HintFeatures CodesOf(const Features& features, int bits, bool logits) {
  const at::NoGradGuard no_grad;
  const at::Tensor numbers = (features.fast != nullptr ? features.fast->numbers : features.tensor).detach();
  if (features.greatest_code > 0 || logits) return {numbers.to(at::kFloat).contiguous(), bits};
  const at::Tensor clipped = numbers.to(at::kFloat).clamp(0, 1);
  return {(bits == 32 ? clipped : (clipped * static_cast<double>(GreatestCode(bits))).round()).contiguous(), bits};
}

// The other net's features as constants of HintLoss. side: the other's.
Features Constant(const HintFeatures& received, PairSide side, const Features& own) {
  Features features;
  const int64_t greatest = received.bits == 32 ? 0 : GreatestCode(received.bits);
  if (own.fast == nullptr) {
    features.tensor = received.values.to(own.tensor.scalar_type());
    features.greatest_code = greatest;
    return features;
  }
  // The fused kernel takes bytes of the low-precision net alone, and else one float type. rint(n (code / n)) is the code again, also with code / n in bfloat16,
  // as far as the features themselves were in it or n <= 255.
  const bool bytes = side == PairSide::kLow && greatest > 0 && greatest <= 255;
  const at::ScalarType own_type = own.fast->numbers.scalar_type();
  const at::Tensor values = greatest > 0 ? received.values / static_cast<double>(greatest) : received.values;
  features.fast = std::make_shared<FastFeatures>();
  features.fast->numbers = bytes ? received.values.to(at::kByte) : values.to(own_type == at::kByte ? FastFloat() : own_type);
  features.greatest_code = side == PairSide::kLow ? greatest : 0;
  return features;
}

const char* NameOf(PairSide side) {
  return side == PairSide::kLow ? "low-precision net" : "full-precision net";
}

}  // namespace

absl::StatusOr<std::unique_ptr<SplitGuidedStep>> SplitGuidedStep::Create(PairMember own, PairSide side, const NetworkConfig& low, const NetworkConfig& full,
                                                                         const GuidedOptions& options, bool early, FeatureExchange* exchange) {
  if (absl::Status status = CheckGuidedPair(low, full, options); !status.ok()) return status;
  absl::StatusOr<std::vector<size_t>> hint_points = ChooseHintPoints(*own.network, options.hint_points);
  if (!hint_points.ok()) return hint_points.status();
  return std::unique_ptr<SplitGuidedStep>(new SplitGuidedStep(own, side, low, full, options, early, *std::move(hint_points), exchange));
}

SplitGuidedStep::SplitGuidedStep(PairMember own, PairSide side, const NetworkConfig& low, const NetworkConfig& full, const GuidedOptions& options, bool early,
                                 std::vector<size_t> hint_points, FeatureExchange* exchange)
    : own_(own),
      side_(side),
      early_(early),
      hint_points_(std::move(hint_points)),
      hint_options_(OptionsOfHints(*own.network, hint_points_, low, full, options)),
      exchange_(*exchange),
      widths_(hint_points_.size(), 0) {}

absl::StatusOr<GuidedStepResult> SplitGuidedStep::ComputeGradients(const Batch& batch, bool quantize) {
  own_.gradients->PrepareForward();
  exchange_.Begin();
  SharedImages images(batch.images.to(own_.network->config().dtype));
  hints_.assign(hint_points_.size(), {});
  sent_.assign(hint_points_.size(), false);
  own_.network->set_hint_observer([this](size_t point, const Features& features) {
    const auto at = std::find(hint_points_.begin(), hint_points_.end(), point);
    if (at == hint_points_.end()) return;
    const auto index = static_cast<size_t>(at - hint_points_.begin());
    hints_[index] = features;
    if (side_ == PairSide::kLow) widths_[index] = IsLogits(index) ? 32 : WidthOf(features, hint_options_[index].bits);
    if (side_ == PairSide::kLow || (early_ && widths_[index] > 0)) Send(index);
  });
  absl::StatusOr<NetPass> pass = RunForward(*own_.network, NameOf(side_), images, batch, quantize);
  own_.network->set_hint_observer(nullptr);
  GuidedStepResult result;
  at::Tensor loss;
  absl::Status status = pass.status();
  if (status.ok()) {
    (side_ == PairSide::kLow ? result.low : result.full) = pass->result;
    loss = std::move(pass->loss);
    status = AddHints(&loss, &result);
    if (status.ok() && !std::isfinite(result.hint)) {
      status = absl::InternalError(
          absl::StrCat("batch ", batch.index, ": the hint is ", result.hint, "; ", NameOf(side_), ": ", WhereNotFinite(*own_.network, images.pixels())));
    }
  } else {
    for (size_t i = 0; i < sent_.size(); ++i) {
      if (!sent_[i]) exchange_.SendFailure(i);
    }
    // The other side sends all of its features, and waits until they are taken.
    for (size_t i = 0; i < sent_.size(); ++i) exchange_.Receive(i, {});
  }
  hints_.clear();
  exchange_.Finish();
  if (!status.ok()) return status;
  own_.gradients->PrepareBackward(loss);
  loss.backward();
  const StepTimer timer(StepPart::kAllReduce);
  own_.gradients->Finish();
  return result;
}

void SplitGuidedStep::Update(double learning_rate) {
  const StepTimer timer(StepPart::kOptimiser);
  own_.sgd->Step(learning_rate);
}

void SplitGuidedStep::Send(size_t index) {
  exchange_.Send(index, CodesOf(hints_[index], widths_[index], IsLogits(index)));
  sent_[index] = true;
}

// Takes the other side's features of all points, also where one failed.
absl::Status SplitGuidedStep::AddHints(at::Tensor* loss, GuidedStepResult* result) {
  absl::Status status;
  for (size_t i = 0; i < hint_points_.size(); ++i) {
    const Features& own = hints_[i];
    const at::Tensor& numbers = own.fast != nullptr ? own.fast->numbers : own.tensor;
    const HintFeatures received = exchange_.Receive(i, numbers.sizes());
    if (!received.values.defined()) {
      if (!sent_[i]) exchange_.SendFailure(i);
      status = absl::InternalError(absl::StrCat("the pass of the ", NameOf(side_ == PairSide::kLow ? PairSide::kFull : PairSide::kLow), " failed"));
      continue;
    }
    if (side_ == PairSide::kFull) {
      TORCH_CHECK(!sent_[i] || widths_[i] == received.bits, "hint features of ", received.bits, " bits after ", widths_[i]);
      widths_[i] = received.bits;
      if (!sent_[i]) Send(i);
    }
    if (!status.ok()) continue;
    const Features other = Constant(received, side_ == PairSide::kLow ? PairSide::kFull : PairSide::kLow, own);
    HintOptions hint = hint_options_[i];
    if (received.bits == 32) hint.bits = 32;
    const HintTerm term = side_ == PairSide::kLow ? HintLoss(own, other, hint) : HintLoss(other, own, hint);
    result->hint += term.distance;
    result->hints.push_back(term.distance);
    const at::Tensor& added = side_ == PairSide::kLow ? term.low : term.full;
    if (added.defined()) *loss = *loss + added;
  }
  return status;
}

}  // namespace bitstair::core
