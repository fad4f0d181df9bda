// FastNormalize of nn/fast_layers.h.
#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/quant_math.h"
#include "core/kernels/range_gradient.h"
#include "core/nn/batch_norm.h"
#include "core/nn/fast_arrays.h"

namespace bitstair::core {
namespace {

std::vector<float> AsFloats(const at::Tensor& float64) {
  return {float64.const_data_ptr<double>(), float64.const_data_ptr<double>() + float64.numel()};
}

struct ChannelAffines {
  std::vector<float> alpha, beta;
};

// Of x / range = fma(S, alpha, beta), from the statistics of y = scale S. Same expressions as nn/batch_norm.cc.
ChannelAffines Fold(const FastNorm& norm, const Sums& sums, bool training, double range) {
  const at::Tensor mean_y = training ? sums.fast->mean * sums.scale : norm.mean;
  const at::Tensor variance_y = training ? sums.fast->variance * (sums.scale * sums.scale) : norm.variance;
  const at::Tensor gamma = norm.gamma.detach(), beta = norm.beta.detach();
  ChannelAffines affines;
  for (int64_t c = 0; c < gamma.numel(); ++c) {
    const ChannelAffine affine = BatchNormAffine(gamma.const_data_ptr<float>()[c], beta.const_data_ptr<float>()[c], mean_y.const_data_ptr<double>()[c],
                                                 variance_y.const_data_ptr<double>()[c], BatchNorm::kEpsilon, sums.scale);
    affines.alpha.push_back(static_cast<float>(affine.alpha / range));
    affines.beta.push_back(static_cast<float>(affine.beta / range));
  }
  return affines;
}

// What reads a layer's gradient needs to know of a convolution and its batch norm, in the backward pass.
struct Branch {
  std::shared_ptr<FastSums> sums;
  at::Tensor gamma;
  double scale = 1;

  // dL/dS as a function of g, and the gradients of gamma and beta, from the two sums. Derivation: nn/batch_norm.cc.
  std::vector<at::Tensor> Leave(std::vector<FeatureGradient> parts, const at::Tensor& mask, const std::vector<double>& grad_sum,
                                const std::vector<double>& grad_dot) const {
    const auto channels = static_cast<int64_t>(grad_sum.size());
    const int64_t per_channel = sums->sums.numel() / channels;
    const auto count = static_cast<double>(per_channel);
    at::Tensor grad_gamma = at::empty({channels}), grad_beta = at::empty({channels});
    SumsGradient& out = *sums->gradient;
    for (int64_t c = 0; c < channels; ++c) {
      const double r = scale / std::sqrt(sums->variance.const_data_ptr<double>()[c] * (scale * scale) + BatchNorm::kEpsilon);
      const double of_gamma = r * grad_dot[c], a = gamma.const_data_ptr<float>()[c] * r;
      out.a.push_back(static_cast<float>(a));
      out.b.push_back(static_cast<float>(-(a * r * of_gamma) / count));
      out.c.push_back(static_cast<float>(-(a * grad_sum[c]) / count));
      grad_gamma.mutable_data_ptr<float>()[c] = static_cast<float>(of_gamma);
      grad_beta.mutable_data_ptr<float>()[c] = static_cast<float>(grad_sum[c]);
    }
    out.mean = AsFloats(sums->mean);
    out.parts = std::move(parts);
    out.mask = mask;
    out.sums = std::exchange(sums->sums, {});
    return {at::Tensor(), grad_gamma, grad_beta};
  }
};

// The kernels take two sums that are stored alike. Integers become floats beside floats, which loses nothing that the kernels would keep.
void MakeAlike(at::Tensor& a, at::Tensor& b) {
  if (a.scalar_type() == b.scalar_type()) return;
  const c10::ScalarType type = a.is_floating_point() || b.is_floating_point() ? at::kFloat : at::kInt;
  a = a.to(type);
  b = b.to(type);
}

// Float sums were computed in float32 for the sake of the codes (docs/adr/0010). These are made now, and gradients are of FastFloat() anyway: the sums wait
// for the backward pass in half the memory. A quantiser that learns its rounding reads them once more for the codes, and gets them as they are. Sums in halves
// are rounded as they are read.
void KeepForBackward(at::Tensor& sums) {
  if (sums.is_floating_point() && sums.scalar_type() != FastFloat()) sums = sums.to(FastFloat());
}

// How many images' float32 sums are joined at once, to stay in the cache. Chunks begin with a word of the mask.
constexpr int64_t kJoinedBytes = int64_t{1} << 20;
int64_t JoinedImages(const std::vector<int64_t>& size) {
  const int64_t elements = size[1] * size[2] * size[3], multiple = SumsGradient::Multiple(elements);
  return std::max(multiple, kJoinedBytes / std::max<int64_t>(1, 4 * elements) / multiple * multiple);
}

// The same activation as floats, numbers times range: its gradient goes to the parts of the codes, of which a step is worth features.scale.
Features ViewOf(const Features& features, at::Tensor numbers, double range) {
  Features view{{}, range, 0, NewFeatures(std::move(numbers))};
  Record({features.fast->token}, view.fast->token,
         [to = features.fast, received = view.fast->parts, scale = static_cast<float>(features.scale / range)](const at::Tensor&) -> std::vector<at::Tensor> {
           for (FeatureGradient& part : std::exchange(*received, {})) to->parts->push_back({std::move(part.gradient), part.scale * scale, /*unrounded=*/true});
           return {at::Tensor()};
         });
  return view;
}

// What u = x / range is made of, for all images of a batch.
struct Operands {
  ChannelAffines main, second;
  at::Tensor shortcut;  // undefined: none, or a convolution
  double shortcut_scale = 1;
  int64_t shortcut_greatest = 0;

  // own, others: sums of the images that `from`, their part of the shortcut, belongs to.
  NormalizeArgs Args(const at::Tensor& own, const at::Tensor& others, const at::Tensor& from) const {
    NormalizeArgs args;
    args.shape = RowsOf(own);
    args.main = {Read(own), main.alpha.data(), main.beta.data()};
    if (others.defined()) {
      args.shortcut_affine = {Read(others), second.alpha.data(), second.beta.data()};
    } else if (from.defined()) {
      args.shortcut = Read(from);
      args.shortcut_scale = shortcut_scale;
      if (shortcut_greatest > 0) args.shortcut_greatest = shortcut_greatest;
    }
    return args;
  }
};

uint16_t* Words(at::Tensor& mask) {
  return static_cast<uint16_t*>(mask.mutable_data_ptr());
}
const uint16_t* Words(const at::Tensor& mask) {
  return mask.defined() ? static_cast<const uint16_t*>(mask.const_data_ptr()) : nullptr;
}

// Bits set among the first `elements` of a mask. Four words at a time: it is done in every step, and a popcount is one instruction in the clones.
constexpr int64_t kWordsAtOnce = 4;
BITSTAIR_CPU_CLONES int64_t CountBits(const uint16_t* words, int64_t elements) {
  const int64_t whole = elements / SumsGradient::kMaskWordBits, rest = elements % SumsGradient::kMaskWordBits;
  int64_t bits = 0, i = 0;
  for (; i + kWordsAtOnce <= whole; i += kWordsAtOnce) {
    uint64_t four = 0;
    std::memcpy(&four, words + i, sizeof(four));
    bits += std::popcount(four);
  }
  for (; i < whole; ++i) bits += std::popcount(words[i]);
  if (rest > 0) bits += std::popcount(static_cast<uint16_t>(words[whole] & ((1U << rest) - 1)));
  return bits;
}

// The backward pass of FastNormalize up to dL/dS, which is left as a recipe for the convolutions.
struct Backward {
  std::shared_ptr<std::vector<FeatureGradient>> received;
  double number_scale = 1;  // dL/dx = number_scale dL/dnumber
  at::Tensor mask;
  Branch main, other;                  // other.sums: null without a convolution shortcut
  std::shared_ptr<FastFeatures> from;  // null without an identity shortcut
  double shortcut_scale = 1;
  // Only where the activation's quantiser learns.
  std::shared_ptr<const ActivationQuantizer> quantizer;
  at::Tensor codes;
  Operands operands;

  // The sum of quant/quantizer.h over these parts. u is computed once more rather than kept: it is as large as all codes and sums together.
  double SumOfRange(std::vector<FeatureGradient> received_parts, bool rounding) const {
    const std::vector<FeatureGradient> parts = AtMost(2, std::move(received_parts));
    if (parts.empty()) return 0;
    RangeGradientArgs args;
    args.size = codes.numel();
    for (size_t i = 0; i < parts.size(); ++i) args.parts[i] = {Read(parts[i].gradient), parts[i].scale};
    args.codes = codes.const_data_ptr<uint8_t>();
    args.mask = Words(mask);
    args.n = static_cast<float>(quantizer->greatest_code());
    at::Tensor unrounded;
    if (rounding) {
      unrounded = at::empty(codes.sizes(), at::kFloat);
      NormalizeArgs again = operands.Args(main.sums->sums, other.sums ? other.sums->sums : at::Tensor(), operands.shortcut);
      again.out = Write(unrounded);
      Normalize(again);
      args.unrounded = unrounded.const_data_ptr<float>();
    }
    return SumRangeGradient(args);
  }

  // dL/d(what the quantiser learns), from dL/dcode. What shortcuts carry without rounding hears of the range alone.
  at::Tensor LearnedGradient() const {
    std::vector<FeatureGradient> rounded, others;
    for (const FeatureGradient& part : *received) (part.unrounded ? others : rounded).push_back(part);
    const double sum = SumOfRange(rounded, quantizer->learns_rounding()) + SumOfRange(others, false);
    return at::full({1}, sum * quantizer->LearnedFactor(codes.numel() / std::max<int64_t>(1, codes.size(0))), at::kFloat);
  }

  // Gradients of the inputs as FastNormalize lists them.
  std::vector<at::Tensor> operator()() {
    at::Tensor learned;
    if (quantizer) learned = LearnedGradient();
    std::vector<FeatureGradient> parts = AtMost(2, std::exchange(*received, {}));
    TORCH_CHECK(!parts.empty(), "features got no gradient");
    for (FeatureGradient& part : parts) part.scale = static_cast<float>(part.scale * number_scale);

    NormGradientArgs args;
    args.shape = RowsOf(main.sums->sums);
    for (size_t i = 0; i < parts.size(); ++i) args.parts[i] = {Read(parts[i].gradient), parts[i].scale};
    args.mask = Words(std::as_const(mask));
    args.sums = Read(main.sums->sums);
    const std::vector<float> mean = AsFloats(main.sums->mean), other_mean = other.sums ? AsFloats(other.sums->mean) : std::vector<float>();
    args.mean = mean.data();
    if (other.sums) {
      args.other_sums = Read(other.sums->sums);
      args.other_mean = other_mean.data();
    }
    at::Tensor masked;
    if (from || other.sums) masked = at::empty(main.sums->sums.sizes(), FastFloat());
    args.masked = Write(masked);
    const auto channels = static_cast<size_t>(args.shape.channels);
    std::vector<double> grad_sum(channels), grad_dot(channels), other_dot(other.sums ? channels : 0);
    NormGradientSums(args, grad_sum.data(), grad_dot.data(), other_dot.data());

    if (masked.defined()) {
      parts = {{masked, 1}};
      mask = at::Tensor();
    }
    std::vector<at::Tensor> grads = main.Leave(parts, mask, grad_sum, grad_dot);
    if (from) {
      grads.emplace_back();
      if (from->token.defined()) from->parts->push_back({masked, static_cast<float>(shortcut_scale)});
    }
    if (other.sums) {
      const std::vector<at::Tensor> second = other.Leave(parts, mask, grad_sum, other_dot);
      grads.insert(grads.end(), second.begin(), second.end());
    }
    if (quantizer) grads.push_back(learned);
    return grads;
  }
};

}  // namespace

int64_t SumsGradient::Multiple(int64_t elements_per_image) {
  return kMaskWordBits / std::gcd(elements_per_image, kMaskWordBits);
}

void SumsGradient::Make(int64_t first, int64_t count, at::Tensor& out) const {
  const int64_t per_image = sums.numel() / std::max<int64_t>(1, sums.size(0));
  const at::Tensor s = sums.narrow(0, first, count);
  NormApplyArgs args;
  args.shape = RowsOf(s);
  at::Tensor narrow[2];
  for (size_t i = 0; i < parts.size(); ++i) {
    narrow[i] = parts[i].gradient.narrow(0, first, count);
    args.parts[i] = {Read(narrow[i]), parts[i].scale};
  }
  TORCH_CHECK(first * per_image % kMaskWordBits == 0, "a chunk begins within a word of the mask");
  if (mask.defined()) args.mask = Words(mask) + first * per_image / kMaskWordBits;
  args.sums = Read(s);
  args.mean = mean.data();
  args.a = a.data();
  args.b = b.data();
  args.c = c.data();
  args.grad_sums = Write(out);
  NormGradientApply(args);
}

Features FastNormalize(const FastNorm& norm, const Sums& sums, const Features* shortcut, const FastNorm* shortcut_norm, const Sums* shortcut_sums,
                       const FastActivation& activation, bool training, Features* values, int64_t* passed) {
  const std::shared_ptr<FastSums> s = sums.fast;
  const std::shared_ptr<FastSums> other = shortcut_sums != nullptr ? shortcut_sums->fast : nullptr;
  const bool codes = activation.greatest_code > 0 && activation.greatest_code <= 255;
  const bool record = training && at::GradMode::is_enabled();
  const bool learns = codes && activation.quantizer && activation.quantizer->learned().value.defined();
  const bool reads_again = learns && activation.quantizer->learns_rounding();
  if (training && (other != nullptr || reads_again)) {
    JoinSums(*s);
    if (other != nullptr) {
      JoinSums(*other);
      MakeAlike(s->sums, other->sums);
    }
  }
  const double range = activation.range();
  Operands operands;
  operands.main = Fold(norm, sums, training, range);
  if (other != nullptr) {
    operands.second = Fold(*shortcut_norm, *shortcut_sums, training, range);
  } else if (shortcut != nullptr) {
    operands.shortcut = shortcut->fast->numbers;
    operands.shortcut_scale = shortcut->scale / range;
    operands.shortcut_greatest = shortcut->greatest_code;
  }

  Features out;
  out.scale = codes ? activation.scale() : 1;
  out.greatest_code = codes ? activation.greatest_code : 0;
  // In evaluation values that come from exact sums stay as exact as the layers behind them take them: there is no gradient of their type.
  const c10::ScalarType floats = !training && sums.bound > 0 ? at::kFloat : FastFloat();
  at::Tensor numbers = at::empty(s->size, codes ? at::kByte : floats);
  const int64_t numbers_count = numbers.numel();
  at::Tensor unrounded;
  if (values != nullptr) unrounded = at::empty(s->size, at::kFloat);
  at::Tensor mask;
  if (record) mask = at::empty({MaskBytes({numbers.numel(), 1})}, at::kByte);

  // In training the sums of all images are there, maybe in halves; in evaluation a chunk's are made, used and forgotten.
  const int64_t images = s->size[0], step = !training ? s->chunk : s->lower.defined() ? JoinedImages(s->size) : std::max<int64_t>(1, images);
  for (int64_t first = 0; first < images; first += step) {
    const int64_t count = std::min(step, images - first);
    at::Tensor own = !training ? s->make(first, count) : s->lower.defined() ? JoinedSums(*s, first, count) : s->sums;
    at::Tensor others = other == nullptr ? at::Tensor() : training ? other->sums : other->make(first, count);
    if (other != nullptr) MakeAlike(own, others);
    at::Tensor to = numbers.narrow(0, first, count);
    at::Tensor from;
    if (operands.shortcut.defined()) from = operands.shortcut.narrow(0, first, count);
    NormalizeArgs args = operands.Args(own, others, from);
    args.nonlinearity = activation.relu ? Nonlinearity::kRelu : Nonlinearity::kClip;
    args.n = static_cast<float>(activation.greatest_code);
    args.out = Write(to);
    if (record) args.mask = Words(mask) + first * (numbers_count / images) / SumsGradient::kMaskWordBits;
    if (!Normalize(args)) throw NotANumber("an activation after " + norm.name + " is not a number");
    if (values != nullptr) {
      at::Tensor exact = unrounded.narrow(0, first, count);
      args.n = 0;
      args.out = Write(exact);
      args.mask = nullptr;
      Normalize(args);
    }
    if (s->lower.defined()) s->sums.narrow(0, first, count).copy_(own);
  }
  s->lower.reset();
  const at::Tensor kept = learns ? numbers : at::Tensor();
  out.fast = NewFeatures(std::move(numbers));
  if (!record) {
    if (values != nullptr) *values = {{}, range, 0, NewFeatures(std::move(unrounded))};
    return out;
  }

  if (passed != nullptr) *passed = CountBits(Words(std::as_const(mask)), numbers_count);
  if (!reads_again) {
    KeepForBackward(s->sums);
    if (other != nullptr) KeepForBackward(other->sums);
  }
  Backward backward;
  backward.received = out.fast->parts;
  if (codes) backward.number_scale = static_cast<double>(activation.greatest_code) / range;
  backward.mask = mask;
  backward.main = {s, norm.gamma.detach(), sums.scale};
  std::vector<at::Tensor> inputs{s->token, norm.gamma, norm.beta};
  if (other != nullptr) {
    backward.other = {other, shortcut_norm->gamma.detach(), shortcut_sums->scale};
    inputs.insert(inputs.end(), {other->token, shortcut_norm->gamma, shortcut_norm->beta});
  } else if (shortcut != nullptr) {
    backward.from = shortcut->fast;
    backward.shortcut_scale = shortcut->scale;
    inputs.push_back(shortcut->fast->token);
  }
  if (learns) {
    inputs.push_back(activation.quantizer->learned().value);
    backward.quantizer = activation.quantizer;
    backward.codes = kept;
    backward.operands = std::move(operands);
  }
  Record(inputs, out.fast->token, [backward](const at::Tensor&) mutable { return backward(); });
  if (values != nullptr) *values = ViewOf(out, std::move(unrounded), range);
  return out;
}

}  // namespace bitstair::core
