#include "core/data/batch_loader.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "core/random/philox.h"

namespace bitstair::core {
namespace {

std::vector<int32_t> Permutation(uint64_t seed, uint32_t epoch, int64_t size) {
  std::vector<int32_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = size - 1; i > 0; --i) {
    const uint32_t j = UniformInteger(seed, Purpose::kShuffle, epoch, static_cast<uint32_t>(i), 0, static_cast<uint32_t>(i) + 1);
    std::swap(order[i], order[j]);
  }
  return order;
}

BatchLoaderOptions WithShards(BatchLoaderOptions options) {
  if (options.shards == 0) options.shards = options.world_size;
  return options;
}

}  // namespace

BatchLoader::BatchLoader(const SampleSource& data, BatchLoaderOptions options) : data_(data), options_(WithShards(options)), pipeline_(data, options.threads) {
  TORCH_CHECK(options.world_size >= 1 && options.rank >= 0 && options.rank < options.world_size, "rank ", options.rank, " of ", options.world_size);
  TORCH_CHECK(options_.shards >= 1 && options_.shards % options.world_size == 0, options_.shards, " shards are not a multiple of ", options.world_size,
              " ranks");
  TORCH_CHECK(options.batch_size >= 1 && options.batch_size % options_.shards == 0, "batch size ", options.batch_size, " is not a multiple of ",
              options_.shards, options.shards == 0 ? " ranks" : " shards");
  TORCH_CHECK(data.size() > 0 && data.size() < (int64_t{1} << 31), data.size(), " images");
}

void BatchLoader::StartEpoch(int64_t epoch, int64_t first) {
  TORCH_CHECK(epoch >= 0 && epoch < (int64_t{1} << 32), "epoch ", epoch);
  const auto begin = std::chrono::steady_clock::now();
  epoch_ = static_cast<uint32_t>(epoch);
  next_ = first;
  shard_ = 0;
  const std::vector<int32_t> order = Permutation(options_.seed, epoch_, data_.size());
  const int64_t local = options_.batch_size / options_.world_size;
  std::vector<int32_t> own;  // this rank's images from batch `first` on
  own.reserve(static_cast<size_t>(std::max<int64_t>(0, batches_per_epoch() - first) * local));
  for (int64_t b = first; b < batches_per_epoch(); ++b) {
    const auto part = order.begin() + b * options_.batch_size + options_.rank * local;
    own.insert(own.end(), part, part + local);
  }
  const std::optional<AugmentationKey> key = options_.augment ? std::optional<AugmentationKey>({options_.seed, epoch_}) : std::nullopt;
  pipeline_.Start(std::move(own), local / shards_per_rank(), key, WhenSkipped::kReplace);
  start_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

bool BatchLoader::Next(Batch* batch) {
  SampleBatch samples;
  if (!pipeline_.Next(&samples)) return false;
  batch->images = std::move(samples.images);
  batch->labels = std::move(samples.labels);
  batch->skipped = std::move(samples.skipped);
  batch->index = next_;
  const int64_t shard = int64_t{options_.rank} * shards_per_rank() + shard_;
  batch->position = {epoch_, next_, shard * (options_.batch_size / options_.shards)};
  if (++shard_ == shards_per_rank()) {
    shard_ = 0;
    ++next_;
  }
  return true;
}

}  // namespace bitstair::core
