// The shared half of all networks: lists of parameters and buffers, initial weights, quantisers by configuration.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/nn/activation.h"
#include "core/nn/batch_norm.h"
#include "core/nn/last_layer.h"
#include "core/nn/network.h"
#include "core/nn/quantized_conv2d.h"
#include "core/nn/quantized_linear.h"

namespace bitstair::core {

// A network builds its layers in its constructor through the Make functions, in the order in which its parameters are to be listed.
class LayeredNetwork : public Network {
 public:
  // config and family are checked by CreateNetwork.
  LayeredNetwork(NetworkConfig config, QuantizerFamily family);

  void QuantizeWeights() override;
  at::Tensor Forward(const at::Tensor& images, bool training) final { return ForwardPrepared(PrepareImages(images), training); }
  Features PrepareImages(const at::Tensor& images) const final;
  at::Tensor ForwardPrepared(const Features& images, bool training) final;
  void set_position(const BatchPosition& position) override { *position_ = position; }
  const std::vector<ActivationGroup>& activation_groups() const override { return groups_; }
  void set_activation_observer(ActivationObserver observer) override { observer_ = std::move(observer); }
  const std::vector<std::string>& units() const override { return units_; }
  void set_rounded_units(std::vector<bool> rounded) override;
  void set_clip_counts(std::vector<ClipCount>* counts) override { clip_counts_ = counts; }
  std::vector<WeightLevels> CountWeightLevels() const override;
  void StartLogitScale() override;
  const std::vector<HintPoint>& hint_points() const override { return hint_points_; }
  void set_hint_observer(HintObserver observer) override { hint_observer_ = std::move(observer); }
  const std::vector<std::string>& layer_names() const override { return layer_names_; }
  std::vector<Parameter>& parameters() override { return parameters_; }
  std::vector<Buffer>& buffers() override { return buffers_; }
  const NetworkConfig& config() const override { return config_; }

 protected:
  virtual at::Tensor Logits(const Features& images, bool training) = 0;

  // Initial weights: Kaiming normal, fan_out, gain sqrt(2) for convolutions; PyTorch's uniform(-1/sqrt(in), 1/sqrt(in)) for linear layers; Philox
  // kInit with the tensor's number in parameters() as the layer. By weight_bits.
  QuantizedConv2d MakeConv2d(const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding);
  // The one that reads the images, and the one that gives the logits: full precision, unless quantize_first_last.
  QuantizedConv2d MakeFirstConv2d(const std::string& name, int64_t out, int64_t kernel, int64_t stride, int64_t padding);
  LastLayer MakeLastLayer(const std::string& name, int64_t in);
  // 1x1, without padding; by shortcut_conv_bits.
  QuantizedConv2d MakeShortcutConv2d(const std::string& name, int64_t in, int64_t out, int64_t stride);
  QuantizedLinear MakeQuantizedLinear(const std::string& name, int64_t in, int64_t out);
  BatchNorm MakeBatchNorm(const std::string& name, int64_t channels);
  // The last one feeds the last layer: it is quantised with quantize_last_activation, and at 8 bits of the range [0, 1] with quantize_first_last.
  Activation MakeActivation(bool last) const;
  size_t AddGroup(std::string name, std::vector<std::string> restored_by = {});
  // Declares an activation, in the constructor and in the order of Logits. With a quantiser that learns it has a range of its own, NAME.step or NAME.clip:
  // features know their scale, so those that shortcuts join need no common one. last: as MakeActivation has it.
  void AddActivation(size_t group, const std::string& name, bool last = false);
  void JoinGroup(size_t group, const std::string& batch_norm) { groups_[group].batch_norms.push_back(batch_norm); }

  void RestoredBy(size_t group, const std::string& parameter) { groups_[group].restored_by.push_back(parameter); }

  // Declares a hint point before the logits, in the constructor and in the order of Forward. Returns its index, for ShowHint.
  size_t AddHintPoint(std::string name, bool by_default);
  // Of the block called `block` ("layer2.1"), the last one of its group or not: the last one's name is the group's, and a hint point by default if the group is
  // one of the network's last two. A network that normalises before it convolves shows the activation that reads the sum, for the sum has no range.
  size_t AddBlockHintPoint(const std::string& block, bool last_of_group, bool of_last_two_groups);
  // Logits calls it where the features are made.
  void ShowHint(size_t point, const Features& features) const {
    if (hint_observer_) hint_observer_(point, features);
  }

  // activation(norm(sums) + shortcut), shown to the observer. values: if not null, what a shortcut from here carries (shortcut_values).
  Features Normalize(BatchNorm& norm, const Activation& activation, size_t group, const Sums& sums, const Features* shortcut, bool training,
                     Features* values = nullptr);

  // The same with a convolution shortcut that has a batch norm of its own.
  Features NormalizeSum(BatchNorm& norm, const Activation& activation, size_t group, const Sums& sums, BatchNorm& shortcut_norm, const Sums& shortcut_sums,
                        bool training, Features* values = nullptr);

 private:
  Features NormalizeFast(BatchNorm& norm, const Activation& activation, size_t group, const Sums& sums, const Features* shortcut, BatchNorm* shortcut_norm,
                         const Sums* shortcut_sums, bool training, Features* values);
  // The next activation of a pass: the network's own, unless it learns, a pattern gives its group another width or the unit that reads it is not rounded.
  const Activation& NextActivation(size_t group, const Activation& activation);
  static constexpr size_t kNoUnit = static_cast<size_t>(-1);  // always rounded
  bool Rounded(size_t unit) const { return rounded_.empty() || unit >= rounded_.size() || rounded_[unit]; }
  Features Activate(const Activation& activation, size_t group, const at::Tensor& x, Features* values) const;
  // Where this group's clips are counted in a pass of this kind; null: nowhere.
  ClipCount* CountOf(size_t group) const;
  // The width that layer_widths gives the name, or `otherwise`.
  int WidthOf(const std::string& name, int otherwise) const;
  void Observe(size_t group, const Features& features) const;
  enum class Distribution { kNormal, kUniform };
  // Normal: standard deviation `spread`; uniform: (-spread, spread).
  at::Tensor InitialWeights(std::vector<int64_t> shape, Distribution distribution, double spread);
  // bits: 32 for full precision. compact: as Weight has it.
  std::unique_ptr<Weight> MakeWeight(const std::string& name, const at::Tensor& initial, int bits, bool compact);
  QuantizedConv2d MakeConv2dOf(int bits, const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding);
  // Where initial weights get their random numbers: as many parameters are listed, without scalars.
  uint32_t LayerNumber() const;
  QuantizerOptions Options() const { return {config_.detach_weight_max, config_.weight_norm, config_.dtype}; }
  // A layer's width, which may be named by a pattern from now on.
  int QuantizedBits(const std::string& name, int bits);

  const NetworkConfig config_;
  const std::shared_ptr<BatchPosition> position_ = std::make_shared<BatchPosition>();  // layers look at it
  const QuantizerFamily family_;
  std::vector<Parameter> parameters_;
  std::vector<Buffer> buffers_;
  std::vector<Weight*> quantized_;  // owned by the layers
  // Layer i of the main path reads what the activation i of a pass gives; shortcut convolutions read what their block's first layer reads. The last activation
  // is read by the last layer, which is in no unit, nor is the first one.
  std::vector<std::string> units_;
  std::vector<size_t> unit_of_;    // by quantized_
  size_t unit_of_next_ = kNoUnit;  // of the weight that is made next
  std::vector<bool> rounded_;      // by unit; empty: all
  const Activation unrounded_{ActivationFunction::kClip, nullptr};
  size_t activations_done_ = 0;          // in this pass
  int64_t first_padding_ = 0;            // of the layer that reads the images
  const Weight* last_weight_ = nullptr;  // of the last layer, if it is quantised
  at::Tensor logit_scale_;
  std::vector<ActivationGroup> groups_;
  // Where they are not what MakeActivation gives: by group, of another width; by activation, with a range of its own to learn.
  std::vector<std::optional<Activation>> overridden_, learning_;
  std::vector<std::string> layer_names_;
  ActivationObserver observer_;
  std::vector<ClipCount>* clip_counts_ = nullptr;
  std::vector<HintPoint> hint_points_{{.name = "logits", .logits = true}};
  HintObserver hint_observer_;
};

// '*' in the pattern stands for any characters, also none; the whole name must match.
bool MatchesPattern(std::string_view pattern, std::string_view name);

// INVALID_ARGUMENT for images with a side below `least`.
absl::Status CheckImageSize(const NetworkConfig& config, int least);

}  // namespace bitstair::core
