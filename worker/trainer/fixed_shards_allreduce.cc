// GradientAllreduce over fixed shards (docs/elastic.md). One step:
//   a) each backward pass leaves a shard's gradients, which are added to those of the rank's shards before, as far as the tree has nodes for it;
//   b) the gradients are cut into as many chunks as there are ranks: every rank gets its chunk of all ranks' nodes (all-to-all), and sums it up the tree;
//   c) divides it by the number of shards, and gives it to all ranks (all-gather).
// Every element is summed in the tree's order, whoever does it.
#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "worker/trainer/gradient_allreduce.h"
#include "worker/trainer/shard_tree.h"

namespace bitstair::trainer {
namespace {

class FixedShardsAllreduce final : public GradientAllreduce {
 public:
  FixedShardsAllreduce(std::vector<at::Tensor> leaves, int shards, ProcessGroup& group)
      : leaves_(std::move(leaves)),
        shards_(shards),
        group_(group),
        own_(ShardsOfRank(shards, group.rank(), group.world_size())),
        next_(own_.begin),
        sum_(shards) {
    for (const at::Tensor& leaf : leaves_) size_ += leaf.numel();
    chunk_ = (size_ + group.world_size() - 1) / group.world_size();
    for (int rank = 0; rank < group.world_size(); ++rank) nodes_.push_back(GreatestNodes(shards, ShardsOfRank(shards, rank, group.world_size())));
    for (const std::vector<ShardRange>& nodes : nodes_) most_nodes_ = std::max(most_nodes_, static_cast<int64_t>(nodes.size()));
  }

  void PrepareForward() override {}
  void PrepareBackward(const at::Tensor&) override {}

  // Takes this shard's gradients away.
  void Finish() override {
    at::Tensor shard = NewBuffer();
    int64_t at = 0;
    for (at::Tensor& leaf : leaves_) {
      TORCH_CHECK(leaf.grad().defined(), "a leaf has no gradient");
      shard.narrow(0, at, leaf.numel()).view(leaf.sizes()).copy_(leaf.grad());
      leaf.mutable_grad().reset();
      at += leaf.numel();
    }
    AddShard(std::move(shard));
  }

  void Average() override {
    TORCH_CHECK(next_ == own_.end, "average of ", next_ - own_.begin, " of this rank's ", own_.end - own_.begin, " shards");
    next_ = own_.begin;
    at::Tensor mean = group_.world_size() == 1 ? sum_.nodes()[0].sum.div_(shards_) : Exchange();
    int64_t at = 0;
    for (at::Tensor& leaf : leaves_) {
      leaf.mutable_grad() = mean.narrow(0, at, leaf.numel()).view(leaf.sizes());
      at += leaf.numel();
    }
    // Gradients are gone by the next step's first backward pass.
    for (TreeSum::Node& node : sum_.nodes()) sum_.spare().push_back(std::move(node.sum));
    sum_.nodes().clear();
  }

  void Abstain() override {
    for (at::Tensor& leaf : leaves_) leaf.mutable_grad().reset();
    while (next_ < own_.end) AddShard(NewBuffer().zero_());
    Average();
  }

  int64_t bytes_sent() const override { return bytes_sent_; }

 private:
  // One number per element of the leaves, and what fills the last chunk.
  at::Tensor NewBuffer() {
    if (sum_.spare().empty()) return at::zeros({chunk_ * group_.world_size()}, leaves_[0].options().requires_grad(false));
    at::Tensor buffer = std::move(sum_.spare().back());
    sum_.spare().pop_back();
    return buffer;
  }

  void AddShard(at::Tensor gradients) {
    sum_.Add({next_, next_ + 1}, std::move(gradients));
    ++next_;
  }

  // This rank's nodes -> the mean over all shards.
  at::Tensor Exchange() {
    const int64_t ranks = group_.world_size();
    if (!own_nodes_.defined()) {
      own_nodes_ = at::zeros({ranks, most_nodes_, chunk_}, leaves_[0].options().requires_grad(false));
      all_nodes_ = at::empty_like(own_nodes_, own_nodes_.options().device(group_.device()));
      mean_ = at::empty({ranks * chunk_}, all_nodes_.options());
    }
    for (size_t i = 0; i < sum_.nodes().size(); ++i) own_nodes_.select(1, static_cast<int64_t>(i)).copy_(sum_.nodes()[i].sum.view({ranks, chunk_}));
    // On a CPU slot `to` copies nothing.
    at::Tensor leaving = own_nodes_.to(group_.device());
    std::vector<int64_t> equal_parts;
    group_.group()->alltoall_base(all_nodes_, leaving, equal_parts, equal_parts)->wait();
    const at::Tensor all_nodes = all_nodes_.to(at::kCPU);

    TreeSum sum(shards_);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const std::vector<ShardRange>& nodes = nodes_[static_cast<size_t>(rank)];
      for (size_t i = 0; i < nodes.size(); ++i) sum.Add(nodes[i], all_nodes.select(0, rank).select(0, static_cast<int64_t>(i)));
    }
    TORCH_CHECK(sum.nodes().size() == 1, "the tree over ", shards_, " shards is not whole");
    at::Tensor chunk = sum.nodes()[0].sum.div_(shards_).to(group_.device());
    group_.group()->_allgather_base(mean_, chunk)->wait();
    bytes_sent_ += (ranks - 1) * (most_nodes_ + 1) * static_cast<int64_t>(chunk.nbytes());
    return mean_.to(at::kCPU);
  }

  std::vector<at::Tensor> leaves_;
  const int shards_;
  ProcessGroup& group_;
  const ShardRange own_;
  int next_;  // shard
  TreeSum sum_;
  std::vector<std::vector<ShardRange>> nodes_;  // that each rank has after its last shard
  int64_t most_nodes_ = 0;
  int64_t size_ = 0, chunk_ = 0;  // elements
  // Exchange's memory: [rank, node, element of the chunk]; a rank with fewer nodes than another sends zeros in their place.
  at::Tensor own_nodes_;
  at::Tensor all_nodes_, mean_;  // on the group's device; mean_: every chunk
  int64_t bytes_sent_ = 0;
};

}  // namespace

std::unique_ptr<GradientAllreduce> MakeFixedShardsAllreduce(const std::vector<core::Parameter>& parameters, int shards, ProcessGroup& group) {
  return std::make_unique<FixedShardsAllreduce>(ReducedLeaves(parameters), shards, group);
}

}  // namespace bitstair::trainer
