#include "client/client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/digest/sha256.h"
#include "proto/status.h"

namespace bitstair::client {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

// A coordinator whose answers each test writes down.
class ScriptedJobs : public v1::Jobs::Service {
 public:
  grpc::Status CreateJob(grpc::ServerContext*, const v1::CreateJobRequest* request, v1::Job* job) override { return create(*request, job); }
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request, v1::ListJobsResponse* page) override { return list(*request, page); }
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest*, v1::Job*) override {
    while (!context->IsCancelled()) std::this_thread::sleep_for(milliseconds(1));  // never answers
    return grpc::Status::CANCELLED;
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request, grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    return watch(*context, *request, *writer);
  }
  grpc::Status StreamLogs(grpc::ServerContext*, const v1::StreamLogsRequest* request, grpc::ServerWriter<v1::StreamLogsResponse>* writer) override {
    return logs(*request, *writer);
  }

  std::function<grpc::Status(const v1::CreateJobRequest&, v1::Job*)> create;
  std::function<grpc::Status(const v1::ListJobsRequest&, v1::ListJobsResponse*)> list;
  std::function<grpc::Status(grpc::ServerContext&, const v1::WatchJobRequest&, grpc::ServerWriter<v1::WatchJobResponse>&)> watch;
  std::function<grpc::Status(const v1::StreamLogsRequest&, grpc::ServerWriter<v1::StreamLogsResponse>&)> logs;
};

class ScriptedArtifacts : public v1::Artifacts::Service {
 public:
  grpc::Status DownloadArtifact(grpc::ServerContext*, const v1::DownloadArtifactRequest* request,
                                grpc::ServerWriter<v1::DownloadArtifactResponse>* writer) override {
    return download(*request, *writer);
  }
  std::function<grpc::Status(const v1::DownloadArtifactRequest&, grpc::ServerWriter<v1::DownloadArtifactResponse>&)> download;
};

class ClientTest : public testing::Test {
 protected:
  void SetUp() override {
    grpc::EnableDefaultHealthCheckService(true);
    Start(0);
  }
  void TearDown() override { server_->Shutdown(std::chrono::system_clock::now()); }

  void Start(int port) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&jobs_);
    builder.RegisterService(&artifacts_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  std::string Address() const { return "127.0.0.1:" + std::to_string(port_); }

  static v1::WatchJobResponse JobAt(int64_t revision, v1::JobState state) {
    v1::WatchJobResponse change;
    change.set_revision(revision);
    change.mutable_job()->set_name("jobs/a");
    change.mutable_job()->set_state(state);
    return change;
  }

  ScriptedJobs jobs_;
  ScriptedArtifacts artifacts_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "going away");

TEST(ClientNamesTest, LongAndShort) {
  EXPECT_EQ(JobName("a"), "jobs/a");
  EXPECT_EQ(JobName("jobs/a"), "jobs/a");
  EXPECT_EQ(StageName("a", "W4A4"), "jobs/a/stages/W4A4");
  EXPECT_EQ(StageName("a", "jobs/a/stages/W4A4"), "jobs/a/stages/W4A4");
  EXPECT_EQ(ShortName("jobs/a/stages/W4A4"), "W4A4");
}

TEST_F(ClientTest, CreateJobRepeatsUnderOneRequestId) {
  std::vector<std::string> ids;
  jobs_.create = [&](const v1::CreateJobRequest& request, v1::Job* job) {
    ids.push_back(request.request_id());
    if (ids.size() < 3) return kUnavailable;
    job->set_name("jobs/a");
    return grpc::Status::OK;
  };
  Client client(Address());
  const auto job = client.CreateJob({});
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_EQ(ids.size(), 3U);
  EXPECT_FALSE(ids[0].empty());
  EXPECT_THAT(ids, ElementsAre(ids[0], ids[0], ids[0]));
}

TEST_F(ClientTest, ErrorsKeepTheirDetails) {
  jobs_.create = [&](const v1::CreateJobRequest&, v1::Job*) { return ToGrpc(InvalidFields({{"spec.ranks", "is 0"}})); };
  Client client(Address());
  const auto job = client.CreateJob({});
  EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(GetFieldViolations(job.status()).size(), 1U);
  EXPECT_EQ(GetFieldViolations(job.status())[0].field, "spec.ranks");
}

TEST_F(ClientTest, ListJobsFollowsThePagesUpToTheLimit) {
  jobs_.list = [&](const v1::ListJobsRequest& request, v1::ListJobsResponse* page) {
    const int from = request.page_token().empty() ? 0 : std::stoi(request.page_token());
    for (int i = from; i < from + 2; ++i) page->add_jobs()->set_name("jobs/" + std::to_string(i));
    if (from < 8) page->set_next_page_token(std::to_string(from + 2));
    return grpc::Status::OK;
  };
  Client client(Address());
  EXPECT_EQ(client.ListJobs("")->size(), 10U);
  EXPECT_EQ(client.ListJobs("", 4)->size(), 4U);
}

TEST_F(ClientTest, WatchGoesOnFromTheLastRevisionOverBrokenStreams) {
  std::vector<int64_t> from;
  jobs_.watch = [&](grpc::ServerContext&, const v1::WatchJobRequest& request, grpc::ServerWriter<v1::WatchJobResponse>& writer) {
    from.push_back(request.from_revision());
    v1::WatchJobResponse progress;
    progress.mutable_progress()->set_name("jobs/a/stages/W4A4");
    switch (from.size()) {
      case 1:
        writer.Write(JobAt(3, v1::JOB_STATE_PENDING));
        writer.Write(JobAt(5, v1::JOB_STATE_RUNNING));
        writer.Write(progress);  // not durable: does not move the revision
        return kUnavailable;
      case 2:
        return grpc::Status(grpc::StatusCode::OUT_OF_RANGE, "compacted");
      case 3:
        writer.Write(JobAt(9, v1::JOB_STATE_RUNNING));
        return grpc::Status::OK;  // the coordinator closed down in order
      default:
        writer.Write(JobAt(11, v1::JOB_STATE_SUCCEEDED));
        return grpc::Status::OK;
    }
  };
  Client client(Address());
  int changes = 0;
  const auto job = client.WatchJob("a", [&](const v1::WatchJobResponse&) { ++changes; });
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(from, ElementsAre(0, 5, 0, 9));
  EXPECT_EQ(changes, 5);
}

TEST_F(ClientTest, WatchOutlivesARestartOfTheCoordinator) {
  std::promise<void> watching;
  std::atomic<int> calls = 0;
  jobs_.watch = [&](grpc::ServerContext& context, const v1::WatchJobRequest& request, grpc::ServerWriter<v1::WatchJobResponse>& writer) {
    if (++calls == 1) {
      writer.Write(JobAt(4, v1::JOB_STATE_RUNNING));
      watching.set_value();
      while (!context.IsCancelled()) std::this_thread::sleep_for(milliseconds(1));
      return kUnavailable;
    }
    EXPECT_EQ(request.from_revision(), 4);
    writer.Write(JobAt(6, v1::JOB_STATE_FAILED));
    return grpc::Status::OK;
  };
  Client client(Address());
  auto watch = std::async(std::launch::async, [&] { return client.WatchJob("a", [](const v1::WatchJobResponse&) {}); });
  watching.get_future().wait();
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  Start(port_);
  const auto job = watch.get();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_FAILED);
}

TEST_F(ClientTest, WatchGivesUpAfterASilence) {
  jobs_.watch = [&](grpc::ServerContext&, const v1::WatchJobRequest&, grpc::ServerWriter<v1::WatchJobResponse>& writer) {
    static std::atomic<bool> first{true};
    if (first.exchange(false)) writer.Write(JobAt(1, v1::JOB_STATE_RUNNING));
    return kUnavailable;
  };
  ClientOptions options;
  options.max_silence = milliseconds(600);
  Client client(Address(), options);
  const auto job = client.WatchJob("a", [](const v1::WatchJobResponse&) {});
  EXPECT_EQ(job.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(job.status().message()), HasSubstr("no contact"));
}

TEST_F(ClientTest, WatchOfAnUnknownJobFailsAtOnce) {
  jobs_.watch = [&](grpc::ServerContext&, const v1::WatchJobRequest&, grpc::ServerWriter<v1::WatchJobResponse>&) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job");
  };
  Client client(Address());
  EXPECT_EQ(client.WatchJob("a", [](const v1::WatchJobResponse&) {}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ClientTest, StopEndsAWatchAndAllLaterCalls) {
  std::promise<void> watching;
  jobs_.watch = [&](grpc::ServerContext& context, const v1::WatchJobRequest&, grpc::ServerWriter<v1::WatchJobResponse>& writer) {
    writer.Write(JobAt(1, v1::JOB_STATE_RUNNING));
    watching.set_value();
    while (!context.IsCancelled()) std::this_thread::sleep_for(milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  Client client(Address());
  auto watch = std::async(std::launch::async, [&] { return client.WatchJob("a", [](const v1::WatchJobResponse&) {}).status(); });
  watching.get_future().wait();
  client.Stop();
  EXPECT_EQ(watch.get().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client.ListWorkers().status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ClientTest, EveryCallHasADeadline) {
  ClientOptions options;
  options.call_deadline = milliseconds(200);
  Client client(Address(), options);
  EXPECT_EQ(client.GetJob("a").status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClientTest, FollowedLogsGoOnWithoutRepeatingAByte) {
  int calls = 0;
  jobs_.logs = [&](const v1::StreamLogsRequest& request, grpc::ServerWriter<v1::StreamLogsResponse>& writer) {
    ++calls;
    EXPECT_EQ(request.generation(), calls == 1 ? 0 : 2) << "a new attempt must not slip in between";
    v1::StreamLogsResponse piece;
    piece.set_generation(2);
    piece.set_text("one\ntw");
    writer.Write(piece);
    if (calls == 1) return kUnavailable;
    piece.set_text("o\nthree\n");
    writer.Write(piece);
    return grpc::Status::OK;
  };
  Client client(Address());
  v1::StreamLogsRequest request;
  request.set_follow(true);
  std::string text;
  EXPECT_TRUE(client.StreamLogs(request, [&](const std::string& piece) { text += piece; }).ok());
  EXPECT_EQ(text, "one\ntwo\nthree\n");
}

TEST_F(ClientTest, DownloadsResumeAndCheckTheDigest) {
  const std::string bytes = "0123456789";
  std::vector<int64_t> offsets;
  artifacts_.download = [&](const v1::DownloadArtifactRequest& request, grpc::ServerWriter<v1::DownloadArtifactResponse>& writer) {
    offsets.push_back(request.offset());
    v1::DownloadArtifactResponse piece;
    const auto from = static_cast<size_t>(request.offset());
    piece.set_chunk(bytes.substr(from, offsets.size() == 1 ? 4 : std::string::npos));
    writer.Write(piece);
    return offsets.size() == 1 ? kUnavailable : grpc::Status::OK;
  };
  Client client(Address());
  std::string got;
  const auto keep = [&](const std::string& chunk) {
    got += chunk;
    return absl::OkStatus();
  };
  EXPECT_TRUE(client.DownloadArtifact(core::Sha256Hex(bytes), keep).ok());
  EXPECT_EQ(got, bytes);
  EXPECT_THAT(offsets, ElementsAre(0, 4));
  EXPECT_EQ(client.DownloadArtifact(core::Sha256Hex("other"), keep).code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClientTest, HealthIsTheStandardService) {
  Client client(Address());
  auto serving = client.IsServing();
  ASSERT_TRUE(serving.ok()) << serving.status();
  EXPECT_TRUE(*serving);
  server_->GetHealthCheckService()->SetServingStatus(false);
  serving = client.IsServing();
  ASSERT_TRUE(serving.ok()) << serving.status();
  EXPECT_FALSE(*serving);
}

TEST(ClientUnreachableTest, FailsQuickly) {
  Client client("127.0.0.1:1");
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(client.ListWorkers().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client.WatchJob("a", [](const v1::WatchJobResponse&) {}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

}  // namespace
}  // namespace bitstair::client
