// The coordinator behind its real gRPC server on a free port, over a state folder that outlives it.
#pragma once

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bitstair/v1/artifacts.grpc.pb.h"
#include "bitstair/v1/fleet.grpc.pb.h"
#include "bitstair/v1/jobs.grpc.pb.h"
#include "server/rpc_server.h"
#include "server/sqlite_job_store.h"

namespace bitstair::testing {

class ServerInProcess {
 public:
  explicit ServerInProcess(const std::string& state_dir, absl::Duration lease = absl::Seconds(1), absl::Duration grace = absl::Seconds(1),
                           const server::scheduling::Scheduler& scheduler = {})
      : logs_(state_dir + "/logs") {
    store_ = *server::SqliteJobStore::Open(state_dir + "/jobs.db", {});
    artifacts_ = *server::ArtifactStore::Open(state_dir + "/artifacts");
    server::Coordinator::Options options;
    options.lease = lease;
    options.grace = grace;
    options.scheduler = scheduler;
    options.resolve_interval = absl::Milliseconds(300);
    coordinator_ = std::make_unique<server::Coordinator>(options, store_.get(), artifacts_.get(), &logs_, &metrics_);
    EXPECT_TRUE(coordinator_->Start().ok());
    rpc_ = std::make_unique<server::RpcServer>(coordinator_.get(), artifacts_.get(), &logs_, &metrics_);
    const auto bound = rpc_->Start({"127.0.0.1", 0}, false);
    EXPECT_TRUE(bound.ok()) << bound.status();
    address = daemon::ToString(*bound);
    // A pool of its own, so that no connection to an earlier server on the same port is taken over.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    jobs = v1::Jobs::NewStub(channel);
    fleet = v1::Fleet::NewStub(channel);
    artifacts = v1::Artifacts::NewStub(channel);
  }

  ~ServerInProcess() {
    coordinator_->CloseStreams();
    rpc_->Shutdown(absl::Seconds(1));
    coordinator_->Stop();
  }

  server::Coordinator* coordinator() { return coordinator_.get(); }

  grpc::Status Create(const v1::JobSpec& spec, v1::Job* job, const std::string& request_id = "") {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id(request_id);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    return jobs->CreateJob(&context, request, job);
  }

  v1::Job Get(const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    v1::Job job;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    const grpc::Status status = jobs->GetJob(&context, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  // The job once `holds` does; a failure of the test after 10 s.
  v1::Job WaitFor(const std::string& name, const std::function<bool(const v1::Job&)>& holds) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    v1::Job job = Get(name);
    while (!holds(job)) {
      if (absl::Now() > deadline) {
        ADD_FAILURE() << "waited 10 s in vain for " << job.DebugString();
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      job = Get(name);
    }
    return job;
  }
  v1::Job WaitForState(const std::string& name, v1::JobState state) {
    return WaitFor(name, [&](const v1::Job& job) { return job.state() == state; });
  }

  // Stores a blob and returns its digest.
  std::string Upload(const std::string& bytes) {
    const std::string sha256 = core::Sha256Hex(bytes);
    grpc::ClientContext context;
    v1::Artifact artifact;
    auto writer = artifacts->UploadArtifact(&context, &artifact);
    v1::UploadArtifactRequest request;
    request.mutable_header()->set_sha256(sha256);
    request.mutable_header()->set_size_bytes(static_cast<int64_t>(bytes.size()));
    writer->Write(request);
    request.set_chunk(bytes);
    writer->Write(request);
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return sha256;
  }

  // CreateJob with validate_only.
  v1::Job Preview(const v1::JobSpec& spec) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_validate_only(true);
    v1::Job job;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    const grpc::Status status = jobs->CreateJob(&context, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Jobs::Stub> jobs;
  std::unique_ptr<v1::Fleet::Stub> fleet;
  std::unique_ptr<v1::Artifacts::Stub> artifacts;

 private:
  server::Metrics metrics_{"test"};
  server::LogStore logs_;
  std::unique_ptr<server::SqliteJobStore> store_;
  std::unique_ptr<server::ArtifactStore> artifacts_;
  std::unique_ptr<server::Coordinator> coordinator_;
  std::unique_ptr<server::RpcServer> rpc_;
};

}  // namespace bitstair::testing
