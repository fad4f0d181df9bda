#include "worker/trainer/shard_tree.h"

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitstair::trainer {
namespace {

using ::testing::ElementsAre;

at::Tensor Of(float value) {
  return at::full({1}, value);
}

TEST(ShardTreeTest, RanksHaveContiguousParts) {
  EXPECT_EQ(ShardsOfRank(4, 0, 1), (ShardRange{0, 4}));
  EXPECT_EQ(ShardsOfRank(4, 1, 2), (ShardRange{2, 4}));
  EXPECT_EQ(ShardsOfRank(6, 2, 3), (ShardRange{4, 6}));
  EXPECT_THROW(ShardsOfRank(4, 0, 3), c10::Error);
}

TEST(ShardTreeTest, AParentHasTwoHalvesOfWhichTheFirstMayBeLarger) {
  EXPECT_EQ(ParentOf(5, {0, 3}, {3, 5}), (ShardRange{0, 5}));
  EXPECT_EQ(ParentOf(5, {0, 2}, {2, 3}), (ShardRange{0, 3}));
  EXPECT_EQ(ParentOf(5, {2, 3}, {3, 4}), std::nullopt) << "of two parents";
  EXPECT_EQ(ParentOf(5, {1, 2}, {2, 3}), std::nullopt);
  EXPECT_EQ(ParentOf(4, {0, 1}, {2, 4}), std::nullopt) << "a gap";
}

TEST(ShardTreeTest, ARangeIsCutIntoTheGreatestNodesWithin) {
  EXPECT_THAT(GreatestNodes(8, {4, 8}), ElementsAre(ShardRange{4, 8}));
  EXPECT_THAT(GreatestNodes(12, {0, 4}), ElementsAre(ShardRange{0, 3}, ShardRange{3, 4}));
  EXPECT_THAT(GreatestNodes(12, {4, 8}), ElementsAre(ShardRange{4, 5}, ShardRange{5, 6}, ShardRange{6, 8}));
  EXPECT_THAT(GreatestNodes(1, {0, 1}), ElementsAre(ShardRange{0, 1}));
}

// Numbers whose float32 sum depends on the order of the additions.
TEST(ShardTreeTest, EveryDivisionAmongRanksGivesTheSumOfThePlainRecursion) {
  for (int shards = 1; shards <= 24; ++shards) {
    std::vector<float> values;
    for (int i = 0; i < shards; ++i) values.push_back((i % 3 == 0 ? 1e8F : 1.1F) / static_cast<float>(i + 1) * (i % 2 == 0 ? 1 : -1));
    const std::function<float(int, int)> plain = [&](int begin, int end) -> float {
      if (end - begin == 1) return values[static_cast<size_t>(begin)];
      const int middle = begin + (end - begin + 1) / 2;
      return plain(begin, middle) + plain(middle, end);
    };
    for (int ranks = 1; ranks <= shards; ++ranks) {
      if (shards % ranks != 0) continue;
      TreeSum all(shards);
      for (int rank = 0; rank < ranks; ++rank) {
        const ShardRange own = ShardsOfRank(shards, rank, ranks);
        TreeSum sum(shards);
        for (int i = own.begin; i < own.end; ++i) sum.Add({i, i + 1}, Of(values[static_cast<size_t>(i)]));
        const std::vector<ShardRange> expected = GreatestNodes(shards, own);
        ASSERT_EQ(sum.nodes().size(), expected.size()) << shards << " shards, rank " << rank << " of " << ranks;
        EXPECT_EQ(sum.nodes().size() + sum.spare().size(), static_cast<size_t>(own.end - own.begin)) << "no tensor is lost";
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_EQ(sum.nodes()[i].range, expected[i]);
          all.Add(expected[i], sum.nodes()[i].sum);
        }
      }
      ASSERT_EQ(all.nodes().size(), 1U);
      EXPECT_EQ(all.nodes()[0].sum.item<float>(), plain(0, shards)) << shards << " shards on " << ranks << " ranks";
    }
  }
}

TEST(ShardTreeTest, ShardsComeInOrder) {
  TreeSum sum(4);
  sum.Add({0, 1}, Of(1));
  EXPECT_THROW(sum.Add({2, 3}, Of(1)), c10::Error);
}

}  // namespace
}  // namespace bitstair::trainer
