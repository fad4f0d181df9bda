#include "core/data/sample_pipeline.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

// Samples that a thread takes at a time.
constexpr int64_t kChunk = 4;
// So many unreadable samples in a row are no accident.
constexpr int64_t kMaxInARow = 1000;

}  // namespace

// Threads take chunks of the order one after the other and write each sample to its place in its batch; a batch is done when all of its samples are.
// Invariants, under mutex_: pending_ holds the batches [first_pending_, ...) that a chunk of was taken; what lies in their tensors belongs to the threads until
// `left` is 0.
class SamplePipeline::Impl {
 public:
  Impl(const SampleSource& data, int threads) : data_(data), threads_(std::max(1, threads)) {
    const ImageShape shape = data.shape();
    TORCH_CHECK(static_cast<int>(data.mean.size()) == shape.channels && static_cast<int>(data.std.size()) == shape.channels, "data set with ", shape.channels,
                " channels has ", data.mean.size(), " means and ", data.std.size(), " deviations");
    normalised_.resize(static_cast<size_t>(shape.channels) * 256);
    for (int c = 0; c < shape.channels; ++c) {
      for (int v = 0; v < 256; ++v) normalised_[c * 256 + v] = (static_cast<float>(v) / 255.0f - data.mean[c]) / data.std[c];
    }
  }

  ~Impl() { Stop(); }

  void Start(std::vector<int32_t> order, int64_t batch_size, std::optional<AugmentationKey> augmentation, WhenSkipped when_skipped) {
    TORCH_CHECK(batch_size >= 1, "batches of ", batch_size, " samples");
    Stop();
    order_ = std::move(order);
    batch_size_ = batch_size;
    augmentation_ = augmentation;
    replaces_ = when_skipped == WhenSkipped::kReplace;
    status_ = absl::OkStatus();
    wait_seconds_ = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = false;
      next_ = 0;
      first_pending_ = 0;
      pending_.clear();
    }
    const int64_t chunks = (size() + kChunk - 1) / kChunk;
    for (int64_t i = 0; i < std::min<int64_t>(threads_, chunks); ++i) readers_.emplace_back([this] { ReadChunks(); });
  }

  bool Next(SampleBatch* batch) {
    if (!status_.ok() || readers_.empty()) return false;
    const auto begin = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    if (first_pending_ * batch_size_ >= size()) return false;
    changed_.wait(lock, [this] { return !pending_.empty() && pending_.front().left == 0; });
    wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    Pending done = std::move(pending_.front());
    pending_.pop_front();
    ++first_pending_;
    lock.unlock();
    changed_.notify_all();
    if (!done.failures.empty() && !data_.skip_unreadable) status_ = done.failures.begin()->second;
    if (!done.fatal.ok()) status_ = done.fatal;
    if (!status_.ok()) return false;
    *batch = Finished(std::move(done));
    return true;
  }

  const absl::Status& status() const { return status_; }
  double wait_seconds() const { return wait_seconds_; }

 private:
  struct Pending {
    at::Tensor images;
    at::Tensor labels;
    int64_t left = 0;                          // samples that are not read yet
    std::map<int64_t, absl::Status> failures;  // by place in the batch
    absl::Status fatal;                        // not a fault of one sample
  };

  int64_t size() const { return static_cast<int64_t>(order_.size()); }

  void Stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& reader : readers_) reader.join();
    readers_.clear();
  }

  void ReadChunks() {
    std::vector<uint8_t> pixels(static_cast<size_t>(data_.shape().size()));
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || next_ >= size() || next_ / batch_size_ < first_pending_ + kBatches; });
      if (stop_ || next_ >= size()) return;
      const int64_t batch = next_ / batch_size_, begin = next_, batch_end = std::min((batch + 1) * batch_size_, size());
      const int64_t end = std::min(begin + kChunk, batch_end);
      next_ = end;
      try {
        if (begin == batch * batch_size_) pending_.push_back(NewBatch(batch_end - begin));
      } catch (const std::exception& error) {
        Pending failed;
        failed.fatal = absl::ResourceExhaustedError(absl::StrCat("no memory for a batch: ", error.what()));
        pending_.push_back(std::move(failed));
        next_ = size();  // nobody goes on
        changed_.notify_all();
        return;
      }
      Pending& pending = pending_[static_cast<size_t>(batch - first_pending_)];  // a deque's elements stay where they are
      float* images = pending.images.mutable_data_ptr<float>();
      int64_t* labels = pending.labels.mutable_data_ptr<int64_t>();
      lock.unlock();
      std::map<int64_t, absl::Status> failures;
      absl::Status fatal;
      try {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t place = i - batch * batch_size_;
          if (absl::Status status = ReadSample(order_[i], pixels.data(), images + place * data_.shape().size(), labels + place); !status.ok()) {
            failures[place] = std::move(status);
          }
        }
      } catch (const std::exception& error) {
        fatal = absl::InternalError(absl::StrCat("cannot prepare a batch: ", error.what()));
      }
      lock.lock();
      pending.failures.merge(failures);
      if (!fatal.ok()) pending.fatal = fatal;
      pending.left -= end - begin;
      if (pending.left == 0) changed_.notify_all();
    }
  }

  Pending NewBatch(int64_t samples) const {
    const ImageShape shape = data_.shape();
    Pending batch;
    batch.images = at::empty({samples, shape.channels, shape.height, shape.width}, at::kFloat);
    batch.labels = at::empty({samples}, at::kLong);
    batch.left = samples;
    return batch;
  }

  // The failure of sample `index`, whether or not another one took its place.
  absl::Status ReadSample(int64_t index, uint8_t* pixels, float* out, int64_t* label) const {
    const AugmentationKey* key = augmentation_.has_value() ? &*augmentation_ : nullptr;
    const absl::Status failure = data_.Read(index, key, pixels);
    if (!failure.ok()) {
      if (!data_.skip_unreadable || !replaces_) return failure;
      int64_t tries = 0;
      do {
        index = (index + 1) % data_.size();
        if (++tries == std::min(kMaxInARow, data_.size())) {
          throw std::runtime_error(absl::StrCat(tries, " images in a row cannot be read; the first: ", failure.message()));
        }
      } while (!data_.Read(index, key, pixels).ok());
    }
    *label = data_.label(index);
    const ImageShape shape = data_.shape();
    const int64_t plane = int64_t{shape.height} * shape.width;
    for (int c = 0; c < shape.channels; ++c) {
      const float* value = normalised_.data() + static_cast<size_t>(c) * 256;
      for (int64_t i = 0; i < plane; ++i) *out++ = value[*pixels++];
    }
    return failure;
  }

  SampleBatch Finished(Pending done) const {
    SampleBatch batch;
    for (const auto& [place, failure] : done.failures) batch.skipped.emplace_back(failure.message());
    if (!done.failures.empty() && !replaces_) {
      std::vector<at::Tensor> images{done.images.slice(0, 0, 0)}, labels{done.labels.slice(0, 0, 0)};
      int64_t from = 0;
      const auto keep = [&](int64_t to) {
        images.push_back(done.images.slice(0, from, to));
        labels.push_back(done.labels.slice(0, from, to));
        from = to + 1;
      };
      for (const auto& [place, failure] : done.failures) keep(place);
      keep(done.labels.size(0));
      batch.images = at::cat(images);
      batch.labels = at::cat(labels);
    } else {
      batch.images = std::move(done.images);
      batch.labels = std::move(done.labels);
    }
    return batch;
  }

  const SampleSource& data_;
  const int threads_;
  std::vector<float> normalised_;  // of each channel, the normalised value of each pixel byte

  // Constant while the readers run.
  std::vector<int32_t> order_;
  int64_t batch_size_ = 1;
  std::optional<AugmentationKey> augmentation_;
  bool replaces_ = false;

  // The caller's thread only.
  absl::Status status_;
  double wait_seconds_ = 0;
  std::vector<std::thread> readers_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // of order_, to be taken
  int64_t first_pending_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
};

SamplePipeline::SamplePipeline(const SampleSource& data, int threads) : impl_(std::make_unique<Impl>(data, threads)) {}
SamplePipeline::~SamplePipeline() = default;
void SamplePipeline::Start(std::vector<int32_t> order, int64_t batch_size, std::optional<AugmentationKey> augmentation, WhenSkipped when_skipped) {
  impl_->Start(std::move(order), batch_size, augmentation, when_skipped);
}
bool SamplePipeline::Next(SampleBatch* batch) {
  return impl_->Next(batch);
}
const absl::Status& SamplePipeline::status() const {
  return impl_->status();
}
double SamplePipeline::wait_seconds() const {
  return impl_->wait_seconds();
}

}  // namespace bitstair::core
