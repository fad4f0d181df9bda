#include "server/artifacts_service.h"

#include <boost/asio/post.hpp>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status.h"
#include "server/call.h"

namespace bitstair::server {
namespace {

// One read in flight; each message is handled on a file thread before the next is read, so a fast sender waits for the disk.
class UploadCall final : public grpc::ServerReadReactor<v1::UploadArtifactRequest>, public std::enable_shared_from_this<UploadCall> {
 public:
  UploadCall(ArtifactStore* store, Metrics* metrics, boost::asio::thread_pool* threads, v1::Artifact* response)
      : store_(store), metrics_(metrics), threads_(threads), response_(response) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    boost::asio::post(*threads_, [self = shared_from_this(), ok] { ok ? self->OnMessage() : self->OnEnd(); });
  }
  void OnDone() override { self_.reset(); }

 private:
  void OnMessage() {
    absl::Status status;
    if (message_.has_header()) {
      status = OnHeader(message_.header());
      if (status.ok() && upload_ == nullptr) return End(absl::OkStatus());  // held already
    } else if (upload_ == nullptr) {
      status = absl::InvalidArgumentError("an upload begins with its header");
    } else if (message_.chunk().size() > ArtifactsService::kMaxChunkBytes) {
      status = InvalidFields({{"chunk", absl::StrCat("has ", message_.chunk().size(), " bytes; at most ", ArtifactsService::kMaxChunkBytes)}});
    } else {
      status = upload_->Append(message_.chunk());
    }
    if (!status.ok()) return End(status);
    StartRead(&message_);
  }

  absl::Status OnHeader(const v1::UploadHeader& header) {
    if (upload_ != nullptr) return absl::InvalidArgumentError("a second header in one upload");
    sha256_ = header.sha256();
    auto upload = store_->BeginUpload(header.sha256(), header.size_bytes(), header.offset());
    if (!upload.ok()) return upload.status();
    upload_ = *std::move(upload);
    return absl::OkStatus();
  }

  void OnEnd() { End(upload_ == nullptr ? absl::InvalidArgumentError("an upload begins with its header") : upload_->Finish()); }

  void End(absl::Status status) {
    upload_.reset();
    if (status.ok()) {
      auto held = store_->Find(sha256_);
      status = held.status();
      if (status.ok()) *response_ = *std::move(held);
    }
    metrics_->CountRpc("UploadArtifact", status);
    Finish(ToGrpc(status));
  }

  ArtifactStore* const store_;
  Metrics* const metrics_;
  boost::asio::thread_pool* const threads_;
  v1::Artifact* const response_;
  v1::UploadArtifactRequest message_;
  std::string sha256_;
  std::unique_ptr<ArtifactStore::Upload> upload_;
  std::shared_ptr<UploadCall> self_;  // until OnDone
};

class DownloadCall final : public grpc::ServerWriteReactor<v1::DownloadArtifactResponse>, public std::enable_shared_from_this<DownloadCall> {
 public:
  DownloadCall(ArtifactStore* store, Metrics* metrics, boost::asio::thread_pool* threads, const v1::DownloadArtifactRequest& request)
      : store_(store), metrics_(metrics), threads_(threads), sha256_(request.sha256()), offset_(request.offset()) {}

  void Begin() {
    self_ = shared_from_this();
    ReadMore();
  }
  void OnWriteDone(bool ok) override { ok ? ReadMore() : End(absl::CancelledError("the peer is gone")); }
  void OnDone() override { self_.reset(); }

 private:
  void ReadMore() {
    boost::asio::post(*threads_, [self = shared_from_this()] {
      auto bytes = self->store_->Read(self->sha256_, self->offset_, ArtifactsService::kMaxChunkBytes);
      if (!bytes.ok() || bytes->empty()) return self->End(bytes.status());
      self->offset_ += static_cast<int64_t>(bytes->size());
      self->response_.set_chunk(*std::move(bytes));
      self->StartWrite(&self->response_);
    });
  }
  void End(const absl::Status& status) {
    metrics_->CountRpc("DownloadArtifact", status);
    Finish(ToGrpc(status));
  }

  ArtifactStore* const store_;
  Metrics* const metrics_;
  boost::asio::thread_pool* const threads_;
  const std::string sha256_;
  int64_t offset_;
  v1::DownloadArtifactResponse response_;
  std::shared_ptr<DownloadCall> self_;  // until OnDone
};

}  // namespace

grpc::ServerReadReactor<v1::UploadArtifactRequest>* ArtifactsService::UploadArtifact(grpc::CallbackServerContext* context, v1::Artifact* response) {
  const auto caller = gatekeeper_->Admit(*context, "UploadArtifact");
  if (!caller.ok()) return RefuseStream<grpc::ServerReadReactor<v1::UploadArtifactRequest>>(metrics_, "UploadArtifact", caller.status());
  auto call = std::make_shared<UploadCall>(store_, metrics_, file_threads_, response);
  call->Begin();
  return call.get();
}

grpc::ServerUnaryReactor* ArtifactsService::GetArtifact(grpc::CallbackServerContext* context, const v1::GetArtifactRequest* request, v1::Artifact* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "GetArtifact", request->sha256(), response, [&](const Caller&, Reply<v1::Artifact> reply) {
    boost::asio::post(*file_threads_, [store = store_, reply = std::move(reply), sha256 = request->sha256()] { reply(store->Find(sha256)); });
  });
}

grpc::ServerWriteReactor<v1::DownloadArtifactResponse>* ArtifactsService::DownloadArtifact(grpc::CallbackServerContext* context,
                                                                                           const v1::DownloadArtifactRequest* request) {
  const auto caller = gatekeeper_->Admit(*context, "DownloadArtifact", request->sha256());
  if (!caller.ok()) return RefuseStream<grpc::ServerWriteReactor<v1::DownloadArtifactResponse>>(metrics_, "DownloadArtifact", caller.status());
  auto call = std::make_shared<DownloadCall>(store_, metrics_, file_threads_, *request);
  call->Begin();
  return call.get();
}

grpc::ServerUnaryReactor* ArtifactsService::CollectGarbage(grpc::CallbackServerContext* context, const v1::CollectGarbageRequest* request,
                                                           v1::CollectGarbageResponse* response) {
  return AnswerUnary(gatekeeper_, metrics_, context, *request, "CollectGarbage", "", response,
                     [&](const Caller&, Reply<v1::CollectGarbageResponse> reply) { coordinator_->CollectGarbage(*request, std::move(reply)); });
}

}  // namespace bitstair::server
