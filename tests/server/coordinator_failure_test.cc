// Crashes, lost workers, restarts and fencing, through the real gRPC server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "proto/status.h"
#include "server/coordinator.h"
#include "tests/support/scripted_worker.h"
#include "tests/support/server_in_process.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::testing {
namespace {

using ::testing::HasSubstr;

v1::RunningAttempt Alive(const v1::AssignAttempt& assign) {
  v1::RunningAttempt running;
  *running.mutable_attempt() = assign.attempt();
  for (const auto& rank : assign.ranks()) running.add_ranks(rank.rank());
  return running;
}

class CoordinatorFailureTest : public ::testing::Test {
 protected:
  CoordinatorFailureTest() { Start(); }

  void Start(absl::Duration lease = absl::Seconds(1), absl::Duration grace = absl::Seconds(1)) {
    server_ = std::make_unique<ServerInProcess>(dir_.path(), lease, grace);
  }

  v1::Job Create(const v1::JobSpec& spec) {
    v1::Job job;
    const grpc::Status status = server_->Create(spec, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  TemporaryDirectory dir_;
  std::unique_ptr<ServerInProcess> server_;
};

TEST_F(CoordinatorFailureTest, ACrashedRankMakesGeneration2GoOnFromTheCheckpoint) {
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::Job job = Create(OneStageSpec(2, 3));
  const v1::AssignAttempt first = worker.ExpectAssign();
  worker.Running(first);
  worker.Epoch(first.attempt(), 1);
  const std::string checkpoint = server_->Upload("epoch 1");
  worker.Checkpoint(first.attempt(), checkpoint, 1, false);
  EXPECT_EQ(worker.Expect(v1::CoordinatorMessage::kCheckpointCommitted).checkpoint_committed().sha256(), checkpoint);
  worker.Exit(first.attempt(), 1, v1::EXIT_CAUSE_CRASHED, "signal 9; last lines: step 12");
  const v1::CoordinatorMessage stop = worker.Expect(v1::CoordinatorMessage::kStop);
  EXPECT_FALSE(stop.stop().graceful());
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kAssign)) << "not before the whole gang has ended";
  worker.Exit(first.attempt(), 0, v1::EXIT_CAUSE_STOPPED);
  EXPECT_THAT(server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages(0).state() == v1::STAGE_STATE_PENDING; }).stages(0).reason(),
              HasSubstr("rank 1 on w1 crashed: signal 9; last lines: step 12"));
  const v1::AssignAttempt second = worker.ExpectAssign();
  EXPECT_EQ(second.attempt().generation(), 2);
  EXPECT_EQ(second.resume_from().sha256(), checkpoint);
  EXPECT_EQ(second.resume_from().epoch(), 1);
  EXPECT_NE(second.rendezvous_token(), first.rendezvous_token());

  // The old generation is fenced: none of its messages counts.
  worker.Checkpoint(first.attempt(), server_->Upload("stale"), 3, true);
  for (int rank : {0, 1}) worker.Exit(first.attempt(), rank, v1::EXIT_CAUSE_FINISHED);
  worker.Finish(second, server_->Upload("final"));
  const v1::Job done = server_->WaitForState(job.name(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.stages(0).checkpoint().generation(), 2);
  EXPECT_EQ(done.stages(0).resumed_epoch(), 1);
  EXPECT_EQ(done.stages(0).attempts(), 2);
  EXPECT_TRUE(done.stages(0).bit_exact());
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kCheckpointCommitted));
}

TEST_F(CoordinatorFailureTest, ACheckpointThatIsNotInTheStoreIsNotCommitted) {
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::Job job = Create(OneStageSpec());
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  worker.Checkpoint(assign.attempt(), kDigestB, 1, false);
  worker.Epoch(assign.attempt(), 1);
  EXPECT_FALSE(server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages(0).epochs_size() == 1; }).stages(0).has_checkpoint());
}

TEST_F(CoordinatorFailureTest, ARestartedCoordinatorTakesRunningAttemptsOverAndForgetsNoJob) {
  const v1::Job job = Create(SmallSpec());
  v1::Job other;
  ASSERT_TRUE(server_->Create(OneStageSpec(), &other, "remember-me").ok());
  auto worker = std::make_unique<ScriptedWorker>(server_->fleet.get(), ScriptedWorker::Options{});
  const v1::AssignAttempt assign = worker->ExpectAssign();
  worker->Running(assign);
  worker->Epoch(assign.attempt(), 1, 77);
  const v1::Job before = server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0 && j.stages(0).epochs_size() == 1; });
  worker.reset();
  server_.reset();

  Start();
  const v1::Job loaded = server_->Get(job.name());
  EXPECT_EQ(loaded.state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(loaded.stages(0).epochs(0).test_top1(), 77);
  EXPECT_EQ(loaded.revision(), before.revision());
  EXPECT_EQ(loaded.create_time().seconds(), before.create_time().seconds());
  v1::Job repeated;
  ASSERT_TRUE(server_->Create(OneStageSpec(), &repeated, "remember-me").ok());
  EXPECT_EQ(repeated.name(), other.name()) << "request ids are remembered too";

  ScriptedWorker again(server_->fleet.get(), {.running = {Alive(assign)}});
  EXPECT_EQ(again.Expect(v1::CoordinatorMessage::kWelcome).welcome().fenced_size(), 0);
  again.Epoch(assign.attempt(), 2);
  again.Epoch(assign.attempt(), 3);
  again.Checkpoint(assign.attempt(), server_->Upload("final"), 3, true);
  again.Expect(v1::CoordinatorMessage::kCheckpointCommitted);
  for (int rank : {0, 1}) again.Exit(assign.attempt(), rank, v1::EXIT_CAUSE_FINISHED);
  const v1::Job went_on = server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages(0).state() == v1::STAGE_STATE_SUCCEEDED; });
  EXPECT_EQ(went_on.stages(0).generation(), 1) << "the running attempt was taken over";
  EXPECT_EQ(went_on.stages(0).attempts(), 1);
}

TEST_F(CoordinatorFailureTest, AfterARestartAttemptsThatNobodyHasStartAgainFromTheirCheckpoint) {
  const v1::Job job = Create(OneStageSpec(1, 3));
  auto worker = std::make_unique<ScriptedWorker>(server_->fleet.get(), ScriptedWorker::Options{});
  const v1::AssignAttempt first = worker->ExpectAssign();
  worker->Running(first);
  const std::string checkpoint = server_->Upload("epoch 1");
  worker->Checkpoint(first.attempt(), checkpoint, 1, false);
  worker->Expect(v1::CoordinatorMessage::kCheckpointCommitted);
  worker.reset();
  server_.reset();

  Start(absl::Milliseconds(300), absl::Milliseconds(300));
  ScriptedWorker other(server_->fleet.get(), {.name = "w2"});
  const v1::AssignAttempt second = other.ExpectAssign();
  EXPECT_EQ(second.attempt().generation(), 2);
  EXPECT_EQ(second.resume_from().sha256(), checkpoint);
  EXPECT_EQ(server_->Get(job.name()).stages(0).attempts(), 1) << "the loss was not the stage's fault";
  // The first worker comes back with its trainers: they are to be stopped.
  ScriptedWorker late(server_->fleet.get(), {.running = {Alive(first)}});
  const v1::CoordinatorMessage welcome = late.Expect(v1::CoordinatorMessage::kWelcome);
  ASSERT_EQ(welcome.welcome().fenced_size(), 1);
  EXPECT_EQ(welcome.welcome().fenced(0).generation(), 1);
}

TEST_F(CoordinatorFailureTest, ABrokenStreamWithinTheLeaseHarmsNothing) {
  const v1::Job job = Create(OneStageSpec());
  auto worker = std::make_unique<ScriptedWorker>(server_->fleet.get(), ScriptedWorker::Options{});
  const v1::AssignAttempt assign = worker->ExpectAssign();
  worker->Running(assign);
  worker.reset();
  ScriptedWorker again(server_->fleet.get(), {.running = {Alive(assign)}});
  EXPECT_EQ(again.Expect(v1::CoordinatorMessage::kWelcome).welcome().fenced_size(), 0);
  again.Finish(assign, server_->Upload("final"));
  EXPECT_EQ(server_->WaitForState(job.name(), v1::JOB_STATE_SUCCEEDED).stages(0).generation(), 1);
}

TEST_F(CoordinatorFailureTest, ASilentWorkerBecomesUnreachableThenGoneAndItsWorkMovesOn) {
  const v1::Job job = Create(OneStageSpec());
  ScriptedWorker worker(server_->fleet.get(), {.name = "silent"});
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  worker.Silence();
  EXPECT_EQ(FromGrpc(worker.WaitForEnd()).code(), absl::StatusCode::kDeadlineExceeded) << "the lease ran out";
  v1::ListWorkersResponse workers;
  grpc::ClientContext context;
  ASSERT_TRUE(server_->fleet->ListWorkers(&context, {}, &workers).ok());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).state(), v1::WORKER_STATE_UNREACHABLE);
  EXPECT_EQ(workers.workers(0).free_slots(), 1) << "its slots stay reserved";
  ScriptedWorker other(server_->fleet.get(), {.name = "other"});
  other.Expect(v1::CoordinatorMessage::kWelcome);
  EXPECT_EQ(server_->Get(job.name()).stages(0).generation(), 1);
  const v1::AssignAttempt second = other.ExpectAssign();
  EXPECT_EQ(second.attempt().generation(), 2);
}

TEST_F(CoordinatorFailureTest, AWorkerThatSaysGoodbyeGivesItsWorkBack) {
  const v1::Job job = Create(OneStageSpec(1, 3));
  ScriptedWorker worker(server_->fleet.get(), {.name = "leaving"});
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  const std::string checkpoint = server_->Upload("at epoch 2");
  worker.Checkpoint(assign.attempt(), checkpoint, 2, false);
  worker.Exit(assign.attempt(), 0, v1::EXIT_CAUSE_STOPPED);
  v1::WorkerMessage goodbye;
  goodbye.mutable_goodbye();
  worker.Send(goodbye);
  EXPECT_TRUE(worker.WaitForEnd().ok());
  EXPECT_THAT(server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages(0).state() == v1::STAGE_STATE_PENDING; }).stages(0).reason(),
              HasSubstr("goes on from epoch 2"));
  ScriptedWorker other(server_->fleet.get(), {.name = "other"});
  const v1::AssignAttempt second = other.ExpectAssign();
  EXPECT_EQ(second.resume_from().sha256(), checkpoint);
  EXPECT_EQ(server_->Get(job.name()).stages(0).attempts(), 1) << "the first did not count";
}

TEST_F(CoordinatorFailureTest, ANewIncarnationReplacesTheOldAndKeepsItOut) {
  ScriptedWorker old(server_->fleet.get(), {.incarnation = "1"});
  old.Expect(v1::CoordinatorMessage::kWelcome);
  ScriptedWorker fresh(server_->fleet.get(), {.incarnation = "2"});
  fresh.Expect(v1::CoordinatorMessage::kWelcome);
  EXPECT_EQ(FromGrpc(old.WaitForEnd()).code(), absl::StatusCode::kAlreadyExists);
  ScriptedWorker back(server_->fleet.get(), {.incarnation = "1"});
  EXPECT_EQ(FromGrpc(back.WaitForEnd()).code(), absl::StatusCode::kAlreadyExists);
  Create(OneStageSpec());
  fresh.ExpectAssign();
}

TEST_F(CoordinatorFailureTest, HellosThatMakeNoSenseAreRefused) {
  ScriptedWorker future(server_->fleet.get(), {.protocol_version = 99});
  const absl::Status status = FromGrpc(future.WaitForEnd());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("protocol version 99"));
  ScriptedWorker unnamed(server_->fleet.get(), {.name = "../x"});
  EXPECT_EQ(FromGrpc(unnamed.WaitForEnd()).code(), absl::StatusCode::kInvalidArgument);
  grpc::ClientContext context;
  auto stream = server_->fleet->Connect(&context);
  v1::WorkerMessage message;
  message.mutable_heartbeat();
  stream->Write(message);
  v1::CoordinatorMessage answer;
  EXPECT_FALSE(stream->Read(&answer));
  EXPECT_EQ(FromGrpc(stream->Finish()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorFailureTest, AWorkerCannotSpeakForAnothersRanks) {
  const v1::Job job = Create(OneStageSpec());
  ScriptedWorker worker(server_->fleet.get(), {.name = "a"});
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  ScriptedWorker stranger(server_->fleet.get(), {.name = "b"});
  stranger.Expect(v1::CoordinatorMessage::kWelcome);
  stranger.Exit(assign.attempt(), 0, v1::EXIT_CAUSE_CRASHED);
  stranger.Checkpoint(assign.attempt(), server_->Upload("stranger's"), 2, true);
  stranger.Epoch(assign.attempt(), 1);
  worker.Finish(assign, server_->Upload("own"));
  const v1::Job done = server_->WaitForState(job.name(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.stages(0).generation(), 1);
  EXPECT_EQ(done.stages(0).checkpoint().sha256(), core::Sha256Hex("own"));
}

TEST_F(CoordinatorFailureTest, GoodbyeOfTheCoordinatorWaitsForTheWorkersAndCountsNoAttempt) {
  const v1::Job job = Create(OneStageSpec(1, 3));
  auto worker = std::make_unique<ScriptedWorker>(server_->fleet.get(), ScriptedWorker::Options{});
  const v1::AssignAttempt assign = worker->ExpectAssign();
  worker->Running(assign);
  absl::Notification done;
  server_->coordinator()->SayGoodbye([&] { done.Notify(); });
  worker->Expect(v1::CoordinatorMessage::kGoodbye);
  const std::string checkpoint = server_->Upload("on leaving");
  worker->Checkpoint(assign.attempt(), checkpoint, 1, false);
  worker->Exit(assign.attempt(), 0, v1::EXIT_CAUSE_STOPPED);
  server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages(0).state() == v1::STAGE_STATE_PENDING; });
  EXPECT_FALSE(done.HasBeenNotified()) << "the stream is still there";
  v1::Job refused;
  EXPECT_EQ(FromGrpc(server_->Create(OneStageSpec(), &refused)).code(), absl::StatusCode::kUnavailable);
  worker.reset();
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  server_.reset();

  Start();
  ScriptedWorker next(server_->fleet.get(), {.incarnation = "2"});
  const v1::AssignAttempt second = next.ExpectAssign();
  EXPECT_EQ(second.resume_from().sha256(), checkpoint);
  EXPECT_EQ(server_->Get(job.name()).stages(0).attempts(), 1);
}

TEST_F(CoordinatorFailureTest, ManyJobsRunOneAfterTheOtherInOrder) {
  std::vector<std::string> names;
  for (int i = 0; i < 20; ++i) {
    v1::JobSpec spec = OneStageSpec(2, 1);
    spec.set_seed(100 + i);  // else they would be one stage
    names.push_back(Create(spec).name());
  }
  ScriptedWorker worker(server_->fleet.get(), {});
  const std::string sha256 = server_->Upload("same for all");
  for (const auto& name : names) {
    const v1::AssignAttempt assign = worker.ExpectAssign();
    EXPECT_TRUE(absl::StartsWith(assign.attempt().stage(), name)) << assign.attempt().stage() << " before " << name;
    worker.Finish(assign, sha256);
  }
  server_->WaitForState(names.back(), v1::JOB_STATE_SUCCEEDED);
}

}  // namespace
}  // namespace bitstair::testing
