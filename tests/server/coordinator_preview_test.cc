// What would happen to a recipe, when jobs will end, and what of the artifact store may go: through the real server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/scripted_worker.h"
#include "tests/support/server_in_process.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::testing {
namespace {

using ::testing::HasSubstr;

class CoordinatorPreviewTest : public ::testing::Test {
 protected:
  v1::Job Create(const v1::JobSpec& spec) {
    v1::Job job;
    const grpc::Status status = server_.Create(spec, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  // Trains every stage; each epoch took `seconds` and 1000 bytes.
  void Train(ScriptedWorker& worker, const v1::Job& job, double seconds) {
    for (int left = server_.WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0; }).stages_size(); left > 0; --left) {
      const v1::AssignAttempt assign = worker.ExpectAssign();
      worker.Running(assign);
      for (int epoch = 1; epoch <= assign.spec().epochs(); ++epoch) {
        v1::WorkerMessage message;
        *message.mutable_epoch_done()->mutable_attempt() = assign.attempt();
        message.mutable_epoch_done()->mutable_result()->set_epoch(epoch);
        message.mutable_epoch_done()->mutable_result()->set_seconds(seconds);
        message.mutable_epoch_done()->mutable_result()->set_peak_memory_bytes(1000);
        worker.Send(message);
      }
      worker.Checkpoint(assign.attempt(), server_.Upload(assign.attempt().stage()), assign.spec().epochs(), true);
      worker.Expect(v1::CoordinatorMessage::kCheckpointCommitted);
      for (const auto& rank : assign.ranks()) worker.Exit(assign.attempt(), rank.rank(), v1::EXIT_CAUSE_FINISHED);
    }
    server_.WaitForState(job.name(), v1::JOB_STATE_SUCCEEDED);
  }
  v1::CollectGarbageResponse Collect(bool dry_run, bool any_age) {
    v1::CollectGarbageRequest request;
    request.set_dry_run(dry_run);
    if (any_age) request.mutable_older_than()->set_seconds(0);
    v1::CollectGarbageResponse response;
    grpc::ClientContext context;
    const grpc::Status status = server_.artifacts->CollectGarbage(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  static double Seconds(const google::protobuf::Timestamp& from, const google::protobuf::Timestamp& to) {
    return static_cast<double>(to.seconds() - from.seconds()) + 1e-9 * (to.nanos() - from.nanos());
  }

  TemporaryDirectory directory_;
  ServerInProcess server_{directory_.path(), absl::Seconds(5), absl::Seconds(5), {}};
};

TEST_F(CoordinatorPreviewTest, OfDataThatNobodyAskedForOnlyThePlanIsKnown) {
  const v1::Job preview = server_.Preview(SmallSpec());
  EXPECT_EQ(preview.stages_size(), 5);
  ASSERT_EQ(preview.notes_size(), 1);
  EXPECT_THAT(preview.notes(0), HasSubstr("no job has used this data set so far"));
  EXPECT_FALSE(preview.has_expected_end_time());
  EXPECT_EQ(preview.name(), "");
}

TEST_F(CoordinatorPreviewTest, TellsWhatIsDoneAndWhereTheRestRunsUntilWhen) {
  ScriptedWorker worker(server_.fleet.get(), {.name = "big-host"});
  const v1::Job job = Create(OneStageSpec(1, 3));
  Train(worker, job, 100);
  v1::Job preview = server_.Preview(OneStageSpec(1, 3));
  EXPECT_EQ(preview.stages(0).sharing(), v1::STAGE_SHARING_REUSED);
  EXPECT_EQ(preview.stages(0).state(), v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(preview.stages(0).shared_with(), absl::StrCat(job.name(), "/stages/W32A32"));
  EXPECT_FALSE(preview.has_expected_end_time());

  preview = server_.Preview(OneStageSpec(1, 5));  // another training of the same kind
  const v1::Stage& stage = preview.stages(0);
  EXPECT_EQ(stage.sharing(), v1::STAGE_SHARING_NONE);
  ASSERT_EQ(stage.placement_size(), 1) << stage.DebugString();
  EXPECT_EQ(stage.placement(0).worker(), "workers/big-host");
  EXPECT_EQ(stage.memory_bytes(), 1000);
  EXPECT_NEAR(Seconds(stage.expected_start_time(), stage.expected_end_time()), 500, 1e-3);
  EXPECT_TRUE(preview.has_expected_end_time());
  EXPECT_EQ(preview.notes_size(), 0);

  v1::JobSpec unshared = OneStageSpec(1, 3);
  unshared.set_share(false);
  EXPECT_EQ(server_.Preview(unshared).stages(0).sharing(), v1::STAGE_SHARING_NONE);

  v1::JobSpec big = OneStageSpec(3, 3);
  preview = server_.Preview(big);
  EXPECT_THAT(preview.stages(0).reason(), HasSubstr("3")) << "three ranks on a worker of two slots";
  EXPECT_EQ(preview.stages(0).placement_size(), 0);
  EXPECT_EQ(preview.notes_size(), 1);

  v1::ListJobsResponse list;
  grpc::ClientContext context;
  ASSERT_TRUE(server_.jobs->ListJobs(&context, {}, &list).ok());
  EXPECT_EQ(list.jobs_size(), 1) << "nothing is stored";
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kAssign)) << "nothing is started";
}

TEST_F(CoordinatorPreviewTest, AJoinedStageEndsWhenItsOwnTrainingDoes) {
  ScriptedWorker worker(server_.fleet.get(), {});
  Train(worker, Create(OneStageSpec(1, 3)), 100);
  const v1::Job running = Create(OneStageSpec(1, 4));
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  server_.WaitForState(running.name(), v1::JOB_STATE_RUNNING);
  v1::WorkerMessage message;
  *message.mutable_progress()->mutable_attempt() = assign.attempt();
  message.mutable_progress()->mutable_progress()->set_seconds_left(70);
  worker.Send(message);
  const v1::Job seen = server_.WaitFor(running.name(), [](const v1::Job& j) { return j.stages(0).progress().seconds_left() > 0; });
  EXPECT_TRUE(seen.has_expected_end_time());
  EXPECT_EQ(Seconds(seen.expected_end_time(), seen.stages(0).expected_end_time()), 0);
  const v1::Job preview = server_.Preview(OneStageSpec(1, 4));
  EXPECT_EQ(preview.stages(0).sharing(), v1::STAGE_SHARING_JOINED);
  EXPECT_NEAR(Seconds(seen.expected_end_time(), preview.expected_end_time()), 0, 5);
}

TEST_F(CoordinatorPreviewTest, GarbageIsWhatNoJobNeeds) {
  ScriptedWorker worker(server_.fleet.get(), {});
  const v1::Job pinned = Create(OneStageSpec(1, 1)), old = Create(OneStageSpec(1, 2)), running = Create(OneStageSpec(1, 3));
  for (const auto& job : {pinned, old}) Train(worker, job, 1);
  v1::PinJobRequest pin;
  pin.set_name(pinned.name());
  v1::Job changed;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server_.jobs->PinJob(&context, pin, &changed).ok());
  }
  EXPECT_TRUE(changed.pinned());
  const v1::AssignAttempt assign = worker.ExpectAssign();
  worker.Running(assign);
  worker.Checkpoint(assign.attempt(), server_.Upload("half"), 1, false);
  worker.Expect(v1::CoordinatorMessage::kCheckpointCommitted);

  EXPECT_EQ(Collect(true, false).deleted_blobs(), 0) << "without an age nothing that a job has";
  const auto dry = Collect(true, true);
  ASSERT_EQ(dry.garbage_size(), 1);
  EXPECT_EQ(dry.garbage(0).stage(), absl::StrCat(old.name(), "/stages/W32A32"));
  EXPECT_EQ(dry.kept_blobs(), 2);
  EXPECT_EQ(Collect(true, true).deleted_blobs(), 1) << "a dry run deletes nothing";
  const auto real = Collect(false, true);
  EXPECT_EQ(real.deleted_blobs(), 1);
  EXPECT_EQ(real.garbage(0).sha256(), dry.garbage(0).sha256());
  EXPECT_EQ(Collect(false, true).deleted_blobs(), 0);
  // It counts as not done now, and is trained again for who wants it.
  EXPECT_EQ(server_.Preview(OneStageSpec(1, 2)).stages(0).sharing(), v1::STAGE_SHARING_NONE);
  const v1::Job again = Create(OneStageSpec(1, 2));
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), HasSubstr(old.name()));
  EXPECT_EQ(server_.Preview(OneStageSpec(1, 1)).stages(0).sharing(), v1::STAGE_SHARING_REUSED);
}

}  // namespace
}  // namespace bitstair::testing
