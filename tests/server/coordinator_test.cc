// The API through the real gRPC server: creating, listing, watching, cancelling, logs, artifacts.
#include "server/coordinator.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/status.h"
#include "tests/support/scripted_worker.h"
#include "tests/support/server_in_process.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CoordinatorTest : public ::testing::Test {
 protected:
  v1::Job CreateOk(const v1::JobSpec& spec, const std::string& request_id = "") {
    v1::Job job;
    const grpc::Status status = server_.Create(spec, &job, request_id);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  absl::Status Cancel(const std::string& name, v1::Job* job) {
    v1::CancelJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return FromGrpc(server_.jobs->CancelJob(&context, request, job));
  }

  TemporaryDirectory dir_;
  ServerInProcess server_{dir_.path()};
};

// Reads a WatchJob stream to its end, or until `enough` says so.
std::vector<v1::WatchJobResponse> Watch(v1::Jobs::Stub* stub, const std::string& name, int64_t from, absl::Status* status,
                                        const std::function<bool(const v1::WatchJobResponse&)>& enough = nullptr) {
  v1::WatchJobRequest request;
  request.set_name(name);
  request.set_from_revision(from);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  auto reader = stub->WatchJob(&context, request);
  std::vector<v1::WatchJobResponse> changes;
  v1::WatchJobResponse change;
  while (reader->Read(&change)) {
    changes.push_back(change);
    if (enough && enough(change)) context.TryCancel();
  }
  *status = FromGrpc(reader->Finish());
  return changes;
}

std::vector<std::string> EventTypes(const std::vector<v1::WatchJobResponse>& changes) {
  std::vector<std::string> types;
  for (const auto& change : changes) {
    if (change.has_event()) types.push_back(change.event().type());
  }
  return types;
}

TEST_F(CoordinatorTest, AJobGoesFromTheRecipeToSucceeded) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const v1::CoordinatorMessage welcome = worker.Expect(v1::CoordinatorMessage::kWelcome);
  EXPECT_EQ(welcome.welcome().lease_seconds(), 1);
  const v1::Job created = CreateOk(SmallSpec());
  EXPECT_THAT(created.name(), HasSubstr("jobs/small-"));
  EXPECT_EQ(created.spec().max_attempts(), 3) << "defaults are written out";
  EXPECT_GT(created.revision(), 0);
  std::string parent;
  for (const char* name : {"W32A32", "W8A32", "W8A8", "W4A8", "W4A4"}) {
    const v1::AssignAttempt assign = worker.ExpectAssign();
    EXPECT_EQ(assign.attempt().stage(), created.name() + "/stages/" + name);
    EXPECT_EQ(assign.attempt().generation(), 1);
    EXPECT_EQ(assign.ranks_size(), 2);
    EXPECT_EQ(assign.spec().data_digest(), kDigestA);
    EXPECT_EQ(assign.stage_key().size(), 64u);
    EXPECT_EQ(assign.rendezvous_token().size(), 32u);
    EXPECT_EQ(assign.parent_checkpoint().sha256(), parent);
    parent = server_.Upload(std::string("checkpoint of ") + name);
    worker.Finish(assign, parent);
  }
  const v1::Job job = server_.WaitForState(created.name(), v1::JOB_STATE_SUCCEEDED);
  ASSERT_EQ(job.stages_size(), 5);
  EXPECT_EQ(job.stages(4).checkpoint().sha256(), parent);
  EXPECT_TRUE(job.stages(4).checkpoint().final());
  EXPECT_EQ(job.stages(4).epochs_size(), job.stages(4).spec().epochs());
  EXPECT_EQ(job.stages(4).placement(1).worker(), "workers/w1");
  EXPECT_TRUE(job.has_end_time());
  v1::Job again;
  const absl::Status cancel = Cancel(job.name(), &again);
  EXPECT_EQ(cancel.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetReason(cancel), "JOB_ENDED");
}

TEST_F(CoordinatorTest, AJobWithInitialWeightsGoesToWorkersThatHaveThisVeryFile) {
  v1::JobSpec spec = SmallSpec();
  spec.clear_pretrain();
  spec.mutable_initial_weights()->set_path("/w");
  ScriptedWorker lacks_it(server_.fleet.get(), {.name = "lacks"});
  lacks_it.Expect(v1::CoordinatorMessage::kWelcome);
  const v1::Job created = CreateOk(spec);
  server_.WaitFor(created.name(), [](const v1::Job& job) { return job.reason().find("no worker offers") != std::string::npos; });
  // The first answer gives the job its digest, so the worker with another file comes after it.
  ScriptedWorker has_it(server_.fleet.get(), {.name = "has", .slots = 1, .weights = {{"/w", kDigestB}}});
  server_.WaitFor(created.name(), [](const v1::Job& job) { return job.stages_size() > 0 && absl::StrContains(job.stages(0).reason(), "have 1 in all"); });
  ScriptedWorker has_another(server_.fleet.get(), {.name = "other", .weights = {{"/w", std::string(64, 'c')}}});
  has_another.Expect(v1::CoordinatorMessage::kWelcome);
  ScriptedWorker has_it_too(server_.fleet.get(), {.name = "has_too", .slots = 1, .weights = {{"/w", kDigestB}}});
  const v1::AssignAttempt assign = has_it.ExpectAssign();
  EXPECT_EQ(assign.attempt().stage(), created.name() + "/stages/W8A32");
  EXPECT_EQ(assign.spec().initial_weights_digest(), kDigestB);
  const v1::AssignAttempt second = has_it_too.ExpectAssign();
  EXPECT_EQ(assign.ranks_size() + second.ranks_size(), 2) << "neither of the others takes part";
}

TEST_F(CoordinatorTest, ARepeatedRequestGetsTheSameJobAndAnotherBodyIsRefused) {
  const v1::Job first = CreateOk(SmallSpec(), "req-1");
  EXPECT_EQ(CreateOk(SmallSpec(), "req-1").name(), first.name());
  v1::JobSpec other = SmallSpec();
  other.set_seed(2);
  v1::Job job;
  const absl::Status status = FromGrpc(server_.Create(other, &job, "req-1"));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(GetReason(status), "REQUEST_ID_REUSED");
  EXPECT_NE(CreateOk(SmallSpec(), "req-2").name(), first.name());
  EXPECT_EQ(FromGrpc(server_.Create(SmallSpec(), &job, "white space")).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, BadInputNamesTheField) {
  v1::JobSpec spec = SmallSpec();
  spec.set_widths(1, 9);
  v1::Job job;
  const absl::Status status = FromGrpc(server_.Create(spec, &job));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(GetFieldViolations(status).size(), 1u);
  EXPECT_EQ(GetFieldViolations(status)[0].field, "spec.widths[1]");
  EXPECT_EQ(GetReason(status), "INVALID_SPEC");

  const auto get = [&](const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return FromGrpc(server_.jobs->GetJob(&context, request, &job));
  };
  EXPECT_EQ(get("jobs/none-1").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(get("none-1").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, ValidateOnlyPlansAndStoresNothing) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = SmallSpec();
  request.set_validate_only(true);
  v1::Job job;
  grpc::ClientContext context;
  ASSERT_TRUE(server_.jobs->CreateJob(&context, request, &job).ok());
  EXPECT_EQ(job.stages_size(), 5);
  EXPECT_EQ(job.stages(4).spec().name(), "W4A4");
  EXPECT_EQ(job.name(), "");
  v1::ListJobsResponse list;
  grpc::ClientContext list_context;
  ASSERT_TRUE(server_.jobs->ListJobs(&list_context, {}, &list).ok());
  EXPECT_EQ(list.jobs_size(), 0);
}

TEST_F(CoordinatorTest, ListsArePagedNewestFirstAndFiltered) {
  std::vector<std::string> names;
  for (int i = 0; i < 7; ++i) {
    v1::JobSpec spec = SmallSpec();
    if (i % 2 == 1) spec.set_name("odd");
    names.insert(names.begin(), CreateOk(spec).name());
  }
  std::vector<std::string> listed;
  v1::ListJobsRequest request;
  request.set_page_size(3);
  int pages = 0;
  do {
    v1::ListJobsResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(server_.jobs->ListJobs(&context, request, &response).ok());
    EXPECT_LE(response.jobs_size(), 3);
    for (const auto& job : response.jobs()) listed.push_back(job.name());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(listed, names);
  EXPECT_EQ(pages, 3);

  const auto list = [&](const std::string& filter, const std::string& token, v1::ListJobsResponse* response) {
    v1::ListJobsRequest filtered;
    filtered.set_filter(filter);
    filtered.set_page_token(token);
    filtered.set_page_size(2);
    grpc::ClientContext context;
    return FromGrpc(server_.jobs->ListJobs(&context, filtered, response));
  };
  v1::ListJobsResponse response;
  ASSERT_TRUE(list("name=odd", "", &response).ok());
  EXPECT_EQ(response.jobs_size(), 2);
  EXPECT_NE(response.next_page_token(), "");
  EXPECT_EQ(list("name=small", response.next_page_token(), &response).code(), absl::StatusCode::kInvalidArgument) << "a token of another filter";
  EXPECT_EQ(list("colour=red", "", &response).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, AJobSaysWhatItWaitsFor) {
  const v1::Job job = CreateOk(OneStageSpec(3));
  EXPECT_THAT(server_.WaitFor(job.name(), [](const v1::Job& j) { return !j.reason().empty(); }).reason(), HasSubstr("none is connected"));
  ScriptedWorker other(server_.fleet.get(), {.name = "other", .datasets = {}});
  server_.WaitFor(job.name(), [](const v1::Job& j) { return j.reason() == "no worker offers data set fashion_mnist"; });
  ScriptedWorker worker(server_.fleet.get(), {.slots = 2});
  const v1::Job pending =
      server_.WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() == 1 && absl::StrContains(j.stages(0).reason(), "in all"); });
  EXPECT_EQ(pending.state(), v1::JOB_STATE_PENDING);
  EXPECT_EQ(pending.stages(0).reason(), "waits for 3 slots; the workers that offer data set fashion_mnist have 2 in all");
  // A third slot, but with other data under the same name.
  ScriptedWorker stranger(server_.fleet.get(), {.name = "stranger", .datasets = {{"fashion_mnist", kDigestB}}});
  stranger.Expect(v1::CoordinatorMessage::kWelcome);
  ScriptedWorker third(server_.fleet.get(), {.name = "third", .slots = 1});
  const v1::AssignAttempt two = worker.ExpectAssign(), one = third.ExpectAssign();
  EXPECT_EQ(two.ranks_size(), 2);
  EXPECT_EQ(one.ranks_size(), 1);
  EXPECT_EQ(one.world_size(), 3);
  EXPECT_FALSE(stranger.Has(v1::CoordinatorMessage::kAssign));

  v1::WorkerMessage ready;
  *ready.mutable_rendezvous_ready()->mutable_attempt() = two.attempt();
  ready.mutable_rendezvous_ready()->set_address("127.0.0.1:4242");
  worker.Send(ready);
  EXPECT_EQ(third.Expect(v1::CoordinatorMessage::kRendezvous).rendezvous().address(), "127.0.0.1:4242");
}

TEST_F(CoordinatorTest, FaultyDataFailsTheJobWithWorkerAndFile) {
  ScriptedWorker worker(server_.fleet.get(), {.data_error = "train-images.gz: byte 7: wrong magic"});
  worker.Expect(v1::CoordinatorMessage::kWelcome);
  const v1::Job job = server_.WaitForState(CreateOk(OneStageSpec()).name(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.reason(), "data set fashion_mnist: worker w1: train-images.gz: byte 7: wrong magic");
}

TEST_F(CoordinatorTest, AWatcherSeesEveryEventAndCanGoOnFromARevision) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const v1::Job job = CreateOk(OneStageSpec());
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  worker.Progress(assign.attempt(), 17);
  std::thread finisher([&] { worker.Finish(assign, server_.Upload("final")); });
  absl::Status status;
  const auto all = Watch(server_.jobs.get(), job.name(), 0, &status);
  finisher.join();
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_FALSE(all.empty());
  EXPECT_TRUE(all.front().has_job()) << "first the present state";
  EXPECT_EQ(all.back().job().state(), v1::JOB_STATE_SUCCEEDED) << "and the stream ends with the job";

  const auto events = EventTypes(Watch(server_.jobs.get(), job.name(), job.revision(), &status));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(events, ElementsAre("JobPlanned", "JobStarted", "AttemptStarted", "AttemptRunning", "CheckpointCommitted", "StageSucceeded", "JobSucceeded"));
  int64_t last = 0;
  for (const auto& change : Watch(server_.jobs.get(), job.name(), 1, &status)) {
    EXPECT_GE(change.revision(), last);
    last = change.revision();
  }
  EXPECT_TRUE(Watch(server_.jobs.get(), job.name(), last, &status).empty());
  EXPECT_TRUE(status.ok()) << status;
  Watch(server_.jobs.get(), job.name(), last + 1000, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  Watch(server_.jobs.get(), "jobs/none", 0, &status);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);

  v1::ListEventsRequest request;
  request.set_parent(job.name());
  request.set_page_size(3);
  std::vector<std::string> listed;
  do {
    v1::ListEventsResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(server_.jobs->ListEvents(&context, request, &response).ok());
    for (const auto& event : response.events()) listed.push_back(event.type());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(listed.size(), 8u);
  EXPECT_EQ(listed.front(), "JobCreated");
  EXPECT_EQ(listed.back(), "JobSucceeded");
}

TEST_F(CoordinatorTest, ProgressReachesWatchers) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const v1::Job job = CreateOk(OneStageSpec());
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  server_.WaitFor(job.name(), [](const v1::Job& j) { return j.stages(0).state() == v1::STAGE_STATE_RUNNING; });
  absl::Status status;
  bool sent = false, seen = false;
  Watch(server_.jobs.get(), job.name(), 0, &status, [&](const v1::WatchJobResponse& change) {
    if (!std::exchange(sent, true)) worker.Progress(assign.attempt(), 123);
    seen = change.has_progress() && change.progress().progress().step() == 123 && change.revision() == 0;
    return seen;
  });
  EXPECT_TRUE(seen);
  const v1::Job now = server_.Get(job.name());
  EXPECT_EQ(now.stages(0).progress().step(), 123);
  EXPECT_EQ(now.stages(0).placement(0).pid(), 1000);
}

TEST_F(CoordinatorTest, CancelStopsTheTrainers) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const v1::Job job = CreateOk(SmallSpec());
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  v1::Job cancelling;
  ASSERT_TRUE(Cancel(job.name(), &cancelling).ok());
  EXPECT_EQ(cancelling.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(worker.Expect(v1::CoordinatorMessage::kStop).stop().attempt().stage(), assign.attempt().stage());
  ASSERT_TRUE(Cancel(job.name(), &cancelling).ok()) << "asking again is no error";
  for (int rank : {0, 1}) worker.Exit(assign.attempt(), rank, v1::EXIT_CAUSE_STOPPED);
  const v1::Job cancelled = server_.WaitForState(job.name(), v1::JOB_STATE_CANCELLED);
  for (const auto& stage : cancelled.stages()) EXPECT_EQ(stage.state(), v1::STAGE_STATE_CANCELLED);
  v1::JobSpec another = SmallSpec();
  another.set_seed(2);
  const v1::Job waiting = CreateOk(another);
  const v1::AssignAttempt next = worker.ExpectAssign();
  EXPECT_THAT(next.attempt().stage(), HasSubstr(waiting.name())) << "the slots are free again";
}

TEST_F(CoordinatorTest, LogsAreStreamedByStageRankAndGeneration) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const v1::Job job = CreateOk(OneStageSpec(2));
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Log(assign.attempt(), 1, 0, "line 1\n");
  v1::StreamLogsRequest request;
  request.set_name(assign.attempt().stage());
  request.set_rank(1);
  request.set_follow(true);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  auto reader = server_.jobs->StreamLogs(&context, request);
  v1::StreamLogsResponse chunk;
  std::string text;
  while (text != "line 1\n" && reader->Read(&chunk)) text += chunk.text();
  EXPECT_EQ(chunk.generation(), 1);
  worker.Log(assign.attempt(), 1, 7, "line 2\n");
  worker.Finish(assign, server_.Upload("x"));
  while (reader->Read(&chunk)) text += chunk.text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "line 1\nline 2\n");

  const auto code = [&](const std::string& name, int rank, int generation) {
    v1::StreamLogsRequest bad;
    bad.set_name(name);
    bad.set_rank(rank);
    bad.set_generation(generation);
    grpc::ClientContext bad_context;
    auto bad_reader = server_.jobs->StreamLogs(&bad_context, bad);
    while (bad_reader->Read(&chunk)) {
    }
    return FromGrpc(bad_reader->Finish()).code();
  };
  EXPECT_EQ(code(request.name(), 0, 1), absl::StatusCode::kOk);
  EXPECT_EQ(code(request.name(), 2, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(request.name(), 0, 2), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(job.name() + "/stages/W1A1", 0, 0), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(job.name(), 0, 0), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, MetricsListHasEveryEpoch) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const int epochs = 1500;  // more than a job's view shows
  const v1::Job job = CreateOk(OneStageSpec(1, epochs));
  worker.Finish(worker.ExpectAssign(), server_.Upload("x"));
  EXPECT_EQ(server_.WaitForState(job.name(), v1::JOB_STATE_SUCCEEDED).stages(0).epochs_size(), 1000);
  v1::ListMetricsRequest request;
  request.set_parent(job.name());
  request.set_page_size(1000);
  std::vector<int> listed;
  int pages = 0;
  do {
    v1::ListMetricsResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(server_.jobs->ListMetrics(&context, request, &response).ok());
    ASSERT_EQ(response.stages_size(), 1);
    for (const auto& epoch : response.stages(0).epochs()) listed.push_back(epoch.epoch());
    ++pages;
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 2);
  ASSERT_EQ(listed.size(), static_cast<size_t>(epochs));
  for (int i = 0; i < epochs; ++i) ASSERT_EQ(listed[i], i + 1);

  request.set_page_token("x");
  v1::ListMetricsResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(server_.jobs->ListMetrics(&context, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// What jobs show is without telemetry, pages of it fit a message, and telemetry that makes no sense costs nobody an epoch.
TEST_F(CoordinatorTest, TelemetryOfLayersIsListedInPagesThatFitAMessage) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const int epochs = 8;
  const v1::Job job = CreateOk(OneStageSpec(1, epochs));
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  for (int epoch = 1; epoch <= epochs; ++epoch) {
    v1::WorkerMessage message;
    *message.mutable_epoch_done()->mutable_attempt() = assign.attempt();
    v1::EpochResult& result = *message.mutable_epoch_done()->mutable_result();
    result.set_epoch(epoch);
    v1::LayerTelemetry& layer = *result.add_layers();
    layer.set_name("conv1");
    layer.set_gradient_norm(epoch == 7 ? std::numeric_limits<double>::infinity() : epoch);
    for (int level = 0; level < (epoch == 8 ? 60000 : 30000); ++level) {
      layer.add_levels(level);
      layer.add_level_shares(0.5f);
    }
    worker.Send(message);
  }
  const std::string sha256 = server_.Upload("x");
  worker.Checkpoint(assign.attempt(), sha256, epochs, true);
  worker.Expect(v1::CoordinatorMessage::kCheckpointCommitted);
  worker.Exit(assign.attempt(), 0, v1::EXIT_CAUSE_FINISHED);
  const v1::Job done = server_.WaitForState(job.name(), v1::JOB_STATE_SUCCEEDED);
  ASSERT_EQ(done.stages(0).epochs_size(), epochs);
  for (const auto& epoch : done.stages(0).epochs()) EXPECT_TRUE(epoch.layers().empty());

  v1::ListMetricsRequest request;
  request.set_parent(job.name());
  std::vector<double> norms;
  int pages = 0;
  do {
    v1::ListMetricsResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(server_.jobs->ListMetrics(&context, request, &response).ok());
    EXPECT_LT(response.ByteSizeLong(), size_t{2} << 20);
    for (const auto& epoch : response.stages(0).epochs()) norms.push_back(epoch.layers().empty() ? -1 : epoch.layers(0).gradient_norm());
    ++pages;
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && pages < 10);
  EXPECT_EQ(pages, 2);
  EXPECT_EQ(norms, (std::vector<double>{1, 2, 3, 4, 5, 6, -1, -1})) << "not a number, too large";
}

TEST_F(CoordinatorTest, WorkersAndDatasetsAreListed) {
  ScriptedWorker a(server_.fleet.get(), {.name = "a", .slots = 4});
  ScriptedWorker b(server_.fleet.get(), {.name = "b", .datasets = {{"cifar100", kDigestB}}});
  a.Expect(v1::CoordinatorMessage::kWelcome);
  b.Expect(v1::CoordinatorMessage::kWelcome);
  const v1::Job job = CreateOk(OneStageSpec(2));
  a.ExpectAssign();
  std::vector<std::string> names;
  v1::ListWorkersRequest request;
  request.set_page_size(1);
  do {
    v1::ListWorkersResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(server_.fleet->ListWorkers(&context, request, &response).ok());
    for (const auto& worker : response.workers()) {
      names.push_back(absl::StrCat(worker.name(), " ", worker.free_slots(), " of ", worker.slots_size()));
      EXPECT_EQ(worker.state(), v1::WORKER_STATE_READY);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, ElementsAre("workers/a 2 of 4", "workers/b 2 of 2"));
  v1::ListDatasetsResponse datasets;
  grpc::ClientContext context;
  ASSERT_TRUE(server_.fleet->ListDatasets(&context, {}, &datasets).ok());
  ASSERT_EQ(datasets.datasets_size(), 2);
  EXPECT_EQ(datasets.datasets(1).digest(), kDigestA);
  EXPECT_EQ(datasets.datasets(0).digest(), "") << "not asked for yet";
}

TEST_F(CoordinatorTest, ArtifactsGoUpAndDownInChunks) {
  std::string bytes;
  for (int i = 0; i < 450000; ++i) absl::StrAppend(&bytes, i, " ");
  const std::string sha256 = core::Sha256Hex(bytes);
  const auto upload = [&](const std::string& name, int64_t size, int64_t offset, const std::vector<std::string>& chunks, v1::Artifact* artifact) {
    grpc::ClientContext context;
    auto writer = server_.artifacts->UploadArtifact(&context, artifact);
    v1::UploadArtifactRequest request;
    request.mutable_header()->set_sha256(name);
    request.mutable_header()->set_size_bytes(size);
    request.mutable_header()->set_offset(offset);
    writer->Write(request);
    for (const auto& chunk : chunks) {
      request.set_chunk(chunk);
      writer->Write(request);
    }
    writer->WritesDone();
    return FromGrpc(writer->Finish());
  };
  v1::Artifact artifact;
  const auto size = static_cast<int64_t>(bytes.size());
  EXPECT_EQ(upload(sha256, size, 0, {bytes.substr(0, 1000000)}, &artifact).code(), absl::StatusCode::kOutOfRange) << "it ended early";
  v1::GetArtifactRequest get;
  get.set_sha256(sha256);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server_.artifacts->GetArtifact(&context, get, &artifact).ok());
  }
  EXPECT_EQ(artifact.received_bytes(), 1000000);
  EXPECT_FALSE(artifact.complete());
  ASSERT_TRUE(upload(sha256, size, 1000000, {bytes.substr(1000000, 1 << 20), bytes.substr(1000000 + (1 << 20))}, &artifact).ok());
  EXPECT_TRUE(artifact.complete());
  EXPECT_TRUE(upload(sha256, size, 0, {bytes.substr(0, 10)}, &artifact).ok()) << "held already";

  v1::DownloadArtifactRequest request;
  request.set_sha256(sha256);
  request.set_offset(5);
  grpc::ClientContext context;
  auto reader = server_.artifacts->DownloadArtifact(&context, request);
  std::string down;
  v1::DownloadArtifactResponse chunk;
  while (reader->Read(&chunk)) down += chunk.chunk();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(down, bytes.substr(5));

  EXPECT_EQ(upload("../x", 1, 0, {"x"}, &artifact).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(upload(kDigestA, 5, 0, {"wrong"}, &artifact).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(upload(kDigestB, 2 << 20, 0, {std::string((1 << 20) + 1, 'x')}, &artifact).code(), absl::StatusCode::kInvalidArgument);
  get.set_sha256(std::string(64, 'c'));
  grpc::ClientContext missing;
  EXPECT_EQ(FromGrpc(server_.artifacts->GetArtifact(&missing, get, &artifact)).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace bitstair::testing
