// A coordinator that does only what the test says: real gRPC, no state of jobs. Records all that workers say.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "bitstair/v1/artifacts.grpc.pb.h"
#include "bitstair/v1/fleet.grpc.pb.h"

namespace bitstair::worker {

// An artifact store in memory that breaks when told to.
class MemoryArtifacts final : public v1::Artifacts::Service {
 public:
  grpc::Status UploadArtifact(grpc::ServerContext*, grpc::ServerReader<v1::UploadArtifactRequest>* reader, v1::Artifact* response) override;
  grpc::Status GetArtifact(grpc::ServerContext*, const v1::GetArtifactRequest* request, v1::Artifact* response) override;
  grpc::Status DownloadArtifact(grpc::ServerContext*, const v1::DownloadArtifactRequest* request,
                                grpc::ServerWriter<v1::DownloadArtifactResponse>* writer) override;

  void Put(const std::string& sha256, const std::string& bytes);
  std::string Get(const std::string& sha256);

  // The next so many streams break (UNAVAILABLE) after about so many bytes.
  void BreakStreams(int count, int64_t after_bytes);
  // Offsets at which uploads and downloads began.
  std::vector<int64_t> offsets();

 private:
  struct Blob {
    std::string bytes;
    int64_t size = 0;
  };
  bool TakeBreak(int64_t* after);

  std::mutex mutex_;
  std::map<std::string, Blob> blobs_;
  int breaks_ = 0;
  int64_t break_after_ = 0;
  std::vector<int64_t> offsets_;
};

class ScriptedCoordinator final : public v1::Fleet::Service {
 public:
  struct Record {
    std::string worker;  // hello.host
    int connection = 0;  // of all workers, from 1
    v1::WorkerMessage message;
  };

  // Set before a worker connects.
  double lease_seconds = 8;
  double grace_seconds = 30;
  std::function<std::vector<v1::AttemptId>(const v1::WorkerHello&)> fence;
  bool commit_checkpoints = true;
  grpc::Status refuse;  // the answer to every hello, if not OK

  // port 0: any. `artifacts` outlives the coordinator.
  explicit ScriptedCoordinator(MemoryArtifacts* artifacts, int port = 0);
  // Breaks all streams.
  ~ScriptedCoordinator() override;

  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  using Test = std::function<bool(const Record&)>;
  // The first message, from the beginning, that passes; waits for it. Nothing after 15 s.
  std::optional<Record> WaitFor(const Test& test);
  std::vector<Record> records();
  int Count(const Test& test);
  // Waits for the worker's hello, then sends.
  void Send(const std::string& worker, const v1::CoordinatorMessage& message);
  // Waits until the worker's stream has ended.
  bool WaitForEnd(const std::string& worker);

  grpc::Status Connect(grpc::ServerContext* context, grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>* stream) override;

 private:
  using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Record> records_;
  std::map<std::string, Stream*> streams_;
  int connections_ = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace bitstair::worker
