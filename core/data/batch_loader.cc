#include "core/data/batch_loader.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "core/random/philox.h"

namespace bitstair::core {
namespace {

constexpr size_t kQueuedBatches = 3;

std::vector<int32_t> Permutation(uint64_t seed, uint32_t epoch, int64_t size) {
  std::vector<int32_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = size - 1; i > 0; --i) {
    const uint32_t j = UniformInteger(seed, Purpose::kShuffle, epoch, static_cast<uint32_t>(i), 0, static_cast<uint32_t>(i) + 1);
    std::swap(order[i], order[j]);
  }
  return order;
}

}  // namespace

// The caller's thread owns the epoch's beginning and end; the producer thread fills queue_ and ends by itself after the last batch, on stop_, or with failure_.
class BatchLoader::Impl {
 public:
  Impl(const ImageDataset& data, BatchLoaderOptions options) : data_(data), options_(options) {
    TORCH_CHECK(options.world_size >= 1 && options.rank >= 0 && options.rank < options.world_size, "rank ", options.rank, " of ", options.world_size);
    TORCH_CHECK(options.batch_size >= 1 && options.batch_size % options.world_size == 0, "batch size ", options.batch_size, " is not a multiple of ",
                options.world_size, " ranks");
    TORCH_CHECK(data.size() > 0 && data.size() < (int64_t{1} << 31), data.size(), " images");
    // Of each channel, the normalised value of each pixel byte.
    const int64_t channels = data.images.size(1);
    normalised_.resize(static_cast<size_t>(channels) * 256);
    for (int64_t c = 0; c < channels; ++c) {
      for (int v = 0; v < 256; ++v) normalised_[c * 256 + v] = (static_cast<float>(v) / 255.0f - data.mean[c]) / data.std[c];
    }
  }

  ~Impl() { Stop(); }

  int64_t batches_per_epoch() const { return data_.size() / options_.batch_size; }

  void StartEpoch(int64_t epoch, int64_t first) {
    TORCH_CHECK(epoch >= 0 && epoch < (int64_t{1} << 32), "epoch ", epoch);
    Stop();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = false;
      failure_ = nullptr;
      queue_.clear();
    }
    wait_seconds_ = 0;
    next_ = first;
    producer_ = std::thread([this, epoch, first] { Produce(static_cast<uint32_t>(epoch), first); });
  }

  bool Next(Batch* batch) {
    if (next_ >= batches_per_epoch() || !producer_.joinable()) return false;
    const auto begin = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !queue_.empty() || failure_ != nullptr; });
    wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (queue_.empty()) std::rethrow_exception(failure_);
    *batch = std::move(queue_.front());
    queue_.pop_front();
    ++next_;
    lock.unlock();
    changed_.notify_all();
    return true;
  }

  double wait_seconds() const { return wait_seconds_; }

 private:
  void Stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    if (producer_.joinable()) producer_.join();
  }

  void Produce(uint32_t epoch, int64_t first) {
    try {
      const std::vector<int32_t> order = Permutation(options_.seed, epoch, data_.size());
      const int64_t local = options_.batch_size / options_.world_size;
      for (int64_t index = first; index < batches_per_epoch(); ++index) {
        Batch batch = Make(epoch, index, order.data() + index * options_.batch_size + options_.rank * local, local);
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || queue_.size() < kQueuedBatches; });
        if (stop_) return;
        queue_.push_back(std::move(batch));
        lock.unlock();
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      failure_ = std::current_exception();
      changed_.notify_all();
    }
  }

  Batch Make(uint32_t epoch, int64_t index, const int32_t* images, int64_t count) const {
    const int64_t channels = data_.images.size(1), height = data_.images.size(2), width = data_.images.size(3);
    Batch batch;
    batch.index = index;
    batch.position = {epoch, index, options_.rank * count};
    batch.images = at::empty({count, channels, height, width}, at::kFloat);
    batch.labels = at::empty({count}, at::kLong);
    float* out = batch.images.mutable_data_ptr<float>();
    int64_t* label = batch.labels.mutable_data_ptr<int64_t>();
    const int64_t* labels = data_.labels.const_data_ptr<int64_t>();
    const uint8_t* pixels = data_.images.const_data_ptr<uint8_t>();
    for (int64_t i = 0; i < count; ++i) {
      label[i] = labels[images[i]];
      CopyImage(epoch, images[i], pixels + images[i] * channels * height * width, out);
      out += channels * height * width;
    }
    return batch;
  }

  void CopyImage(uint32_t epoch, int32_t image, const uint8_t* in, float* out) const {
    const int channels = static_cast<int>(data_.images.size(1)), height = static_cast<int>(data_.images.size(2)),
              width = static_cast<int>(data_.images.size(3));
    int top = 0, left = 0;  // of the crop, in the coordinates of the unpadded image
    bool flip = false;
    if (options_.crop_flip) {
      const int pad = height == 28 && width == 28 ? 2 : 4;
      const uint32_t choices = static_cast<uint32_t>(2 * pad + 1), key = static_cast<uint32_t>(image);
      top = static_cast<int>(UniformInteger(options_.seed, Purpose::kCrop, epoch, key, 0, choices)) - pad;
      left = static_cast<int>(UniformInteger(options_.seed, Purpose::kCrop, epoch, key, 1, choices)) - pad;
      flip = (Philox4x32(options_.seed, Purpose::kFlip, epoch, key, 0)[0] & 1) != 0;
    }
    for (int c = 0; c < channels; ++c) {
      const float* value = normalised_.data() + c * 256;
      const uint8_t* plane = in + c * height * width;
      for (int y = 0; y < height; ++y) {
        const int from_y = y + top;
        for (int x = 0; x < width; ++x) {
          const int from_x = (flip ? width - 1 - x : x) + left;
          const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
          *out++ = value[inside ? plane[from_y * width + from_x] : 0];
        }
      }
    }
  }

  const ImageDataset& data_;
  const BatchLoaderOptions options_;
  std::vector<float> normalised_;

  int64_t next_ = 0;         // caller's thread only
  double wait_seconds_ = 0;  // caller's thread only
  std::thread producer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::exception_ptr failure_ ABSL_GUARDED_BY(mutex_);
};

BatchLoader::BatchLoader(const ImageDataset& data, BatchLoaderOptions options) : impl_(std::make_unique<Impl>(data, options)) {}
BatchLoader::~BatchLoader() = default;
int64_t BatchLoader::batches_per_epoch() const {
  return impl_->batches_per_epoch();
}
void BatchLoader::StartEpoch(int64_t epoch, int64_t first) {
  impl_->StartEpoch(epoch, first);
}
bool BatchLoader::Next(Batch* batch) {
  return impl_->Next(batch);
}
double BatchLoader::wait_seconds() const {
  return impl_->wait_seconds();
}

}  // namespace bitstair::core
