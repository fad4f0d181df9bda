#include "tests/worker/scripted_coordinator.h"

#include <algorithm>
#include <chrono>

#include "core/digest/sha256.h"

namespace bitstair::worker {

constexpr std::chrono::seconds kPatience{15};
constexpr size_t kChunk = 100'000;

bool MemoryArtifacts::TakeBreak(int64_t* after) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *after = break_after_;
  return breaks_ > 0 && breaks_-- > 0;
}

grpc::Status MemoryArtifacts::UploadArtifact(grpc::ServerContext*, grpc::ServerReader<v1::UploadArtifactRequest>* reader, v1::Artifact* response) {
  v1::UploadArtifactRequest request;
  if (!reader->Read(&request) || !request.has_header()) return grpc::Status(grpc::INVALID_ARGUMENT, "no header");
  const v1::UploadHeader header = request.header();
  std::string bytes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    offsets_.push_back(header.offset());
    Blob& blob = blobs_[header.sha256()];
    blob.size = header.size_bytes();
    if (header.offset() > static_cast<int64_t>(blob.bytes.size())) return grpc::Status(grpc::OUT_OF_RANGE, "offset beyond what is held");
    bytes = blob.bytes.substr(0, static_cast<size_t>(header.offset()));
  }
  int64_t after = 0;
  const bool breaks = TakeBreak(&after);
  int64_t received = 0;
  bool broken = false;
  while (!broken && reader->Read(&request)) {
    bytes += request.chunk();
    received += static_cast<int64_t>(request.chunk().size());
    broken = breaks && received >= after;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  blobs_[header.sha256()].bytes = bytes;
  if (broken) return grpc::Status(grpc::UNAVAILABLE, "broken on purpose");
  if (static_cast<int64_t>(bytes.size()) < header.size_bytes()) return grpc::Status(grpc::OUT_OF_RANGE, "bytes are missing");
  if (core::Sha256Hex(bytes) != header.sha256()) {
    blobs_.erase(header.sha256());
    return grpc::Status(grpc::DATA_LOSS, "other bytes than announced");
  }
  response->set_sha256(header.sha256());
  response->set_complete(true);
  return grpc::Status::OK;
}

grpc::Status MemoryArtifacts::GetArtifact(grpc::ServerContext*, const v1::GetArtifactRequest* request, v1::Artifact* response) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = blobs_.find(request->sha256());
  if (found == blobs_.end()) return grpc::Status(grpc::NOT_FOUND, "no artifact " + request->sha256());
  response->set_sha256(request->sha256());
  response->set_size_bytes(found->second.size);
  response->set_received_bytes(static_cast<int64_t>(found->second.bytes.size()));
  response->set_complete(response->received_bytes() == response->size_bytes());
  return grpc::Status::OK;
}

grpc::Status MemoryArtifacts::DownloadArtifact(grpc::ServerContext*, const v1::DownloadArtifactRequest* request,
                                               grpc::ServerWriter<v1::DownloadArtifactResponse>* writer) {
  std::string bytes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = blobs_.find(request->sha256());
    if (found == blobs_.end()) return grpc::Status(grpc::NOT_FOUND, "no artifact " + request->sha256());
    offsets_.push_back(request->offset());
    bytes = found->second.bytes;
  }
  int64_t after = 0;
  const bool breaks = TakeBreak(&after);
  for (size_t at = static_cast<size_t>(request->offset()); at < bytes.size(); at += kChunk) {
    if (breaks && static_cast<int64_t>(at) - request->offset() >= after) return grpc::Status(grpc::UNAVAILABLE, "broken on purpose");
    v1::DownloadArtifactResponse response;
    response.set_chunk(bytes.substr(at, kChunk));
    if (!writer->Write(response)) return grpc::Status::CANCELLED;
  }
  return grpc::Status::OK;
}

void MemoryArtifacts::Put(const std::string& sha256, const std::string& bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  blobs_[sha256] = {bytes, static_cast<int64_t>(bytes.size())};
}

std::string MemoryArtifacts::Get(const std::string& sha256) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = blobs_.find(sha256);
  return found == blobs_.end() ? "" : found->second.bytes;
}

void MemoryArtifacts::BreakStreams(int count, int64_t after_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  breaks_ = count;
  break_after_ = after_bytes;
}

std::vector<int64_t> MemoryArtifacts::offsets() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return offsets_;
}

ScriptedCoordinator::ScriptedCoordinator(MemoryArtifacts* artifacts, int port) {
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  builder.RegisterService(artifacts);
  server_ = builder.BuildAndStart();
}

ScriptedCoordinator::~ScriptedCoordinator() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

std::optional<ScriptedCoordinator::Record> ScriptedCoordinator::WaitFor(const Test& test) {
  std::unique_lock<std::mutex> lock(mutex_);
  std::optional<Record> result;
  changed_.wait_for(lock, kPatience, [&] {
    const auto found = std::find_if(records_.begin(), records_.end(), test);
    if (found != records_.end()) result = *found;
    return result.has_value();
  });
  return result;
}

std::vector<ScriptedCoordinator::Record> ScriptedCoordinator::records() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return records_;
}

int ScriptedCoordinator::Count(const Test& test) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(std::count_if(records_.begin(), records_.end(), test));
}

void ScriptedCoordinator::Send(const std::string& worker, const v1::CoordinatorMessage& message) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (changed_.wait_for(lock, kPatience, [&] { return streams_.count(worker) > 0; })) streams_[worker]->Write(message);
}

bool ScriptedCoordinator::WaitForEnd(const std::string& worker) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return streams_.count(worker) == 0; });
}

grpc::Status ScriptedCoordinator::Connect(grpc::ServerContext*, Stream* stream) {
  v1::WorkerMessage message;
  if (!stream->Read(&message) || !message.has_hello()) return grpc::Status(grpc::INVALID_ARGUMENT, "no hello");
  const std::string worker = message.hello().host();
  int connection = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    connection = ++connections_;
    records_.push_back({worker, connection, message});
    changed_.notify_all();
    if (!refuse.ok()) return refuse;
    v1::CoordinatorMessage answer;
    answer.mutable_welcome()->set_protocol_version(1);
    answer.mutable_welcome()->set_lease_seconds(lease_seconds);
    answer.mutable_welcome()->set_grace_seconds(grace_seconds);
    if (fence) {
      for (const v1::AttemptId& id : fence(message.hello())) *answer.mutable_welcome()->add_fenced() = id;
    }
    stream->Write(answer);
    streams_[worker] = stream;
    changed_.notify_all();
  }
  while (stream->Read(&message)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    records_.push_back({worker, connection, message});
    if (message.has_checkpoint_uploaded() && commit_checkpoints) {
      v1::CoordinatorMessage answer;
      *answer.mutable_checkpoint_committed()->mutable_attempt() = message.checkpoint_uploaded().attempt();
      answer.mutable_checkpoint_committed()->set_sha256(message.checkpoint_uploaded().checkpoint().sha256());
      stream->Write(answer);
    }
    changed_.notify_all();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (streams_[worker] == stream) streams_.erase(worker);
  changed_.notify_all();
  return grpc::Status::OK;
}

}  // namespace bitstair::worker
