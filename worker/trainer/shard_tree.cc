#include "worker/trainer/shard_tree.h"

#include <c10/util/Exception.h>

#include <utility>

namespace bitstair::trainer {
namespace {

int MiddleOf(ShardRange node) {
  return node.begin + (node.end - node.begin + 1) / 2;
}

bool Contains(ShardRange outer, ShardRange inner) {
  return outer.begin <= inner.begin && inner.end <= outer.end;
}

void AppendGreatestNodes(ShardRange node, ShardRange range, std::vector<ShardRange>* nodes) {
  if (node.end <= range.begin || range.end <= node.begin) return;
  if (Contains(range, node)) {
    nodes->push_back(node);
    return;
  }
  AppendGreatestNodes({node.begin, MiddleOf(node)}, range, nodes);
  AppendGreatestNodes({MiddleOf(node), node.end}, range, nodes);
}

}  // namespace

ShardRange ShardsOfRank(int shards, int rank, int world_size) {
  TORCH_CHECK(rank >= 0 && rank < world_size && shards >= 1 && shards % world_size == 0, "rank ", rank, " of ", world_size, " with ", shards, " shards");
  const int own = shards / world_size;
  return {rank * own, (rank + 1) * own};
}

std::optional<ShardRange> ParentOf(int shards, ShardRange left, ShardRange right) {
  const ShardRange both{left.begin, right.end};
  ShardRange node{0, shards};
  while (node != both) {
    if (!Contains(node, both) || node.end - node.begin == 1) return std::nullopt;
    const int middle = MiddleOf(node);
    node = both.begin < middle ? ShardRange{node.begin, middle} : ShardRange{middle, node.end};
  }
  if (left.end != right.begin || left.end != MiddleOf(both)) return std::nullopt;
  return both;
}

std::vector<ShardRange> GreatestNodes(int shards, ShardRange range) {
  std::vector<ShardRange> nodes;
  AppendGreatestNodes({0, shards}, range, &nodes);
  return nodes;
}

void TreeSum::Add(ShardRange node, at::Tensor sum) {
  TORCH_CHECK(nodes_.empty() || nodes_.back().range.end == node.begin, "shard ", node.begin, " does not come next");
  nodes_.push_back({node, std::move(sum)});
  while (nodes_.size() > 1) {
    Node &left = nodes_[nodes_.size() - 2], &right = nodes_.back();
    const std::optional<ShardRange> parent = ParentOf(shards_, left.range, right.range);
    if (!parent.has_value()) return;
    left.sum.add_(right.sum);
    left.range = *parent;
    spare_.push_back(std::move(right.sum));
    nodes_.pop_back();
  }
}

}  // namespace bitstair::trainer
