// The way of hint features between the two sets of a split pair, as core/ sees it (docs/guided.md).
#pragma once

#include <cstddef>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// Q(mu) of one hint point. bits 1..16: float32 codes in [0, 2^bits - 1]; 32: float32 values in [0, 1], of logits any.
struct HintFeatures {
  at::Tensor values;  // contiguous, in the layout of the net's features, which both nets share
  int bits = 32;
};

// One rank's side. In each pass: Begin; Send and Receive once for each hint point, each in ascending order of the points; Finish. Functions throw when the peer
// is lost.
class FeatureExchange {
 public:
  virtual ~FeatureExchange() = default;
  virtual void Begin() = 0;
  // Starts to send, and returns. point: index among the chosen ones.
  virtual void Send(size_t point, const HintFeatures& own) = 0;
  // In the place of Send: this net's pass failed.
  virtual void SendFailure(size_t point) = 0;
  // Waits for the other net's features of this pass. shape: that they must have. Undefined values: the other net's pass failed.
  virtual HintFeatures Receive(size_t point, at::IntArrayRef shape) = 0;
  // Waits until all has been sent.
  virtual void Finish() = 0;
};

}  // namespace bitstair::core
