// What the steps of several nets share: one net's way from a batch to its loss.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/data/batch.h"
#include "core/nn/features.h"
#include "core/nn/network.h"
#include "core/training/gradient_sink.h"
#include "core/training/sgd.h"
#include "core/training/train_step.h"

namespace bitstair::core {

// A net that is trained beside others, with what trains it. Borrowed.
struct PairMember {
  Network* network = nullptr;
  Sgd* sgd = nullptr;
  GradientSink* gradients = nullptr;
};

struct NetPass {
  at::Tensor logits;  // [N, classes], a node of autograd's graph
  at::Tensor loss;    // the mean cross-entropy alone, another
  StepResult result;
};

// A batch's images for nets of equal numerics and dtype: one conversion for those that quantise them, one for the others.
class SharedImages {
 public:
  explicit SharedImages(at::Tensor pixels) : pixels_(std::move(pixels)) {}
  // PrepareImages(pixels) of the network. All networks that quantise their images have one range of pixels. Throws NotANumber.
  const Features& For(const Network& network);
  const at::Tensor& pixels() const { return pixels_; }

 private:
  const at::Tensor pixels_;
  std::optional<Features> floats_, codes_;
};

// Quantises the weights (unless they are as they were in the pass before: quantize false) and runs the batch in training. name: of the net, in messages.
// INTERNAL, naming batch, net and layer, if the loss is not finite or, in numerics fast, an activation is not a number.
absl::StatusOr<NetPass> RunForward(Network& network, const std::string& name, SharedImages& images, const Batch& batch, bool quantize = true);

// INVALID_ARGUMENT, naming the two, unless both are one network for the same images and classes, of the same numerics and dtype. of: "a guided pair".
absl::Status CheckAlike(const NetworkConfig& a, const std::string& a_name, const NetworkConfig& b, const std::string& b_name, const std::string& of);

}  // namespace bitstair::core
