#include "client/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/client/demo_job.h"

namespace bitstair::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

v1::WatchJobResponse Change(const v1::Job& job) {
  v1::WatchJobResponse change;
  *change.mutable_job() = job;
  return change;
}

v1::WatchJobResponse ProgressOf(const v1::Stage& stage) {
  v1::WatchJobResponse change;
  change.mutable_progress()->set_name(stage.name());
  *change.mutable_progress()->mutable_progress() = stage.progress();
  return change;
}

bool HasControl(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7F; });
}

TEST(StageLineTest, ShowsEverythingInTheGivenWidth) {
  const v1::Stage stage = DemoJob().stages(1);
  const std::string wide = StageLine(stage, 140, 120);
  EXPECT_EQ(wide, "W4A32   4/32 bit  epoch 2/4 [#########---------------]  loss 0.412  top-1 86.12 %  12034 images/s  1:23 left (job 2:00)");
  EXPECT_EQ(StageLine(stage, 100, -1), "W4A32   4/32 bit  epoch 2/4 [######---------]  loss 0.412  top-1 86.12 %  12034 images/s  1:23 left");
  for (int width = 1; width < 160; ++width) EXPECT_LE(StageLine(stage, width, 120).size(), static_cast<size_t>(width));
  EXPECT_THAT(StageLine(stage, 79, 120), AllOf(StartsWith("W4A32   4/32 bit  epoch 2/4  loss"), Not(HasSubstr("["))));
}

TEST(StageLineTest, AGuidedPairShowsBothAccuracies) {
  v1::Job job = DemoJob();
  v1::Stage& stage = *job.mutable_stages(1);
  EXPECT_THAT(ResultTable(job), Not(HasSubstr("teacher")));
  stage.mutable_spec()->mutable_guided();
  stage.mutable_progress()->mutable_teacher()->set_train_top1(88.5);
  stage.mutable_epochs(0)->mutable_teacher()->set_test_top1(91.75);
  EXPECT_THAT(StageLine(stage, 160, -1), HasSubstr("top-1 86.12 %  teacher 88.50 %  12034 images/s"));
  EXPECT_THAT(ResultTable(job), AllOf(HasSubstr("top-1  teacher  drop"), HasSubstr("90.25 %  91.75 %")));
}

TEST(ResultTableTest, FurtherStudentsOfADistillationHaveLinesOfTheirOwn) {
  v1::Job job = DemoJob();
  v1::Stage& stage = *job.mutable_stages(1);
  stage.mutable_spec()->mutable_distillation();
  v1::StudentResult& student = *stage.mutable_epochs(0)->add_students();
  student.set_name("W2A32");
  student.set_test_top1(85.5);
  EXPECT_THAT(ResultTable(job), AllOf(HasSubstr("teacher"), HasSubstr("  W2A32"), HasSubstr("85.50 %           6.00")));
}

TEST(StageLineTest, NamesThePhaseWhereThereIsNoTraining) {
  v1::Stage stage = DemoJob().stages(1);
  stage.mutable_progress()->set_phase("evaluate");
  EXPECT_THAT(StageLine(stage, 120, -1), AllOf(HasSubstr("evaluate"), HasSubstr("top-1 90.25 %"), Not(HasSubstr("loss"))));
  stage.mutable_progress()->Clear();
  stage.mutable_progress()->set_phase("load");
  EXPECT_EQ(StageLine(stage, 120, -1), "W4A32   4/32 bit  load");
  stage.clear_progress();
  EXPECT_EQ(StageLine(stage, 120, -1), "W4A32   4/32 bit  starting");
  stage.mutable_progress()->set_phase("\x1b[2J");
  EXPECT_FALSE(HasControl(StageLine(stage, 120, -1)));
}

TEST(StageLineTest, StrangeNumbersDoNoHarm) {
  v1::Stage stage = DemoJob().stages(1);
  stage.mutable_progress()->set_epoch(-5);
  stage.mutable_progress()->set_step(1'000'000'000'000);
  stage.mutable_progress()->set_seconds_left(1e300);
  EXPECT_LE(StageLine(stage, 100, 1e300).size(), 100U);
  stage.mutable_progress()->set_epochs(0);
  EXPECT_LE(StageLine(stage, 100, -1).size(), 100U);
}

TEST(JobSecondsLeftTest, AddsTheStagesToComeAtTheLastPace) {
  v1::Job job = DemoJob();
  EXPECT_DOUBLE_EQ(JobSecondsLeft(job), 83 + 3 * 12);
  job.mutable_stages(0)->clear_epochs();
  job.mutable_stages(1)->clear_epochs();
  // 83 s are left of the 2.5 epochs that remain of stage two.
  EXPECT_NEAR(JobSecondsLeft(job), 83 + 3 * 83 / 2.5, 1e-9);
  job.mutable_stages(1)->clear_progress();
  EXPECT_LT(JobSecondsLeft(job), 0);
}

TEST(ProgressTest, ALiveLineThatANarrowTerminalHasBrokenGoesWhole) {
  Progress progress({/*terminal=*/true, /*color=*/false, /*width=*/120});
  const v1::Job job = DemoJob();
  const std::string drawn = progress.OnChange(Change(job));
  ASSERT_GT(drawn.size(), 100U);
  progress.SetWidth(60);
  EXPECT_THAT(progress.OnChange(ProgressOf(job.stages(1))), StartsWith("\r\x1b[2K\x1b[1A\x1b[2KW4A32"));
  EXPECT_EQ(progress.Finish(), "\r\x1b[2K");
}

TEST(ResultTableTest, OneRowPerStage) {
  EXPECT_EQ(ResultTable(DemoJob()),
            "stage   bits W/A  epochs    top-1  drop  seconds  checkpoint\n"
            "W32A32     32/32       2  91.50 %  0.00     20.5  aaaaaaaaaaaa\n"
            "W4A32       4/32     1/4  90.25 %  1.25     15.0  -\n"
            "W4A4         4/4     0/3        -     -      0.0  -\n");
}

TEST(ProgressTest, PlainLinesOffATerminal) {
  Progress progress(ProgressStyle{});
  v1::Job job = DemoJob();
  std::string seen = progress.OnChange(Change(job));
  EXPECT_EQ(seen,
            "W32A32: done  2 epochs  top-1 91.50 %  20.5 s  checkpoint aaaaaaaaaaaa\n"
            "W4A32: attempt 1 runs, 2 ranks, 4 epochs\n")
      << "epochs from before this watch are not told again";
  EXPECT_EQ(progress.OnChange(ProgressOf(job.stages(1))), "");
  EXPECT_EQ(progress.OnChange(Change(job)), "") << "nothing new, nothing said";

  AddEpoch(job.mutable_stages(1), 90.75, 11.96);
  seen = progress.OnChange(Change(job));
  EXPECT_EQ(seen, "W4A32: epoch 2/4  loss 0.5000  top-1 90.75 %  train 88.75 %  6000 images/s  12.0 s\n");
  AddEpoch(job.mutable_stages(1), 90.75, 11.96);
  job.mutable_stages(1)->mutable_epochs(2)->set_skipped_images(3);
  EXPECT_THAT(progress.OnChange(Change(job)), ::testing::HasSubstr("12.0 s  3 unreadable images skipped\n"));

  job.mutable_stages(1)->set_generation(2);
  job.mutable_stages(1)->set_attempts(2);
  job.mutable_stages(1)->set_resumed_epoch(2);
  job.mutable_stages(1)->set_resumed_step(10);
  EXPECT_EQ(progress.OnChange(Change(job)), "W4A32: attempt 2 runs from epoch 3, step 10, 2 ranks, 4 epochs\n");

  job.mutable_stages(2)->set_state(v1::STAGE_STATE_PENDING);
  job.mutable_stages(2)->set_reason("waits for 2 slots; 1 of 2 is free");
  job.mutable_stages(1)->set_state(v1::STAGE_STATE_FAILED);
  seen = progress.OnChange(Change(job));
  EXPECT_EQ(seen, "W4A32: failed after 2 attempts\nW4A4: waits for 2 slots; 1 of 2 is free\n");
  EXPECT_EQ(progress.Finish(), "");
}

TEST(ProgressTest, TellsOfFailedAttemptsWithoutTheirControlCharacters) {
  Progress progress(ProgressStyle{});
  v1::WatchJobResponse change;
  change.mutable_event()->set_type("AttemptFailed");
  change.mutable_event()->set_stage("jobs/demo-1/stages/W4A4");
  change.mutable_event()->set_message("generation 1: rank 0 was killed by signal 9\nlast line \x1b[31mred");
  EXPECT_EQ(progress.OnChange(change), "W4A4: generation 1: rank 0 was killed by signal 9\nlast line ?[31mred\n");
  change.mutable_event()->set_type("CheckpointCommitted");
  EXPECT_EQ(progress.OnChange(change), "");
}

TEST(ProgressTest, WaitingJobsTellWhyOnce) {
  Progress progress(ProgressStyle{});
  v1::Job job;
  job.set_name("jobs/demo-1");
  job.set_state(v1::JOB_STATE_RESOLVING);
  job.set_reason("no worker offers \"x\"");
  EXPECT_EQ(progress.OnChange(Change(job)), "demo-1: no worker offers \"x\"\n");
  EXPECT_EQ(progress.OnChange(Change(job)), "");
}

TEST(ProgressTest, OneLiveLinePerRunningStageOnATerminal) {
  Progress progress(ProgressStyle{.terminal = true, .color = false, .width = 100});
  v1::Job job = DemoJob();
  std::string seen = progress.OnChange(Change(job));
  EXPECT_THAT(seen, HasSubstr("W32A32: done"));
  EXPECT_EQ(std::count(seen.begin(), seen.end(), '\n'), 1) << "the live line stays open";
  job.mutable_stages(1)->mutable_progress()->set_step(60);
  seen = progress.OnChange(ProgressOf(job.stages(1)));
  EXPECT_THAT(seen, StartsWith("\r\x1b[2KW4A32")) << "redrawn in place";
  EXPECT_THAT(seen, Not(HasSubstr("\n")));

  job.mutable_stages(2)->set_state(v1::STAGE_STATE_RUNNING);
  seen = progress.OnChange(Change(job));
  EXPECT_EQ(std::count(seen.begin(), seen.end(), '\n'), 1);
  EXPECT_THAT(progress.Note("hello"), AllOf(StartsWith("\r\x1b[2K\x1b[1A\x1b[2Khello\n"), HasSubstr("W4A4")));

  job.set_state(v1::JOB_STATE_CANCELLED);
  seen = progress.OnChange(Change(job));
  EXPECT_EQ(seen, "\r\x1b[2K\x1b[1A\x1b[2K");
  EXPECT_EQ(progress.Finish(), "");
}

TEST(ProgressTest, ColorOnlyWhereAskedFor) {
  Progress plain(ProgressStyle{.terminal = true, .color = false, .width = 100});
  EXPECT_THAT(plain.OnChange(Change(DemoJob())), Not(HasSubstr("\x1b[1m")));
  Progress colored(ProgressStyle{.terminal = true, .color = true, .width = 100});
  EXPECT_THAT(colored.OnChange(Change(DemoJob())), HasSubstr("\x1b[1mW4A32\x1b[0m"));
}

}  // namespace
}  // namespace bitstair::client
