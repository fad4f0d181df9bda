// The fixed binary tree in which shards of a batch are summed: the same additions, in the same order, on any number of ranks (docs/elastic.md).
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitstair::trainer {

// Shards [begin, end).
struct ShardRange {
  int begin = 0, end = 0;
  bool operator==(const ShardRange&) const = default;
};

// The shards of a rank: a contiguous part. shards: a multiple of world_size.
ShardRange ShardsOfRank(int shards, int rank, int world_size);

// The tree over shards [0, S): a node of one shard is a leaf; another node [a, b) has the children [a, m) and [m, b) with m = a + ceil((b - a) / 2).
// The node with these two children, left and right; nothing unless both are nodes with one parent.
std::optional<ShardRange> ParentOf(int shards, ShardRange left, ShardRange right);

// The greatest nodes within `range`, from left to right: one where it is a node itself.
std::vector<ShardRange> GreatestNodes(int shards, ShardRange range);

// Adds up nodes that come from left to right, as soon as both children of a node are there.
class TreeSum {
 public:
  explicit TreeSum(int shards) : shards_(shards) {}

  // sum: of `node`, of one shape and dtype for all nodes. Is kept and changed.
  void Add(ShardRange node, at::Tensor sum);

  struct Node {
    ShardRange range;
    at::Tensor sum;
  };
  // What has come so far, as the fewest nodes, from left to right.
  std::vector<Node>& nodes() { return nodes_; }
  // Tensors that Add was given and needs no more.
  std::vector<at::Tensor>& spare() { return spare_; }

 private:
  const int shards_;
  std::vector<Node> nodes_;
  std::vector<at::Tensor> spare_;
};

}  // namespace bitstair::trainer
