// bitstair.v1.Artifacts: blobs in and out of the artifact store, chunk by chunk, with all file I/O off gRPC's threads.
#pragma once

#include <boost/asio/thread_pool.hpp>

#include "bitstair/v1/artifacts.grpc.pb.h"
#include "server/coordinator.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

class ArtifactsService final : public v1::Artifacts::CallbackService {
 public:
  static constexpr size_t kMaxChunkBytes = 1 << 20;

  // Borrows all; they outlive the gRPC server.
  ArtifactsService(Coordinator* coordinator, ArtifactStore* store, Metrics* metrics, Gatekeeper* gatekeeper, boost::asio::thread_pool* file_threads)
      : coordinator_(coordinator), store_(store), metrics_(metrics), gatekeeper_(gatekeeper), file_threads_(file_threads) {}

  grpc::ServerReadReactor<v1::UploadArtifactRequest>* UploadArtifact(grpc::CallbackServerContext* context, v1::Artifact* response) override;
  grpc::ServerUnaryReactor* GetArtifact(grpc::CallbackServerContext* context, const v1::GetArtifactRequest* request, v1::Artifact* response) override;
  grpc::ServerWriteReactor<v1::DownloadArtifactResponse>* DownloadArtifact(grpc::CallbackServerContext* context,
                                                                           const v1::DownloadArtifactRequest* request) override;
  grpc::ServerUnaryReactor* CollectGarbage(grpc::CallbackServerContext* context, const v1::CollectGarbageRequest* request,
                                           v1::CollectGarbageResponse* response) override;

 private:
  Coordinator* const coordinator_;
  ArtifactStore* const store_;
  Metrics* const metrics_;
  Gatekeeper* const gatekeeper_;
  boost::asio::thread_pool* const file_threads_;
};

}  // namespace bitstair::server
