#include "worker/trainer_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

extern char** environ;

namespace bitstair::worker {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

class TrainerProcessTest : public testing::Test {
 protected:
  TrainerProcessTest() {
    std::string pattern = testing::TempDir() + "bitstair-trainer-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    command_.program = FAKE_TRAINER;
    command_.log_path = folder_ + "/log";
    for (char** entry = environ; *entry != nullptr; ++entry) command_.environment.push_back(*entry);
    command_.environment.push_back("OMP_NUM_THREADS=1");
  }
  ~TrainerProcessTest() override { std::filesystem::remove_all(folder_); }

  void Start(const std::string& behaviour) {
    TrainerProcess::Callbacks callbacks;
    callbacks.on_message = [this](const v1::FromTrainer& message) {
      messages_.push_back(message);
      if (message.has_running() && on_running_) on_running_();
    };
    callbacks.on_exit = [this](const TrainerExit& exit) { exit_ = exit; };
    auto process = TrainerProcess::Start(io_, command_, callbacks);
    ASSERT_TRUE(process.ok()) << process.status();
    process_ = *process;
    v1::ToTrainer message;
    v1::StartTrainer& start = *message.mutable_start();
    start.mutable_attempt()->set_stage("jobs/j/stages/s");
    start.mutable_spec()->set_name(behaviour);
    start.set_world_size(1);
    start.set_data_address("127.0.0.1");
    start.set_checkpoint_dir(folder_);
    process_->Send(message);
  }
  // Runs the loop until the exit is told.
  TrainerExit Finish() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!exit_.has_value() && std::chrono::steady_clock::now() < deadline) io_.run_one_for(milliseconds(100));
    if (!exit_.has_value()) ADD_FAILURE() << "the trainer did not end";
    return exit_.value_or(TrainerExit{});
  }
  std::string Log() {
    std::stringstream text;
    text << std::ifstream(folder_ + "/log").rdbuf();
    return text.str();
  }

  std::string folder_;
  TrainerCommand command_;
  boost::asio::io_context io_;
  std::vector<v1::FromTrainer> messages_;
  std::optional<TrainerExit> exit_;
  std::function<void()> on_running_;
  std::shared_ptr<TrainerProcess> process_;
};

TEST_F(TrainerProcessTest, RelaysMessagesInOrderAndTheResult) {
  Start("finish");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_FINISHED) << exit.message;
  std::vector<int> kinds;
  for (const auto& message : messages_) kinds.push_back(message.kind_case());
  EXPECT_THAT(kinds, testing::ElementsAre(v1::FromTrainer::kPhase, v1::FromTrainer::kRendezvousReady, v1::FromTrainer::kPhase, v1::FromTrainer::kRunning,
                                          v1::FromTrainer::kProgress, v1::FromTrainer::kEpoch, v1::FromTrainer::kCheckpoint, v1::FromTrainer::kResult));
}

TEST_F(TrainerProcessTest, TheTrainerHasItsOwnGroupAndNoDescriptorOfTheWorker) {
  Start("finish");
  Finish();
  EXPECT_THAT(Log(), HasSubstr("own process group: 1"));
  EXPECT_THAT(Log(), testing::ContainsRegex("descriptors above 3: [0-9]+=/proc/[0-9]+/fd\\.|descriptors above 3:\\."));
}

TEST_F(TrainerProcessTest, ACrashIsToldWithSignalPhaseAndLastLines) {
  Start("crash");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_CRASHED);
  EXPECT_THAT(exit.message, HasSubstr("signal 6 (SIGABRT)"));
  EXPECT_THAT(exit.message, HasSubstr("phase \"train\""));
  EXPECT_THAT(exit.message, HasSubstr("line 11\n"));
  EXPECT_THAT(exit.message, HasSubstr("line 30"));
  EXPECT_THAT(exit.message, Not(HasSubstr("line 10\n")));
  EXPECT_THAT(Log(), HasSubstr("line 1\n"));
}

TEST_F(TrainerProcessTest, AnExitWithoutAResultIsACrash) {
  Start("exit3");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_CRASHED);
  EXPECT_THAT(exit.message, HasSubstr("exit status 3"));
}

TEST_F(TrainerProcessTest, APhaseThatTakesTooLongIsKilled) {
  Start("hang");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_STALLED);
  EXPECT_THAT(exit.message, HasSubstr("\"evaluate\" took longer than 0.3 s"));
}

// Its phase takes some 2.5 s: five processes share the processor.
TEST_F(TrainerProcessTest, TimeWithoutAProcessorDoesNotCount) {
  const auto begin = std::chrono::steady_clock::now();
  Start("starved");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_FINISHED) << exit.message;
  EXPECT_GT(std::chrono::steady_clock::now() - begin, milliseconds(1200)) << "nothing was tested";
}

// The kernel tells of a wait when it is over; this one is longer than the phase may take.
TEST_F(TrainerProcessTest, AWaitForAProcessorThatGoesOnDoesNotCount) {
  const auto begin = std::chrono::steady_clock::now();
  Start("idle_class");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_FINISHED) << exit.message;
  EXPECT_GT(std::chrono::steady_clock::now() - begin, milliseconds(1200)) << "nothing was tested";
}

TEST_F(TrainerProcessTest, SilenceIsKilled) {
  command_.timing.silence = milliseconds(700);
  Start("silent");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_STALLED);
  EXPECT_THAT(exit.message, HasSubstr("no sign of life for 0.7 s"));
}

TEST_F(TrainerProcessTest, AStopIsObeyed) {
  Start("wait");
  on_running_ = [this] { process_->RequestStop(); };
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(exit.message, "stopped at epoch 2");
}

TEST_F(TrainerProcessTest, AStopThatIsNotObeyedEndsWithAKill) {
  command_.timing.stop = milliseconds(500);
  Start("stubborn");
  on_running_ = [this] { process_->RequestStop(); };
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_STOPPED);
  EXPECT_THAT(exit.message, HasSubstr("did not stop within 0.5 s"));
}

TEST_F(TrainerProcessTest, BrokenFramingEndsTheTrainer) {
  Start("garbage");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_FAILED);
  EXPECT_THAT(exit.message, HasSubstr("cannot read what the trainer says"));
}

TEST_F(TrainerProcessTest, AReportedFaultIsPassedOnAsItIs) {
  Start("bad_data");
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_BAD_DATA);
  EXPECT_EQ(exit.message, "train-labels-idx1-ubyte: byte 12: label 11 is out of range");
}

TEST_F(TrainerProcessTest, WhoeverIsKilledFromOutsideCrashedEvenIfAKillFollows) {
  Start("wait");
  on_running_ = [this] {
    kill(static_cast<pid_t>(process_->pid()), SIGTERM);
    while (!process_->HasEnded()) usleep(1000);
    process_->Kill(v1::EXIT_CAUSE_PEER_LOST, "somebody else");
  };
  const TrainerExit exit = Finish();
  EXPECT_EQ(exit.cause, v1::EXIT_CAUSE_CRASHED);
  EXPECT_THAT(exit.message, HasSubstr("SIGTERM"));
}

TEST_F(TrainerProcessTest, WhatATrainerStartedDiesWithIt) {
  command_.arguments = {"--orphan"};
  Start("finish");
  const pid_t group = static_cast<pid_t>(process_->pid());
  EXPECT_EQ(Finish().cause, v1::EXIT_CAUSE_FINISHED);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  const auto lives = [group] {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "stat");
      std::string pid, name, state, parent, of;
      if (file >> pid >> name >> state >> parent >> of && of == std::to_string(group) && state != "Z" && state != "X") return true;
    }
    return false;
  };
  while (lives() && std::chrono::steady_clock::now() < deadline) usleep(10'000);
  EXPECT_FALSE(lives());
}

TEST_F(TrainerProcessTest, AProgramThatCannotBeStartedIsAnError) {
  command_.program = "/nonexistent/trainer";
  const auto process = TrainerProcess::Start(io_, command_, {});
  EXPECT_THAT(std::string(process.status().message()), HasSubstr("cannot start /nonexistent/trainer"));
  command_.program = FAKE_TRAINER;
  command_.log_path = "/nonexistent/log";
  EXPECT_THAT(std::string(TrainerProcess::Start(io_, command_, {}).status().message()), HasSubstr("/nonexistent/log"));
}

TEST_F(TrainerProcessTest, DroppingItKillsIt) {
  Start("wait");
  const pid_t pid = static_cast<pid_t>(process_->pid());
  process_->Abandon();
  process_.reset();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (kill(pid, 0) == 0 && std::chrono::steady_clock::now() < deadline) io_.run_one_for(milliseconds(50));
  EXPECT_NE(kill(pid, 0), 0);
  EXPECT_FALSE(exit_.has_value());
}

}  // namespace
}  // namespace bitstair::worker
