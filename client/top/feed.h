// Keeps the model of `bitstair top` up to date.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "client/client.h"
#include "client/top/model.h"

namespace bitstair::client::top {

// Asks once: the fleet, the jobs that have not ended, the newest that have, and the epochs of `selected` and of what runs. On an error the model's lists stay
// as they were.
absl::Status Ask(Client& client, const std::string& selected, Model& model);

// Asks every second on a thread of its own, whatever the answer, until it is destroyed (which stops `client`). Thread-safe.
class Feed {
 public:
  // on_news: called on the feed's thread after each answer or error.
  Feed(Client& client, std::function<void()> on_news);
  ~Feed();
  Feed(const Feed&) = delete;
  Feed& operator=(const Feed&) = delete;

  // The newest model, with its clock at now.
  Model Get() const;
  // The job whose epochs are wanted whether it runs or not; asked for at once.
  void Select(const std::string& job);

 private:
  void Run();

  Client& client_;
  const std::function<void()> on_news_;
  mutable absl::Mutex mutex_;
  Model model_ ABSL_GUARDED_BY(mutex_);
  std::string selected_ ABSL_GUARDED_BY(mutex_);
  bool ask_now_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point last_answer_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace bitstair::client::top
