// What waits behind the one write in flight of a gRPC stream.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace bitstair::server {

// Thread-safe. `write` starts a write of a message that stays valid until WriteDone; `finish` ends the stream and is called exactly once at most.
// Neither runs under the lock, and never both at once.
template <typename Message>
class StreamWriter {
 public:
  StreamWriter(size_t limit, std::function<void(const Message*)> write, std::function<void(absl::Status)> finish)
      : limit_(limit), write_(std::move(write)), finish_(std::move(finish)) {}

  // A message with a non-empty topic replaces a waiting one of the same topic, which then keeps its place. More than `limit` waiting ones end the stream with
  // RESOURCE_EXHAUSTED: the reader is too slow, and nothing may be left out silently. After Close: nothing.
  void Send(Message message, const std::string& topic = "") {
    {
      absl::MutexLock lock(&mutex_);
      if (closing_) return;
      for (auto& waiting : queue_) {
        if (!topic.empty() && waiting.first == topic) {
          waiting.second = std::move(message);
          return;
        }
      }
      if (queue_.size() >= limit_) {
        queue_.clear();
        closing_ = true;
        status_ = absl::ResourceExhaustedError("the stream's reader is too slow");
      } else {
        queue_.emplace_back(topic, std::move(message));
      }
    }
    Advance();
  }

  // Ends the stream once everything sent before has been written.
  void Close(absl::Status status) {
    {
      absl::MutexLock lock(&mutex_);
      if (closing_) return;
      closing_ = true;
      status_ = std::move(status);
    }
    Advance();
  }

  // From OnWriteDone. A failed write drops the rest: the peer is gone.
  void WriteDone(bool ok) {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) {
        queue_.clear();
        if (!closing_) status_ = absl::CancelledError("the peer is gone");
        closing_ = true;
      }
    }
    Advance();
  }

 private:
  void Advance() {
    const Message* next = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      if (writing_ || finished_) return;
      if (!queue_.empty()) {
        current_ = std::move(queue_.front().second);
        queue_.pop_front();
        writing_ = true;
        next = &current_;
      } else if (closing_) {
        finished_ = true;
      } else {
        return;
      }
    }
    if (next != nullptr) {
      write_(next);
    } else {
      finish_(FinalStatus());
    }
  }

  absl::Status FinalStatus() {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

  const size_t limit_;
  const std::function<void(const Message*)> write_;
  const std::function<void(absl::Status)> finish_;
  absl::Mutex mutex_;
  std::deque<std::pair<std::string, Message>> queue_ ABSL_GUARDED_BY(mutex_);
  Message current_ ABSL_GUARDED_BY(mutex_);  // read by gRPC while writing_
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitstair::server
