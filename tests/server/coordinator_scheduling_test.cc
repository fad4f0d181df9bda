// Who goes first, where, and who makes room, through the real server. The scheduler by itself: tests/server/scheduling/.
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
using ::testing::StartsWith;

class CoordinatorSchedulingTest : public ::testing::Test {
 protected:
  CoordinatorSchedulingTest() { Start(); }
  void Start(const server::scheduling::Scheduler& scheduler = {}) {
    server_.reset();
    server_ = std::make_unique<ServerInProcess>(directory_.path(), absl::Seconds(1), absl::Seconds(1), scheduler);
  }
  // One stage of `ranks` ranks; each call's is another one.
  v1::JobSpec Spec(int ranks) {
    v1::JobSpec spec = OneStageSpec(ranks, 5);
    spec.set_seed(++seed_);
    return spec;
  }
  v1::Job Create(const v1::JobSpec& spec) {
    v1::Job job;
    const grpc::Status status = server_->Create(spec, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  v1::Job CreateWith(int ranks, v1::PriorityClass priority) {
    v1::JobSpec spec = Spec(ranks);
    spec.set_priority(priority);
    return Create(spec);
  }
  std::string WaitForReason(const v1::Job& job, const std::string& part) {
    return server_->WaitFor(job.name(), [&](const v1::Job& j) { return j.stages_size() > 0 && absl::StrContains(j.stages(0).reason(), part); })
        .stages(0)
        .reason();
  }

  TemporaryDirectory directory_;
  std::unique_ptr<ServerInProcess> server_;
  uint64_t seed_ = 0;
};

TEST_F(CoordinatorSchedulingTest, AHigherClassGoesFirst) {
  const v1::Job low = CreateWith(2, v1::PRIORITY_CLASS_LOW), normal = CreateWith(2, v1::PRIORITY_CLASS_NORMAL), high = CreateWith(2, v1::PRIORITY_CLASS_HIGH);
  ScriptedWorker filler(server_->fleet.get(), {.name = "filler", .slots = 0});  // all are planned before there is a slot
  for (const auto& job : {low, normal, high}) server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0; });
  ScriptedWorker worker(server_->fleet.get(), {});
  for (const auto& job : {high, normal, low}) {
    const v1::AssignAttempt assign = worker.ExpectAssign();
    EXPECT_THAT(assign.attempt().stage(), StartsWith(job.name()));
    worker.Finish(assign, server_->Upload(job.name()));
  }
}

// Without what was saved, x would go first again: it asked first.
TEST_F(CoordinatorSchedulingTest, FairSharesOutliveARestart) {
  const auto create_in = [&](const std::string& queue) {
    v1::JobSpec spec = Spec(2);
    spec.set_queue(queue);
    return Create(spec);
  };
  {
    ScriptedWorker worker(server_->fleet.get(), {});
    const v1::Job first = create_in("x");
    const v1::AssignAttempt assign = worker.ExpectAssign();
    worker.Running(assign);
    absl::SleepFor(absl::Milliseconds(300));  // 0.6 slot-seconds
    worker.Finish(assign, server_->Upload("x"));
    server_->WaitForState(first.name(), v1::JOB_STATE_SUCCEEDED);
  }
  Start();
  const v1::Job x = create_in("x"), y = create_in("y");
  ScriptedWorker filler(server_->fleet.get(), {.name = "filler", .slots = 0});
  for (const auto& job : {x, y}) server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0; });
  ScriptedWorker worker(server_->fleet.get(), {.incarnation = "2"});
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), StartsWith(y.name()));
}

TEST_F(CoordinatorSchedulingTest, PrioritizeMovesAJobForward) {
  const v1::Job first = CreateWith(2, v1::PRIORITY_CLASS_NORMAL), second = CreateWith(2, v1::PRIORITY_CLASS_NORMAL);
  v1::PrioritizeJobRequest request;
  request.set_name(second.name());
  v1::Job changed;
  {
    grpc::ClientContext context;
    EXPECT_EQ(server_->jobs->PrioritizeJob(&context, request, &changed).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "no priority";
  }
  request.set_priority(v1::PRIORITY_CLASS_HIGH);
  grpc::ClientContext context;
  ASSERT_TRUE(server_->jobs->PrioritizeJob(&context, request, &changed).ok());
  EXPECT_EQ(changed.spec().priority(), v1::PRIORITY_CLASS_HIGH);
  ScriptedWorker filler(server_->fleet.get(), {.name = "filler", .slots = 0});
  for (const auto& job : {first, second}) server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0; });
  ScriptedWorker worker(server_->fleet.get(), {});
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), StartsWith(second.name()));
}

TEST_F(CoordinatorSchedulingTest, AHigherClassStopsALowerOneAtACheckpointAndTheLowerOneGoesOnAfterwards) {
  ScriptedWorker worker(server_->fleet.get(), {});
  const v1::Job low = CreateWith(2, v1::PRIORITY_CLASS_LOW);
  const v1::AssignAttempt first = worker.ExpectAssign();
  worker.Running(first);
  server_->WaitForState(low.name(), v1::JOB_STATE_RUNNING);
  const v1::Job high = CreateWith(2, v1::PRIORITY_CLASS_HIGH);
  const v1::CoordinatorMessage stop = worker.Expect(v1::CoordinatorMessage::kStop);
  EXPECT_EQ(stop.stop().attempt().stage(), first.attempt().stage());
  EXPECT_TRUE(stop.stop().graceful());
  EXPECT_THAT(WaitForReason(high, "make room"), HasSubstr(low.name()));
  EXPECT_THAT(server_->Get(low.name()).stages(0).reason(), HasSubstr(absl::StrCat("makes room for ", high.name())));
  const std::string checkpoint = server_->Upload("half way");
  worker.Checkpoint(first.attempt(), checkpoint, 2, false);
  worker.Expect(v1::CoordinatorMessage::kCheckpointCommitted);
  for (int rank : {0, 1}) worker.Exit(first.attempt(), rank, v1::EXIT_CAUSE_STOPPED);
  const v1::AssignAttempt second = worker.ExpectAssign();
  EXPECT_THAT(second.attempt().stage(), StartsWith(high.name()));
  worker.Finish(second, server_->Upload("high"));
  const v1::AssignAttempt again = worker.ExpectAssign();
  EXPECT_EQ(again.attempt().stage(), first.attempt().stage());
  EXPECT_EQ(again.resume_from().sha256(), checkpoint);
  EXPECT_EQ(server_->Get(low.name()).stages(0).attempts(), 1) << "making room is no failure";
}

TEST_F(CoordinatorSchedulingTest, AJobThatMayNotBeStoppedIsNot) {
  ScriptedWorker worker(server_->fleet.get(), {});
  v1::JobSpec spec = Spec(2);
  spec.set_priority(v1::PRIORITY_CLASS_LOW);
  spec.set_preemptible(false);
  const v1::Job low = Create(spec);
  const v1::AssignAttempt first = worker.ExpectAssign();
  worker.Running(first);
  const v1::Job high = CreateWith(2, v1::PRIORITY_CLASS_HIGH);
  EXPECT_EQ(WaitForReason(high, "waits for"), "waits for 2 slots; 0 of 2 are free");
  EXPECT_FALSE(worker.Has(v1::CoordinatorMessage::kStop));
  worker.Finish(first, server_->Upload("low"));
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), StartsWith(high.name()));
}

TEST_F(CoordinatorSchedulingTest, AQueueAtItsQuotaDoesNotKeepOthersWaiting) {
  server::scheduling::Scheduler scheduler;
  ASSERT_TRUE(scheduler.SetQueue("vision", {.max_slots = 2}).ok());
  Start(scheduler);
  ScriptedWorker worker(server_->fleet.get(), {.slots = 4});
  v1::JobSpec spec = Spec(2);
  spec.set_queue("vision");
  const v1::Job first = Create(spec);
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), StartsWith(first.name()));
  spec.set_seed(1000);
  const v1::Job second = Create(spec);
  EXPECT_EQ(WaitForReason(second, "quota"), "queue vision is at its quota of 2 slots");
  const v1::Job other = Create(Spec(2));
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), StartsWith(other.name()));
}

TEST_F(CoordinatorSchedulingTest, LabelsSayWhichWorkersWillDo) {
  ScriptedWorker plain(server_->fleet.get(), {.name = "plain"});
  v1::JobSpec spec = Spec(2);
  (*spec.mutable_labels())["gpu"] = "h100";
  const v1::Job job = Create(spec);
  EXPECT_THAT(WaitForReason(job, "label"), HasSubstr("no connected worker has label gpu=h100"));
  ScriptedWorker other(server_->fleet.get(), {.name = "other", .labels = {{"gpu", "a100"}}});
  ScriptedWorker right(server_->fleet.get(), {.name = "right", .labels = {{"gpu", "h100"}, {"rack", "7"}}});
  EXPECT_EQ(right.ExpectAssign().ranks_size(), 2);
}

TEST_F(CoordinatorSchedulingTest, WhereItFailedIsTriedLast) {
  ScriptedWorker bad(server_->fleet.get(), {.name = "a-bad", .hostname = "host-1"});
  const v1::Job job = Create(Spec(2));
  const v1::AssignAttempt first = bad.ExpectAssign();
  ScriptedWorker good(server_->fleet.get(), {.name = "b-good", .hostname = "host-2"});
  bad.Running(first);
  bad.Exit(first.attempt(), 0, v1::EXIT_CAUSE_CRASHED, "signal 9");
  bad.Exit(first.attempt(), 1, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(good.ExpectAssign().attempt().generation(), 2);
}

TEST_F(CoordinatorSchedulingTest, ACordonedWorkerGetsNothingNewAlsoAfterARestart) {
  auto worker = std::make_unique<ScriptedWorker>(server_->fleet.get(), ScriptedWorker::Options{});
  worker->Expect(v1::CoordinatorMessage::kWelcome);
  v1::CordonWorkerRequest request;
  request.set_name("workers/w1");
  v1::Worker seen;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server_->fleet->CordonWorker(&context, request, &seen).ok());
    EXPECT_TRUE(seen.cordoned());
  }
  const v1::Job job = Create(Spec(2));
  EXPECT_EQ(WaitForReason(job, "cordoned"), "waits for 2 slots; every connected worker is cordoned");
  worker.reset();
  Start();
  ScriptedWorker again(server_->fleet.get(), {});
  EXPECT_EQ(WaitForReason(job, "cordoned"), "waits for 2 slots; every connected worker is cordoned");
  v1::UncordonWorkerRequest open;
  open.set_name("workers/w1");
  grpc::ClientContext context;
  ASSERT_TRUE(server_->fleet->UncordonWorker(&context, open, &seen).ok());
  again.ExpectAssign();
  grpc::ClientContext unknown;
  open.set_name("workers/nobody");
  EXPECT_EQ(server_->fleet->UncordonWorker(&unknown, open, &seen).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(CoordinatorSchedulingTest, ASharedStageHasTheHighestPriorityOfThoseWhoWait) {
  const v1::JobSpec shared = Spec(2);
  v1::JobSpec urgent = shared;
  urgent.set_priority(v1::PRIORITY_CLASS_HIGH);
  const v1::Job before = Create(Spec(2)), first = Create(shared), second = Create(urgent);
  ScriptedWorker filler(server_->fleet.get(), {.name = "filler", .slots = 0});
  for (const auto& job : {before, first, second}) server_->WaitFor(job.name(), [](const v1::Job& j) { return j.stages_size() > 0; });
  ScriptedWorker worker(server_->fleet.get(), {});
  EXPECT_THAT(worker.ExpectAssign().attempt().stage(), StartsWith(first.name()));
}

}  // namespace
}  // namespace bitstair::testing
