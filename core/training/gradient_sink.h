// The little that core/ knows of distributed training: where gradients go to be summed.
#pragma once

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// Called by TrainStep around one backward pass. Implementations average the gradients of all `Parameter::leaf` tensors over the ranks, or over fixed shards of
// the batch, of which a rank may have several. May throw c10::Error when a peer is lost.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual void PrepareForward() = 0;
  virtual void PrepareBackward(const at::Tensor& loss) = 0;
  // After backward: returns when every leaf's grad holds the average, or has been taken away until the average is made (fixed shards).
  virtual void Finish() = 0;
};

// One rank: nothing to do.
class LocalGradients final : public GradientSink {
 public:
  void PrepareForward() override {}
  void PrepareBackward(const at::Tensor&) override {}
  void Finish() override {}
};

}  // namespace bitstair::core
