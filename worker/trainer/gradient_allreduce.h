// Averages gradients over the ranks of a gang: while the backward pass still runs, or over fixed shards.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/network.h"
#include "core/training/gradient_sink.h"
#include "worker/trainer/process_group.h"

namespace bitstair::trainer {

// core/ sees only the GradientSink. Functions throw when a peer is lost.
class GradientAllreduce : public core::GradientSink {
 public:
  // Once in a step, after the backward passes of all of this rank's shards: returns when every leaf's grad holds the average.
  virtual void Average() = 0;
  // For a rank whose step failed before its last backward pass: takes part in this step's all-reduce with zeros, so that its peers do not wait for it in vain.
  virtual void Abstain() = 0;
  // Bytes that this rank has sent to its peers so far. The Reducer's, by the ring algorithm: 2 (ranks - 1) / ranks of each bucket.
  virtual int64_t bytes_sent() const = 0;
};

// On c10d's Reducer. Its parameters are the leaves, that is the quantised weights: the quantiser's backward is linear in dL/dw_q and comes after the average
// (DESIGN section 5). Buckets are a function of the parameter list alone and are never rebuilt, so that a resumed run sums in the same order. In a gang of one
// it does nothing. On a GPU slot buckets travel through NCCL. Borrows the group; holds references to the leaves.
std::unique_ptr<GradientAllreduce> MakeGradientAllreduce(const std::vector<core::Parameter>& parameters, ProcessGroup& group);

// Sums the gradients of `shards` fixed shards, a multiple of the ranks, in a fixed binary tree, and divides the sum by their number: the same bits on any
// number of ranks (docs/elastic.md). Each backward pass is that of this rank's next shard. Does not overlap with the backward pass. On a
// GPU slot the gradients travel through NCCL, and are summed on the CPU. Borrows the group; holds references to the leaves.
std::unique_ptr<GradientAllreduce> MakeFixedShardsAllreduce(const std::vector<core::Parameter>& parameters, int shards, ProcessGroup& group);

// The leaves whose gradients travel.
std::vector<at::Tensor> ReducedLeaves(const std::vector<core::Parameter>& parameters);

// Indices of parameters per bucket, from the last parameter to the first (gradients come in about this order). The first bucket takes up to first_cap bytes,
// the others up to cap; one parameter that is larger makes a bucket of its own.
std::vector<std::vector<size_t>> GradientBuckets(const std::vector<int64_t>& parameter_bytes, int64_t first_cap, int64_t cap);

}  // namespace bitstair::trainer
