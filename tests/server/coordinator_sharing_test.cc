// Jobs that need the same training, through the real server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/scripted_worker.h"
#include "tests/support/server_in_process.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::testing {
namespace {

using ::testing::HasSubstr;

class CoordinatorSharingTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(); }
  void Start() {
    server_.reset();
    server_ = std::make_unique<ServerInProcess>(directory_.path(), absl::Seconds(1), absl::Seconds(1));
  }
  v1::Job Create(const v1::JobSpec& spec) {
    v1::Job job;
    const grpc::Status status = server_->Create(spec, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  v1::Job Planned(const v1::Job& job) {
    return server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0; });
  }

  TemporaryDirectory directory_;
  std::unique_ptr<ServerInProcess> server_;
};

TEST_F(CoordinatorSharingTest, TwoJobsOneTraining) {
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::Job first = Create(SmallSpec()), second = Create(SmallSpec());
  Planned(first);
  EXPECT_EQ(Planned(second).stages(0).sharing(), v1::STAGE_SHARING_JOINED);
  EXPECT_EQ(Planned(second).stages(0).shared_with(), first.name() + "/stages/W32A32");
  EXPECT_EQ(Planned(second).stages(0).name(), second.name() + "/stages/W32A32");
  EXPECT_EQ(Planned(second).stages(0).key(), Planned(first).stages(0).key());
  EXPECT_EQ(Planned(first).stages(0).waiting_jobs(), 2);
  for (int i = 0; i < 5; ++i) {
    const v1::AssignAttempt assign = worker.ExpectAssign();
    EXPECT_EQ(assign.attempt().generation(), 1);
    if (i == 0) worker.Log(assign.attempt(), 0, 0, "hello\n");
    worker.Finish(assign, server_->Upload(absl::StrCat("checkpoint ", i)));
  }
  const v1::Job a = server_->WaitForState(first.name(), v1::JOB_STATE_SUCCEEDED), b = server_->WaitForState(second.name(), v1::JOB_STATE_SUCCEEDED);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(a.stages(i).checkpoint().sha256(), b.stages(i).checkpoint().sha256());
    EXPECT_EQ(a.stages(i).epochs_size(), b.stages(i).epochs_size());
  }
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kAssign)) << "nothing was started twice";
  v1::StreamLogsRequest request;
  request.set_name(second.name() + "/stages/W32A32");
  grpc::ClientContext context;
  auto reader = server_->jobs->StreamLogs(&context, request);
  v1::StreamLogsResponse chunk;
  std::string text;
  while (reader->Read(&chunk)) text += chunk.text();
  EXPECT_EQ(text, "hello\n") << "the log of the training, whoever asks";

  const v1::Job third = Create(SmallSpec());
  const v1::Job done = server_->WaitForState(third.name(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.stages(4).sharing(), v1::STAGE_SHARING_REUSED);
  EXPECT_EQ(done.stages(4).checkpoint().sha256(), a.stages(4).checkpoint().sha256());
}

// The same bytes under other names on another worker: the training that waits runs there, by the names that hold there.
TEST_F(CoordinatorSharingTest, AJoinedTrainingRunsWhereEitherJobsDataLies) {
  ScriptedWorker small(server_->fleet.get(), {.name = "w1", .slots = 1, .weights = {{"/a/weights", kDigestA}}});
  v1::JobSpec spec = OneStageSpec(2);
  spec.mutable_initial_weights()->set_path("/a/weights");
  const v1::Job first = Create(spec);
  Planned(first);
  ScriptedWorker large(server_->fleet.get(), {.name = "w2", .slots = 2, .datasets = {{"clothes", kDigestA}}, .weights = {{"/b/weights", kDigestA}}});
  EXPECT_FALSE(large.Has(v1::CoordinatorMessage::kAssign)) << "nobody has told that it has the data";
  spec.mutable_data()->set_name("clothes");
  spec.mutable_initial_weights()->set_path("/b/weights");
  const v1::Job second = Create(spec);
  EXPECT_EQ(Planned(second).stages(0).shared_with(), first.name() + "/stages/W32A32");
  const v1::AssignAttempt assign = large.ExpectAssign();
  EXPECT_EQ(assign.attempt().stage(), first.name() + "/stages/W32A32");
  EXPECT_EQ(assign.spec().data().name(), "clothes");
  EXPECT_EQ(assign.spec().initial_weights().path(), "/b/weights");
  large.Finish(assign, server_->Upload("x"));
  server_->WaitForState(first.name(), v1::JOB_STATE_SUCCEEDED);
  server_->WaitForState(second.name(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(CoordinatorSharingTest, ACancelledJobLeavesTheTrainingToTheOther) {
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::Job first = Create(OneStageSpec(2, 3)), second = Create(OneStageSpec(2, 3));
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  Planned(second);
  server_->WaitFor(second.name(), [](const v1::Job& j) { return j.state() == v1::JOB_STATE_RUNNING; });
  v1::CancelJobRequest request;
  request.set_name(first.name());
  v1::Job cancelled;
  grpc::ClientContext context;
  ASSERT_TRUE(server_->jobs->CancelJob(&context, request, &cancelled).ok());
  EXPECT_EQ(cancelled.state(), v1::JOB_STATE_CANCELLED);
  worker.Progress(assign.attempt(), 5);
  server_->WaitFor(second.name(), [](const v1::Job& j) { return j.stages(0).progress().step() == 5; });
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kStop));
  worker.Finish(assign, server_->Upload("x"));
  server_->WaitForState(second.name(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(server_->Get(first.name()).stages(0).state(), v1::STAGE_STATE_CANCELLED);
}

TEST_F(CoordinatorSharingTest, SharingOutlivesTheCoordinator) {
  auto worker = std::make_unique<ScriptedWorker>(server_->fleet.get(), ScriptedWorker::Options{});
  const v1::Job first = Create(SmallSpec()), second = Create(SmallSpec());
  const v1::AssignAttempt assign = worker->ExpectAssign();
  worker->Running(assign);
  Planned(second);
  v1::CancelJobRequest request;
  request.set_name(first.name());
  v1::Job cancelled;
  grpc::ClientContext context;
  ASSERT_TRUE(server_->jobs->CancelJob(&context, request, &cancelled).ok());
  worker.reset();
  Start();
  v1::RunningAttempt alive;
  *alive.mutable_attempt() = assign.attempt();
  for (int rank : {0, 1}) alive.add_ranks(rank);
  ScriptedWorker again(server_->fleet.get(), {.running = {alive}});
  EXPECT_EQ(again.Expect(v1::CoordinatorMessage::kWelcome).welcome().fenced_size(), 0);
  again.Finish(assign, server_->Upload("first"));
  const v1::AssignAttempt next = again.ExpectAssign();
  EXPECT_EQ(next.attempt().stage(), first.name() + "/stages/W8A32") << "named after the job that needed it first, trained for the other";
  const v1::Job third = Create(SmallSpec());
  EXPECT_EQ(Planned(third).stages(0).sharing(), v1::STAGE_SHARING_REUSED);
  EXPECT_EQ(Planned(third).stages(1).sharing(), v1::STAGE_SHARING_JOINED);
}

TEST_F(CoordinatorSharingTest, WithoutSharingEachTrainsItsOwn) {
  ScriptedWorker worker(server_->fleet.get(), {.slots = 4});
  v1::JobSpec alone = OneStageSpec(2, 1);
  alone.set_share(false);
  const v1::Job first = Create(OneStageSpec(2, 1)), second = Create(alone);
  const v1::AssignAttempt a = worker.ExpectAssign(), b = worker.ExpectAssign();
  EXPECT_NE(a.attempt().stage(), b.attempt().stage());
  EXPECT_EQ(a.stage_key(), b.stage_key()) << "checkpoints have the same bytes";
  EXPECT_NE(Planned(first).stages(0).key(), Planned(second).stages(0).key());
  EXPECT_EQ(Planned(second).stages(0).sharing(), v1::STAGE_SHARING_NONE);
}

TEST_F(CoordinatorSharingTest, AFailureIsReportedToEachJob) {
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::Job first = Create(OneStageSpec(1, 1)), second = Create(OneStageSpec(1, 1));
  const v1::AssignAttempt assign = worker.ExpectAssign();
  Planned(second);
  v1::WorkerMessage message;
  *message.mutable_rank_exited()->mutable_attempt() = assign.attempt();
  message.mutable_rank_exited()->set_cause(v1::EXIT_CAUSE_BAD_DATA);
  message.mutable_rank_exited()->set_message("train-labels: byte 8: label 77");
  worker.Send(message);
  for (const auto& job : {first, second}) {
    EXPECT_THAT(server_->WaitForState(job.name(), v1::JOB_STATE_FAILED).reason(), HasSubstr("byte 8: label 77"));
  }
}

// One event of a stage that very many jobs wait for is more than one commit of the store takes.
TEST_F(CoordinatorSharingTest, VeryManyJobsOneTraining) {
  std::vector<std::string> names;
  for (int i = 0; i < 150; ++i) names.push_back(Create(OneStageSpec(2, 1)).name());
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::AssignAttempt assign = worker.ExpectAssign();
  for (const auto& name : names) server_->WaitFor(name, [](const v1::Job& j) { return j.stages_size() > 0; });
  worker.Finish(assign, server_->Upload("one for all"));
  for (const auto& name : names) server_->WaitForState(name, v1::JOB_STATE_SUCCEEDED);
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kAssign));
}

}  // namespace
}  // namespace bitstair::testing
