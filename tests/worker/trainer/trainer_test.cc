// What a trainer does with any stage.
#include "worker/trainer/trainer.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/safetensors.h"
#include "tests/worker/trainer/trainer_gang.h"

namespace bitstair::trainer {
namespace {

using ::testing::HasSubstr;

TEST_F(TrainerTest, OneRankTrainsAStageToItsEnd) {
  const Outcome outcome = Run(Start(1));
  const v1::TrainerCheckpoint final = Final(outcome);
  EXPECT_EQ(core::Sha256OfFile(final.path())->sha256, final.checkpoint().sha256());
  EXPECT_EQ(core::Sha256OfFile(final.path())->size_bytes, final.checkpoint().size_bytes());
  EXPECT_EQ(final.checkpoint().epoch(), 2);
  EXPECT_EQ(final.checkpoint().generation(), 1);
  ASSERT_EQ(outcome.checkpoints.size(), 2u);
  EXPECT_FALSE(outcome.checkpoints[0].checkpoint().final());
  EXPECT_EQ(outcome.checkpoints[0].checkpoint().epoch(), 1);
  ASSERT_EQ(outcome.epochs.size(), 2u);
  EXPECT_EQ(outcome.epochs[1].epoch(), 2);
  EXPECT_LT(outcome.epochs[1].train_loss(), outcome.epochs[0].train_loss());
  EXPECT_GT(outcome.epochs[1].images_per_second(), 0);
  EXPECT_THAT(outcome.phases, ::testing::IsSupersetOf({std::string("load"), std::string("train"), std::string("evaluate"), std::string("checkpoint")}));
  EXPECT_EQ(outcome.all_reduce_bytes, 0);

  const absl::StatusOr<core::Checkpoint> checkpoint = core::LoadCheckpoint(final.path(), final.checkpoint().sha256());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->final);
  EXPECT_EQ(checkpoint->stage_name, "W4A4");
}

TEST_F(TrainerTest, CheckpointsChangeNothing) {
  v1::StartTrainer start = Start(2);
  const Outcome each_epoch = Run(start);
  const std::string want = Final(each_epoch).checkpoint().sha256();
  EXPECT_EQ(LastDigest(each_epoch.logs[0]), LastDigest(each_epoch.logs[1]));
  EXPECT_EQ(LastDigest(each_epoch.logs[0]).size(), 64u);
  EXPECT_GT(each_epoch.all_reduce_bytes, 0);
  for (const int every : {0, 1, 7}) {
    start.mutable_spec()->mutable_checkpoint()->set_every_epoch(every != 0);
    start.mutable_spec()->mutable_checkpoint()->set_every_steps(every);
    const Outcome outcome = Run(start);
    EXPECT_EQ(Final(outcome).checkpoint().sha256(), want) << every;
    EXPECT_EQ(outcome.checkpoints.size(), every == 0 ? 1u : every == 1 ? 2u * kSteps : 3u);
  }
}

TEST_F(TrainerTest, AStoppedGangResumesBitForBit) {
  v1::StartTrainer start = Start(2);
  const Outcome undisturbed = Run(start);
  const std::string want = Final(undisturbed).checkpoint().sha256();

  // One rank alone is asked, while steps are being done: all stop after the same step.
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const Outcome stopped = Run(start, [](Gang& gang, const v1::FromTrainer& message) {
    v1::ToTrainer stop;
    stop.mutable_stop();
    if (message.has_checkpoint() && message.checkpoint().checkpoint().step() == 2) gang[1]->Send(stop);
  });
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(stopped.results[rank].cause(), v1::EXIT_CAUSE_STOPPED) << Problems(stopped);
    EXPECT_EQ(stopped.exits[rank], 0);
  }
  ASSERT_FALSE(stopped.checkpoints.empty());
  const v1::TrainerCheckpoint last = stopped.checkpoints.back();
  EXPECT_FALSE(last.checkpoint().final());
  EXPECT_GT(last.checkpoint().step(), 2);

  start.set_resume_path(last.path());
  start.mutable_attempt()->set_generation(2);
  const Outcome resumed = Run(start);
  EXPECT_EQ(Final(resumed).checkpoint().sha256(), want);
  // Also what is reported of the epoch that was cut in two.
  EXPECT_EQ(resumed.epochs.front().train_loss(), undisturbed.epochs[2 - resumed.epochs.size()].train_loss());
  EXPECT_EQ(resumed.epochs.back().test_loss(), undisturbed.epochs.back().test_loss());

  // From its own final checkpoint there is nothing left to do but say so.
  start.set_resume_path(Final(resumed).path());
  EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), want);
}

TEST_F(TrainerTest, AKilledRankEndsItsGangAndTheNextGenerationGoesOn) {
  if (Gpus() > 0) GTEST_SKIP() << "NCCL waits for a lost peer until the worker ends the gang; test_gpu.py has one";
  v1::StartTrainer start = Start(2);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const std::string want = Final(Run(start)).checkpoint().sha256();
  const auto begin = Clock::now();
  const Outcome broken = Run(start, nullptr, "W4A4:1:9:1");
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
  EXPECT_EQ(broken.exits[1], -SIGKILL);
  EXPECT_EQ(broken.results[0].cause(), v1::EXIT_CAUSE_PEER_LOST) << Problems(broken);
  EXPECT_EQ(broken.exits[0], 1);
  EXPECT_THAT(broken.results[0].message(), HasSubstr("stage W4A4 epoch 2 step 3"));
  start.set_resume_path(broken.checkpoints.back().path());
  start.mutable_attempt()->set_generation(2);
  EXPECT_EQ(broken.checkpoints.back().checkpoint().step(), 2);
  EXPECT_EQ(Final(Run(start, nullptr, "W4A4:1:9:1")).checkpoint().sha256(), want) << "the crash is wished for in generation 1 only";
}

TEST_F(TrainerTest, AChainOfStagesFromReluToFourBits) {
  v1::StartTrainer start = Start(2, 32, 32);
  start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU);
  std::string parent = Final(Run(start)).path();
  for (const int activation_bits : {32, 4}) {
    start = Start(2, 4, activation_bits);
    start.mutable_spec()->set_parent("parent");
    start.mutable_spec()->set_calibration(activation_bits == 32 ? v1::ACTIVATION_CALIBRATION_PERCENTILE : v1::ACTIVATION_CALIBRATION_NONE);
    start.mutable_spec()->set_carry_momentum(activation_bits == 4);
    start.set_parent_path(parent);
    const Outcome outcome = Run(start);
    parent = Final(outcome).path();
    EXPECT_GT(outcome.epochs.back().test_top1(), 30) << "ten classes that a line tells apart";
  }
}

TEST_F(TrainerTest, BadDataIsNamed) {
  std::filesystem::resize_file(folder_ + "/data/t10k-images-idx3-ubyte", 1000);
  const Outcome outcome = Run(Start(1));
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("t10k-images-idx3-ubyte: byte "));
  EXPECT_EQ(outcome.exits[0], 1);
}

TEST_F(TrainerTest, BadCheckpointsAreNamed) {
  v1::StartTrainer start = Start(1);
  std::ofstream(folder_ + "/broken.safetensors") << "nonsense";
  start.set_resume_path(folder_ + "/broken.safetensors");
  Outcome outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("broken.safetensors: byte 0"));

  // A checkpoint of another stage, and one that lacks a tensor.
  core::Checkpoint other;
  other.stage_key = "other";
  other.stage_name = "W2A2";
  other.network = "convnet28";
  other.final = true;
  start.set_resume_path(core::SaveCheckpoint(folder_, other, "cpu")->path);
  outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("the checkpoint is of stage W2A2"));
  start.set_parent_path(start.resume_path());
  start.clear_resume_path();
  outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("is missing"));
}

TEST_F(TrainerTest, ALossThatIsNotFiniteFailsAllRanksAtTheStep) {
  v1::StartTrainer start = Start(2, 32, 32);
  start.mutable_spec()->set_learning_rate(1e30);
  const Outcome outcome = Run(start);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(outcome.results[rank].cause(), v1::EXIT_CAUSE_FAILED) << Problems(outcome);
    EXPECT_THAT(outcome.results[rank].message(), HasSubstr("stage W32A32 epoch 1 step "));
    EXPECT_EQ(outcome.exits[rank], 1);
  }
}

TEST_F(TrainerTest, StartMessagesThatMakeNoSenseFail) {
  for (const auto& spoil : std::vector<std::function<void(v1::StartTrainer&)>>{
           [](v1::StartTrainer& s) { s.mutable_spec()->set_weight_bits(9); }, [](v1::StartTrainer& s) { s.mutable_spec()->set_network("alexnet"); },
           [](v1::StartTrainer& s) { s.mutable_spec()->set_epochs(0); },
           [](v1::StartTrainer& s) { s.mutable_slot()->set_kind(v1::SLOT_KIND_GPU), s.mutable_slot()->set_index(99); }}) {
    v1::StartTrainer start = Start(1);
    spoil(start);
    const Outcome outcome = Run(start);
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_FAILED);
    EXPECT_NE(outcome.results[0].message(), "");
    EXPECT_EQ(outcome.exits[0], 1);
  }
}

TEST_F(TrainerTest, LeavesWithinASecondOfItsWorker) {
  v1::StartTrainer start = Start(1);
  start.mutable_spec()->set_epochs(1000);
  start.mutable_spec()->set_schedule_epochs(1000);
  for (const bool garbage : {false, true}) {
    Process process(folder_ + "/log");
    v1::ToTrainer message;
    *message.mutable_start() = start;
    process.Send(message);
    std::vector<v1::FromTrainer> messages;
    const auto trains = [&] { return std::any_of(messages.begin(), messages.end(), [](const v1::FromTrainer& m) { return m.has_progress(); }); };
    for (const auto end = Clock::now() + kDeadline; !trains() && Clock::now() < end;) ASSERT_TRUE(process.Read(std::chrono::milliseconds(50), &messages));
    ASSERT_TRUE(trains());
    const auto closed = Clock::now();
    if (garbage) {
      process.SendBytes(std::string(64, '\xff'));
    } else {
      process.CloseSocket();
    }
    EXPECT_EQ(process.Wait(), kExitWorkerGone) << process.Log();
    EXPECT_LT(Clock::now() - closed, std::chrono::milliseconds(1500));
  }
}

TEST_F(TrainerTest, AStopBeforeTheStartIsObeyed) {
  Process process(folder_ + "/log");
  v1::ToTrainer stop;
  stop.mutable_stop();
  process.Send(stop);
  EXPECT_EQ(process.Wait(), 0) << process.Log();
}

}  // namespace
}  // namespace bitstair::trainer
