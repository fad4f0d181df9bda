// Checkpoints between this host and the artifact store.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/artifacts.grpc.pb.h"

namespace bitstair::worker {

class WorkerMetrics;

// Uploads and downloads in the background, each kind one after the other, chunk by chunk. A broken transfer goes on where it stopped; every file is checked
// against its digest before anybody sees it. Files, hashes and timers live on a thread of the client's own; results are posted to the owner's io_context.
class ArtifactClient {
 public:
  struct Options {
    // Files named by digest, shared by all attempts; the least recently used leave when they are more than cache_bytes together.
    std::string cache_dir;
    int64_t cache_bytes = int64_t{10} << 30;
    // Tries of a download without a byte of progress before it fails. Uploads go on until they are cancelled: a checkpoint is worth it.
    int download_tries = 20;
  };
  using FetchDone = std::function<void(const absl::StatusOr<std::string>& path)>;
  using UploadDone = std::function<void(const absl::Status&)>;

  // Borrows owner and metrics, which outlive the client.
  ArtifactClient(boost::asio::io_context& owner, std::shared_ptr<grpc::Channel> channel, Options options, WorkerMetrics* metrics);
  // Breaks what is under way and waits for its end; done functions that were not posted yet are never called.
  ~ArtifactClient();
  ArtifactClient(const ArtifactClient&) = delete;
  ArtifactClient& operator=(const ArtifactClient&) = delete;

  // The path of a local file with this digest. NOT_FOUND or DATA_LOSS: it cannot be had, ever; other errors: not now.
  // Returns a number for Cancel. Thread-safe, as the other functions are.
  uint64_t Fetch(const std::string& sha256, int64_t size_bytes, FetchDone done);

  // Sends the file, and on success links it into the cache. An error is permanent (the file is damaged, or refused).
  uint64_t Upload(const std::string& path, const std::string& sha256, int64_t size_bytes, UploadDone done);

  // `done` is not called unless its call was posted already.
  void Cancel(uint64_t number);

 private:
  class Transfer;
  class Download;
  class UploadTransfer;
  struct Lane {
    std::deque<std::shared_ptr<Transfer>> waiting;  // the first is under way
  };
  uint64_t Enqueue(Lane& lane, std::shared_ptr<Transfer> transfer);
  void Finished(const std::shared_ptr<Transfer>& transfer);
  void LeaveIfIdle();
  std::string CachePath(const std::string& sha256) const;
  void TrimCache(const std::string& keep_path);

  boost::asio::io_context& owner_;
  const Options options_;
  WorkerMetrics* const metrics_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Artifacts::Stub> stub_;
  std::atomic<uint64_t> next_number_{1};

  // Below: only on thread_.
  // Shared with gRPC's callbacks, which post to it.
  const std::shared_ptr<boost::asio::io_context> io_ = std::make_shared<boost::asio::io_context>(1);
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  Lane downloads_;
  Lane uploads_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace bitstair::worker
