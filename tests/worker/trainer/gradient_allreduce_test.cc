#include "worker/trainer/gradient_allreduce.h"

#include <ATen/ATen.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/trainer/rendezvous.h"

namespace bitstair::trainer {
namespace {

// Runs `body` as ranks 0..world_size-1 on threads that meet over loopback; exceptions of a rank come back to the test.
void SpawnRanks(int world_size, const std::function<void(ProcessGroup&)>& body) {
  // A trainer is one rank; here several share a process, whose flight recorder has a race then (see ProcessGroup). c10d reads this at the first collective.
  setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/1);
  std::signal(SIGPIPE, SIG_IGN);  // as the trainer does: Gloo writes to peers that may be gone
  std::promise<std::string> address;
  bool told = false;  // rank 0's thread only
  const std::shared_future<std::string> known = address.get_future().share();
  std::vector<std::exception_ptr> failures(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const std::string scope = RendezvousStore::Scope("stage", 1, "token");
        auto store = rank == 0 ? RendezvousStore::Host("127.0.0.1", scope) : RendezvousStore::Connect(known.get(), scope);
        if (!store.ok()) throw std::runtime_error(store.status().ToString());
        if (rank == 0) address.set_value((*store)->address()), told = true;
        ProcessGroup group((*store)->store(), rank, world_size, "127.0.0.1");
        body(group);
        (*store)->Leave(rank, world_size);
      } catch (...) {
        failures[static_cast<size_t>(rank)] = std::current_exception();
        if (rank == 0 && !told) address.set_exception(std::current_exception());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

std::vector<core::Parameter> Parameters() {
  std::vector<core::Parameter> parameters;
  for (const int64_t size : {3, 400'000, 5}) {
    core::Parameter parameter;
    parameter.name = "p" + std::to_string(size);
    parameter.leaf = at::ones({size});
    parameter.leaf.set_requires_grad(true);
    parameter.latent = parameter.leaf;
    parameters.push_back(parameter);
  }
  return parameters;
}

TEST(GradientBucketsTest, FromTheLastParameterAndBySize) {
  using ::testing::ElementsAre;
  EXPECT_THAT(GradientBuckets({10, 20, 30, 40, 50}, 60, 100), ElementsAre(ElementsAre(4), ElementsAre(3, 2, 1, 0)));
  EXPECT_THAT(GradientBuckets({10, 20, 30}, 60, 100), ElementsAre(ElementsAre(2, 1, 0)));
  EXPECT_THAT(GradientBuckets({10, 500, 30}, 20, 100), ElementsAre(ElementsAre(2), ElementsAre(1), ElementsAre(0)));
}

TEST(GradientAllreduceTest, EveryRankGetsTheMean) {
  for (const int world_size : {2, 3}) {
    SpawnRanks(world_size, [world_size](ProcessGroup& group) {
      std::vector<core::Parameter> parameters = Parameters();
      const std::unique_ptr<GradientAllreduce> gradients = MakeGradientAllreduce(parameters, group);
      for (int step = 0; step < 3; ++step) {
        gradients->PrepareForward();
        at::Tensor loss = at::zeros({});
        for (const core::Parameter& p : parameters) loss = loss + (p.leaf * static_cast<double>(group.rank() + step)).sum();
        gradients->PrepareBackward(loss);
        loss.backward();
        gradients->Finish();
        gradients->Average();
        const double mean = (world_size - 1) / 2.0 + step;
        for (core::Parameter& p : parameters) {
          EXPECT_TRUE(at::allclose(p.leaf.grad(), at::full_like(p.leaf, mean), 0, 1e-6)) << p.name << " step " << step;
          p.leaf.mutable_grad().reset();
        }
      }
      EXPECT_EQ(gradients->bytes_sent(), 3 * (400'008 * 4 * 2 * (world_size - 1) / world_size));
    });
  }
}

TEST(GradientAllreduceTest, ARankThatAbstainsCountsAsZero) {
  SpawnRanks(2, [](ProcessGroup& group) {
    std::vector<core::Parameter> parameters = Parameters();
    const std::unique_ptr<GradientAllreduce> gradients = MakeGradientAllreduce(parameters, group);
    gradients->PrepareForward();
    if (group.rank() == 1) {
      gradients->Abstain();
    } else {
      at::Tensor loss = at::zeros({});
      for (const core::Parameter& p : parameters) loss = loss + p.leaf.sum();
      gradients->PrepareBackward(loss);
      loss.backward();
      gradients->Finish();
    }
    for (const core::Parameter& p : parameters) EXPECT_TRUE(p.leaf.grad().equal(at::full_like(p.leaf, 0.5)));
  });
}

// The leaves' gradients after a step in which shard s has the gradient s + 1/3 everywhere.
std::vector<at::Tensor> ShardedStep(std::vector<core::Parameter>& parameters, int shards, ProcessGroup& group, GradientAllreduce& gradients) {
  const int own = shards / group.world_size();
  for (int shard = group.rank() * own; shard < (group.rank() + 1) * own; ++shard) {
    gradients.PrepareForward();
    at::Tensor loss = at::zeros({});
    for (const core::Parameter& p : parameters) loss = loss + (p.leaf * (shard + 1.0 / 3)).sum();
    gradients.PrepareBackward(loss);
    loss.backward();
    gradients.Finish();
    for (const core::Parameter& p : parameters) EXPECT_FALSE(p.leaf.grad().defined()) << "taken away";
  }
  gradients.Average();
  std::vector<at::Tensor> grads;
  for (core::Parameter& p : parameters) {
    grads.push_back(p.leaf.grad().clone());
    p.leaf.mutable_grad().reset();
  }
  return grads;
}

TEST(FixedShardsAllreduceTest, TheMeanHasTheSameBitsOnAnyNumberOfRanks) {
  constexpr int shards = 12;
  std::vector<at::Tensor> one;
  for (const int world_size : {1, 2, 3, 4}) {
    const auto body = [&](ProcessGroup& group) {
      std::vector<core::Parameter> parameters = Parameters();
      const std::unique_ptr<GradientAllreduce> gradients = MakeFixedShardsAllreduce(parameters, shards, group);
      ShardedStep(parameters, shards, group, *gradients);
      const std::vector<at::Tensor> again = ShardedStep(parameters, shards, group, *gradients);
      if (world_size == 1) one = again;
      for (size_t i = 0; i < again.size(); ++i) {
        EXPECT_TRUE(again[i].equal(one[i])) << parameters[i].name << " on " << world_size << " ranks";
        EXPECT_TRUE(at::allclose(again[i], at::full_like(again[i], (shards - 1) / 2.0 + 1.0 / 3), 0, 1e-5));
      }
      // Of three ranks the second has the greatest number of nodes: 4, 5 and 6 to 7.
      const int64_t nodes = world_size == 3 ? 3 : 1, chunk = (400'008 + world_size - 1) / world_size * 4;
      EXPECT_EQ(gradients->bytes_sent(), 2 * (world_size - 1) * (nodes + 1) * chunk);
    };
    if (world_size == 1) {
      ProcessGroup group;
      body(group);
    } else {
      SpawnRanks(world_size, body);
    }
  }
}

TEST(FixedShardsAllreduceTest, ARankThatAbstainsCountsAsZero) {
  SpawnRanks(2, [](ProcessGroup& group) {
    std::vector<core::Parameter> parameters = Parameters();
    const std::unique_ptr<GradientAllreduce> gradients = MakeFixedShardsAllreduce(parameters, 2, group);
    if (group.rank() == 1) {
      gradients->Abstain();
    } else {
      at::Tensor loss = at::zeros({});
      for (const core::Parameter& p : parameters) loss = loss + p.leaf.sum();
      loss.backward();
      gradients->Finish();
      gradients->Average();
    }
    for (const core::Parameter& p : parameters) EXPECT_TRUE(p.leaf.grad().equal(at::full_like(p.leaf, 0.5)));
  });
}

TEST(ProcessGroupTest, GathersInRankOrder) {
  SpawnRanks(3, [](ProcessGroup& group) {
    const std::vector<at::Tensor> all = group.AllGather(at::full({2}, group.rank(), at::kDouble));
    ASSERT_EQ(all.size(), 3u);
    for (int rank = 0; rank < 3; ++rank) EXPECT_TRUE(all[rank].equal(at::full({2}, rank, at::kDouble)));
    group.Barrier();
  });
}

TEST(ProcessGroupTest, AGangOfOneNeedsNobody) {
  ProcessGroup group;
  EXPECT_EQ(group.AllGather(at::ones({2})).size(), 1u);
  group.Barrier();
  std::vector<core::Parameter> parameters = Parameters();
  EXPECT_EQ(MakeGradientAllreduce(parameters, group)->bytes_sent(), 0);
}

TEST(ProcessGroupTest, ALostPeerIsAnExceptionAtOnce) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_ANY_THROW(SpawnRanks(2, [](ProcessGroup& group) {
    if (group.rank() == 1) throw std::runtime_error("leaves");
    group.Barrier();
  }));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(RendezvousTest, AnAddressThatIsNotOursIsNamed) {
  const auto store = RendezvousStore::Host("192.0.2.1", "scope");
  EXPECT_EQ(store.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(store.status().message()), ::testing::HasSubstr("192.0.2.1"));
}

}  // namespace
}  // namespace bitstair::trainer
