#include "core/nn/layered_network.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "absl/strings/str_cat.h"
#include "core/nn/pixel_features.h"
#include "core/quant/dorefa.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

constexpr double kInitialLogitScale = 0.01;  // w_q has values up to 1, the trained weights of a last layer are some hundredths
constexpr int kLastActivationBits = 8;

}  // namespace

LayeredNetwork::LayeredNetwork(NetworkConfig config, QuantizerFamily family) : config_(std::move(config)), family_(std::move(family)) {}

void LayeredNetwork::QuantizeWeights() {
  std::vector<WeightToQuantize> weights;
  for (size_t i = 0; i < quantized_.size(); ++i) {
    quantized_[i]->set_rounded(Rounded(unit_of_[i]));
    weights.push_back(quantized_[i]->to_quantize());
  }
  if (const std::optional<size_t> bad = bitstair::core::QuantizeWeights(weights)) throw NotANumber("parameter " + quantized_[*bad]->name() + " is not finite");
}

Features LayeredNetwork::PrepareImages(const at::Tensor& images) const {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == config_.image_channels && images.size(2) == config_.image_height && images.size(3) == config_.image_width,
              config_.network, " was made for images of ", config_.image_channels, "x", config_.image_height, "x", config_.image_width, ", got ",
              images.sizes());
  TORCH_CHECK(images.scalar_type() == config_.dtype, config_.network, " computes in ", config_.dtype, ", got images of ", images.scalar_type());
  const bool fast = config_.numerics != Numerics::kReference;
  if (config_.quantizes_first_last()) return PixelFeatures(images, GridOf(config_.pixels), first_padding_, fast);
  return fast ? FastImages(images) : Features{images.contiguous(), 1, 0};
}

at::Tensor LayeredNetwork::ForwardPrepared(const Features& images, bool training) {
  const at::AutoGradMode grad_mode(training);
  activations_done_ = 0;
  at::Tensor logits = Logits(images, training);
  TORCH_CHECK(activations_done_ == units_.size() + 1, config_.network, " has ", activations_done_, " activations and ", units_.size(), " layers that read one");
  ShowHint(hint_points_.size() - 1, {logits});
  return logits;
}

at::Tensor LayeredNetwork::InitialWeights(std::vector<int64_t> shape, Distribution distribution, double spread) {
  at::Tensor weights = at::empty(shape, at::kDouble);
  double* w = weights.mutable_data_ptr<double>();
  const uint32_t layer = LayerNumber();
  const int64_t size = weights.numel();
  for (int64_t i = 0; i < size; i += 4) {
    const std::array<uint32_t, 4> words = Philox4x32(config_.seed, Purpose::kInit, layer, static_cast<uint32_t>(i / 4), 0);
    double values[4];
    if (distribution == Distribution::kUniform) {
      for (int j = 0; j < 4; ++j) values[j] = spread * (2 * ((words[j] + 0.5) * 0x1p-32) - 1);
    } else {
      for (int j = 0; j < 4; j += 2) {  // Box and Muller: two words, two numbers
        const double radius = spread * std::sqrt(-2 * std::log((words[j] + 1.0) * 0x1p-32));
        const double angle = 2 * std::numbers::pi * (words[j + 1] * 0x1p-32);
        values[j] = radius * std::cos(angle);
        values[j + 1] = radius * std::sin(angle);
      }
    }
    for (int64_t j = 0; j < 4 && i + j < size; ++j) w[i + j] = values[j];
  }
  return weights.to(config_.dtype);
}

uint32_t LayeredNetwork::LayerNumber() const {
  return static_cast<uint32_t>(std::count_if(parameters_.begin(), parameters_.end(), [](const Parameter& p) { return p.scalar == Scalar::kNone; }));
}

int LayeredNetwork::WidthOf(const std::string& name, int otherwise) const {
  size_t longest = 0;
  int bits = otherwise;
  for (const auto& [pattern, width] : config_.layer_widths) {
    if (pattern.size() < longest || !MatchesPattern(pattern, name)) continue;
    longest = pattern.size();
    bits = width;
  }
  return bits;
}

int LayeredNetwork::QuantizedBits(const std::string& name, int bits) {
  layer_names_.push_back(name);
  const size_t shortcut = name.find(".downsample.");
  const std::string block = name.substr(0, shortcut == std::string::npos ? 0 : shortcut + 1);
  const auto first = std::find_if(units_.begin(), units_.end(), [&](const std::string& unit) { return !block.empty() && unit.starts_with(block); });
  unit_of_next_ = static_cast<size_t>(first - units_.begin());
  if (first == units_.end()) units_.push_back(name);
  return config_.weight_bits == 32 ? 32 : WidthOf(name, bits);
}

std::unique_ptr<Weight> LayeredNetwork::MakeWeight(const std::string& name, const at::Tensor& initial, int bits, bool compact) {
  std::unique_ptr<WeightQuantizer> quantizer;
  if (bits != 32) quantizer = family_.weights(bits, Options());
  const bool listed = quantizer != nullptr;
  auto weight = std::make_unique<Weight>(name + ".weight", initial, std::move(quantizer), compact);
  parameters_.push_back(weight->parameter());
  if (listed) {
    quantized_.push_back(weight.get());
    unit_of_.push_back(unit_of_next_);
  }
  if (std::optional<Parameter> step = weight->step()) parameters_.push_back(*std::move(step));
  return weight;
}

QuantizedConv2d LayeredNetwork::MakeConv2d(const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
  return MakeConv2dOf(QuantizedBits(name, config_.weight_bits), name, in, out, kernel, stride, padding);
}

QuantizedConv2d LayeredNetwork::MakeFirstConv2d(const std::string& name, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
  const bool quantized = config_.quantizes_first_last();
  unit_of_next_ = kNoUnit;
  first_padding_ = padding;
  // Bytes come with their padding (nn/pixel_features.h).
  const bool padded = quantized && config_.numerics != Numerics::kReference;
  return MakeConv2dOf(quantized ? config_.weight_bits : 32, name, config_.image_channels, out, kernel, stride, padded ? 0 : padding);
}

QuantizedConv2d LayeredNetwork::MakeShortcutConv2d(const std::string& name, int64_t in, int64_t out, int64_t stride) {
  return MakeConv2dOf(QuantizedBits(name, config_.shortcut_conv_bits == 0 ? config_.weight_bits : config_.shortcut_conv_bits), name, in, out, 1, stride, 0);
}

QuantizedConv2d LayeredNetwork::MakeConv2dOf(int bits, const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
  const double fan_out = static_cast<double>(out * kernel * kernel);
  const at::Tensor initial = InitialWeights({out, in, kernel, kernel}, Distribution::kNormal, std::sqrt(2 / fan_out));
  const uint32_t layer = LayerNumber();
  return QuantizedConv2d(MakeWeight(name, initial, bits, config_.numerics != Numerics::kReference), stride, padding,
                         GradientRounding{config_.numerics == Numerics::kFast8 ? position_ : nullptr, config_.seed, layer},
                         bits == 32 && config_.activation_bits != 32);
}

QuantizedLinear LayeredNetwork::MakeQuantizedLinear(const std::string& name, int64_t in, int64_t out) {
  const at::Tensor initial = InitialWeights({out, in}, Distribution::kUniform, 1 / std::sqrt(static_cast<double>(in)));
  return QuantizedLinear(MakeWeight(name, initial, QuantizedBits(name, config_.weight_bits), config_.numerics != Numerics::kReference));
}

LastLayer LayeredNetwork::MakeLastLayer(const std::string& name, int64_t in) {
  const bool quantized = config_.quantizes_first_last();
  const int64_t out = config_.classes;
  const double spread = 1 / std::sqrt(static_cast<double>(in));
  unit_of_next_ = kNoUnit;
  std::unique_ptr<Weight> weight =
      MakeWeight(name, InitialWeights({out, in}, Distribution::kUniform, spread), quantized ? config_.weight_bits : 32, /*compact=*/false);
  at::Tensor bias = InitialWeights({out}, Distribution::kUniform, spread).set_requires_grad(true);
  parameters_.push_back({name + ".bias", bias, bias, nullptr, false});
  if (!quantized) return LastLayer(weight->leaf(), std::move(bias));
  last_weight_ = weight.get();
  logit_scale_ = at::full({1}, kInitialLogitScale, at::TensorOptions().dtype(config_.dtype)).set_requires_grad(true);
  parameters_.push_back({"logit_scale", logit_scale_, logit_scale_, nullptr, false, Scalar::kLogitScale});
  return LastLayer(QuantizedLinear(std::move(weight)), std::move(bias), logit_scale_);
}

void LayeredNetwork::StartLogitScale() {
  if (last_weight_ == nullptr) return;
  const at::Tensor w = last_weight_->leaf().detach().to(at::kDouble), w_q = last_weight_->operand().detach().to(at::kDouble) * last_weight_->scale();
  const double scale = (w * w_q).sum().item<double>() / (w_q * w_q).sum().item<double>();
  if (scale > 0 && std::isfinite(scale)) logit_scale_.detach().fill_(scale);
}

BatchNorm LayeredNetwork::MakeBatchNorm(const std::string& name, int64_t channels) {
  BatchNorm norm(name, channels, config_.dtype);
  norm.AddParameters(parameters_);
  norm.AddBuffers(buffers_);
  return norm;
}

Activation LayeredNetwork::MakeActivation(bool last) const {
  if (last && config_.quantizes_first_last()) return Activation(ActivationFunction::kClip, MakeDorefaActivationQuantizer(kLastActivationBits, Options()));
  if (config_.activation_bits == 32) return Activation(config_.activation, nullptr);
  if (last && !config_.quantize_last_activation) return Activation(ActivationFunction::kClip, nullptr);
  return Activation(ActivationFunction::kClip, family_.activations(config_.activation_bits, Options()));
}

size_t LayeredNetwork::AddGroup(std::string name, std::vector<std::string> restored_by) {
  layer_names_.push_back(name);
  const int bits = config_.activation_bits == 32 ? 32 : WidthOf(name, config_.activation_bits);
  overridden_.emplace_back();
  if (bits != config_.activation_bits) {
    std::shared_ptr<const ActivationQuantizer> quantizer;
    if (bits != 32) quantizer = family_.activations(bits, Options());
    overridden_.back().emplace(ActivationFunction::kClip, std::move(quantizer));
  }
  groups_.push_back({std::move(name), {}, std::move(restored_by)});
  return groups_.size() - 1;
}

void LayeredNetwork::AddActivation(size_t group, const std::string& name, bool last) {
  learning_.emplace_back();
  const int bits = config_.activation_bits == 32 ? 32 : WidthOf(groups_[group].name, config_.activation_bits);
  if (!family_.learns || bits == 32 || (last && !config_.quantize_last_activation)) return;
  std::shared_ptr<const ActivationQuantizer> quantizer = family_.activations(bits, Options());
  const LearnedScalar scalar = quantizer->learned();
  at::Tensor leaf = scalar.value;
  leaf.set_requires_grad(true);
  parameters_.push_back({name + "." + scalar.name, leaf, leaf, nullptr, false, scalar.is_clip ? Scalar::kClip : Scalar::kStep});
  learning_.back().emplace(ActivationFunction::kClip, std::move(quantizer));
}

size_t LayeredNetwork::AddHintPoint(std::string name, bool by_default) {
  const auto added = hint_points_.insert(hint_points_.end() - 1, {std::move(name), by_default});
  return static_cast<size_t>(added - hint_points_.begin());
}

size_t LayeredNetwork::AddBlockHintPoint(const std::string& block, bool last_of_group, bool of_last_two_groups) {
  return AddHintPoint(last_of_group ? block.substr(0, block.rfind('.')) : block, last_of_group && of_last_two_groups);
}

void LayeredNetwork::set_rounded_units(std::vector<bool> rounded) {
  TORCH_CHECK(rounded.empty() || rounded.size() == units_.size(), "rounding of ", rounded.size(), " units, but there are ", units_.size());
  rounded_ = std::move(rounded);
}

const Activation& LayeredNetwork::NextActivation(size_t group, const Activation& activation) {
  const size_t number = activations_done_++;
  if (number == units_.size() && config_.quantizes_first_last()) return activation;  // 8 bits, whatever others of its group have
  if (!activation.quantized()) return activation;                                    // it feeds a full-precision layer
  if (!Rounded(number)) return unrounded_;
  if (learning_.at(number)) return *learning_[number];
  return overridden_[group] ? *overridden_[group] : activation;
}

ClipCount* LayeredNetwork::CountOf(size_t group) const {
  return clip_counts_ != nullptr && at::GradMode::is_enabled() ? &clip_counts_->at(group) : nullptr;
}

std::vector<WeightLevels> LayeredNetwork::CountWeightLevels() const {
  std::vector<WeightLevels> all;
  for (const Weight* weight : quantized_) {
    const int64_t greatest = weight->greatest_code();
    if (greatest == 0 || greatest > 255) continue;  // 0: it is not rounded now
    std::vector<int64_t> counts(static_cast<size_t>(2 * greatest + 1));
    const at::Tensor codes = weight->operand().to(at::kShort);
    const auto* p = codes.const_data_ptr<int16_t>();
    for (int64_t i = 0; i < codes.numel(); ++i) ++counts.at(static_cast<size_t>(p[i] + greatest));
    WeightLevels& levels = all.emplace_back();
    levels.layer = weight->name().substr(0, weight->name().rfind('.'));
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0) levels.counts[static_cast<int64_t>(i) - greatest] = counts[i];
    }
  }
  return all;
}

Features LayeredNetwork::Activate(const Activation& activation, size_t group, const at::Tensor& x, Features* values) const {
  if (ClipCount* count = CountOf(group); count != nullptr) {
    count->inputs += x.numel();
    count->passed += activation.CountPassing(x);
  }
  Features features = activation.Forward(x);
  if (values == nullptr) return features;
  const bool apart = activation.quantized() && config_.shortcut_values == ShortcutValues::kFloat;
  *values = apart ? activation.Unrounded(x) : features;
  return features;
}

Features LayeredNetwork::Normalize(BatchNorm& norm, const Activation& activation, size_t group, const Sums& sums, const Features* shortcut, bool training,
                                   Features* values) {
  const Activation& own = NextActivation(group, activation);
  Features features = sums.fast ? NormalizeFast(norm, own, group, sums, shortcut, nullptr, nullptr, training, values)
                                : Activate(own, group, norm.Forward(sums, shortcut, training, own.range()), values);
  Observe(group, features);
  return features;
}

Features LayeredNetwork::NormalizeSum(BatchNorm& norm, const Activation& activation, size_t group, const Sums& sums, BatchNorm& shortcut_norm,
                                      const Sums& shortcut_sums, bool training, Features* values) {
  const Activation& own = NextActivation(group, activation);
  Features features;
  if (sums.fast) {
    features = NormalizeFast(norm, own, group, sums, nullptr, &shortcut_norm, &shortcut_sums, training, values);
  } else {
    // Both halves are divided by the range, each in its own factors.
    const Features shortcut{shortcut_norm.Forward(shortcut_sums, nullptr, training, own.range()), own.range(), 0};
    features = Activate(own, group, norm.Forward(sums, &shortcut, training, own.range()), values);
  }
  Observe(group, features);
  return features;
}

Features LayeredNetwork::NormalizeFast(BatchNorm& norm, const Activation& activation, size_t group, const Sums& sums, const Features* shortcut,
                                       BatchNorm* shortcut_norm, const Sums* shortcut_sums, bool training, Features* values) {
  const auto update = [&](BatchNorm& of, const Sums& s) {
    of.UpdateStatistics(s.fast->mean, s.fast->variance, s.scale, s.fast->sums.numel() / s.fast->sums.size(3));
  };
  if (training) update(norm, sums);
  if (training && shortcut_norm != nullptr) update(*shortcut_norm, *shortcut_sums);
  const FastNorm own = norm.fast();
  FastNorm other;
  if (shortcut_norm != nullptr) other = shortcut_norm->fast();
  const bool apart = values != nullptr && activation.quantized() && config_.shortcut_values == ShortcutValues::kFloat;
  ClipCount* count = CountOf(group);
  int64_t passed = 0;
  Features features = FastNormalize(own, sums, shortcut, shortcut_norm != nullptr ? &other : nullptr, shortcut_sums, activation.fast(), training,
                                    apart ? values : nullptr, count != nullptr ? &passed : nullptr);
  if (count != nullptr) {
    count->inputs += features.fast->numbers.numel();
    count->passed += passed;
  }
  if (values != nullptr && !apart) *values = features;
  return features;
}

void LayeredNetwork::Observe(size_t group, const Features& features) const {
  if (!observer_) return;
  observer_(group, features.fast ? features.fast->numbers.to(at::kFloat).mul_(features.scale) : Values(features));
}

bool MatchesPattern(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;  // the star takes one more character
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

absl::Status CheckImageSize(const NetworkConfig& config, int least) {
  if (config.image_height >= least && config.image_width >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("network ", config.network, " takes images of at least ", least, "x", least, ", not ", config.image_height, "x", config.image_width));
}

}  // namespace bitstair::core
