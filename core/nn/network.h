// A convolutional network whose weights and activations may have few bits, as the trainer sees it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/data/batch.h"
#include "core/nn/network_config.h"

namespace bitstair::core {

struct Features;        // core/nn/features.h
class WeightQuantizer;  // core/quant/quantizer.h

// What should be a number is not: what() names it.
class NotANumber : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Scalars that are learned beside weights and batch norms. None of them decays but clips; all are positive, and one update at most halves them.
enum class Scalar : uint8_t {
  kNone,
  kWeightStep,  // of a weight's quantiser. Its gradient follows from that weight's dL/dw_q after the all-reduce: leaf never has a grad
  kStep,        // of an activation's quantiser
  kClip,        // the same, but it decays with SgdOptions::clip_weight_decay
  kLogitScale,  // of quantize_first_last
};

// One learned tensor. `latent` is what the optimiser owns and the checkpoint stores. `leaf` is what autograd (and the Reducer) put the gradient on: dL/dw_q for
// a quantised weight, whose leaf is a tensor of its own on latent's memory; otherwise the same tensor as `latent`. Both keep their identity for the network's
// life.
struct Parameter {
  std::string name;  // torchvision's name, e.g. "layer1.0.conv1.weight"
  at::Tensor latent;
  at::Tensor leaf;
  const WeightQuantizer* quantizer = nullptr;  // null: full precision. Owned by the network
  bool batch_norm = false;                     // gamma or beta
  Scalar scalar = Scalar::kNone;
};

// A tensor that is part of the model but not learned: running_mean, running_var (float64 inside the network's life; see docs/formats/checkpoint.md).
struct Buffer {
  std::string name;
  at::Tensor value;
};

// Activations that must keep one common range, because shortcuts add them up.
struct ActivationGroup {
  std::string name;                      // of its first activation, e.g. "layer1.0.relu1"
  std::vector<std::string> batch_norms;  // those that feed the group's activations: "layer1.0.bn1"
  std::vector<std::string> restored_by;  // parameters that read the group with no batch norm behind: "fc.weight"
};

// Inputs of the activations of a group, and those of them at which the gradient passes: of a clip, those in [0, 1]; of a ReLU, those above 0.
struct ClipCount {
  int64_t inputs = 0;
  int64_t passed = 0;
};

// How many weights of a layer lie on each level, by code (value = scale * code). Levels without a weight are left out.
struct WeightLevels {
  std::string layer;  // "layer1.0.conv1"
  std::map<int64_t, int64_t> counts;
};

// Sees the values of an activation of group `group` (index into activation_groups()).
using ActivationObserver = std::function<void(size_t group, const at::Tensor& values)>;

// Features that a guided pair may compare (core/training/guided_step.h): what an activation gives, before any pooling, and the logits.
struct HintPoint {
  std::string name;         // "layer2": what the last block of that group gives; "layer2.0": an inner block; "fc1": a layer outside of blocks
  bool by_default = false;  // taken where a recipe names none: the last two groups of blocks, or the last two hidden layers where there are no blocks
  bool logits = false;      // the last one, "logits": no activation bounds them
};

// Sees the features of hint point `point` (index into hint_points()).
using HintObserver = std::function<void(size_t point, const Features& features)>;

// Not thread-safe. Calls run on the caller's thread and on LibTorch's intra-op pool.
class Network {
 public:
  virtual ~Network() = default;

  // latent -> codes for every quantised weight. Call after each change of the latent weights and before Forward. Throws NotANumber, naming the weight.
  virtual void QuantizeWeights() = 0;

  // images: [N, C, H, W], normalised pixels of config().dtype. Returns logits [N, classes]. training: batch statistics, which also update this
  // rank's running statistics, and an autograd graph; otherwise running statistics and no graph.
  virtual at::Tensor Forward(const at::Tensor& images, bool training) = 0;

  // Forward in two steps, so that networks of equal numerics share one conversion of a batch, if all of them quantise their images or none does
  // (config().quantizes_first_last()): Forward(images) = ForwardPrepared(PrepareImages(images)). Throws NotANumber for a pixel that is to be quantised.
  virtual Features PrepareImages(const at::Tensor& images) const = 0;
  virtual at::Tensor ForwardPrepared(const Features& images, bool training) = 0;

  // Of the batch that Forward gets next in training: decides the random numbers of numerics fast8, nothing else.
  virtual void set_position(const BatchPosition& position) = 0;

  // For calibration (core/training/calibrate.h). The observer is called in Forward after each activation; null: none.
  virtual const std::vector<ActivationGroup>& activation_groups() const = 0;
  virtual void set_activation_observer(ActivationObserver observer) = 0;

  // Stochastic precision: layers whose weights are quantised at once with the activation that they read, in the order of Forward; by the name of the first.
  virtual const std::vector<std::string>& units() const = 0;
  // rounded: by unit; empty: all. From the next QuantizeWeights on, a unit that is not rounded has its weights and its input activation as they were before
  // rounding (no effect on what has 32 bits anyway).
  virtual void set_rounded_units(std::vector<bool> rounded) = 0;

  // Telemetry. Each Forward in training with gradients adds to the counts, by group (index into activation_groups(); the caller sizes it); null: none.
  virtual void set_clip_counts(std::vector<ClipCount>* counts) = 0;
  // Of the last QuantizeWeights, for weights of at most 8 bits, in the order of parameters().
  virtual std::vector<WeightLevels> CountWeightLevels() const = 0;

  // Sets the logits' scale, if there is one, as it starts from trained weights w of the last layer: <w, w_q> / <w_q, w_q>, where logits are nearest to those of
  // w. By the last QuantizeWeights. Stays as it is where that is no number above 0.
  virtual void StartLogitScale() = 0;

  // In the order of Forward. The observer is called in Forward at each of them; null: none.
  virtual const std::vector<HintPoint>& hint_points() const = 0;
  virtual void set_hint_observer(HintObserver observer) = 0;

  // What config().layer_widths may name: layers whose weights may be quantised ("layer1.0.conv1"), and activations that may be ("layer1.0.relu1"; those that
  // shortcuts join have one name: that of their group).
  virtual const std::vector<std::string>& layer_names() const = 0;

  virtual std::vector<Parameter>& parameters() = 0;
  virtual std::vector<Buffer>& buffers() = 0;
  virtual const NetworkConfig& config() const = 0;
};

// A network with weights drawn from Philox (purpose kInit, docs/formats/random.md). INVALID_ARGUMENT for an unknown name or an image size it does not take.
absl::StatusOr<std::unique_ptr<Network>> CreateNetwork(const NetworkConfig& config);

// All names that CreateNetwork knows, sorted.
std::vector<std::string> NetworkNames();

}  // namespace bitstair::core
