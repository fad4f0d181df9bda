#include "worker/outbox.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace bitstair::worker {
namespace {

using std::chrono::seconds;

class OutboxTest : public testing::Test {
 protected:
  static v1::AttemptId Id(const std::string& stage, int generation = 1) {
    v1::AttemptId id;
    id.set_stage(stage);
    id.set_generation(generation);
    return id;
  }
  static v1::WorkerMessage Exited(const std::string& stage, int rank) {
    v1::WorkerMessage message;
    *message.mutable_rank_exited()->mutable_attempt() = Id(stage);
    message.mutable_rank_exited()->set_rank(rank);
    return message;
  }
  static v1::WorkerMessage Epoch(const std::string& stage, int epoch) {
    v1::WorkerMessage message;
    *message.mutable_epoch_done()->mutable_attempt() = Id(stage);
    message.mutable_epoch_done()->mutable_result()->set_epoch(epoch);
    return message;
  }
  static v1::WorkerMessage Running(const std::string& stage) {
    v1::WorkerMessage message;
    *message.mutable_rank_running()->mutable_attempt() = Id(stage);
    return message;
  }
  static v1::WorkerMessage Uploaded(const std::string& stage, const std::string& sha256) {
    v1::WorkerMessage message;
    *message.mutable_checkpoint_uploaded()->mutable_attempt() = Id(stage);
    message.mutable_checkpoint_uploaded()->mutable_checkpoint()->set_sha256(sha256);
    return message;
  }
  // What would be sent now, in short.
  std::string Drain() {
    std::string text;
    while (const auto message = outbox_.Next(now_)) {
      switch (message->kind_case()) {
        case v1::WorkerMessage::kHeartbeat:
          text += "beat ";
          break;
        case v1::WorkerMessage::kRankRunning:
          text += "running ";
          break;
        case v1::WorkerMessage::kEpochDone:
          text += "epoch" + std::to_string(message->epoch_done().result().epoch()) + " ";
          break;
        case v1::WorkerMessage::kCheckpointUploaded:
          text += message->checkpoint_uploaded().checkpoint().sha256() + " ";
          break;
        case v1::WorkerMessage::kRankExited:
          text += "exit" + std::to_string(message->rank_exited().rank()) + " ";
          break;
        case v1::WorkerMessage::kProgress:
          text += "step" + std::to_string(message->progress().progress().step()) + " ";
          break;
        case v1::WorkerMessage::kLog:
          text += "log" + std::to_string(message->log().offset()) + ":" + message->log().text().substr(0, 5) + " ";
          break;
        default:
          text += "? ";
      }
    }
    return text;
  }

  Outbox outbox_;
  Outbox::TimePoint now_ = Outbox::TimePoint() + seconds(1000);
};

TEST_F(OutboxTest, EventsAreSentInOrderAndAgainAfterAReconnect) {
  outbox_.PushEvent(Running("a"));
  outbox_.PushEvent(Epoch("a", 1));
  outbox_.PushEvent(Exited("a", 0));
  EXPECT_EQ(Drain(), "running epoch1 exit0 ");
  EXPECT_EQ(Drain(), "");
  outbox_.OnDisconnected();
  outbox_.PushEvent(Exited("a", 1));
  EXPECT_EQ(Drain(), "running epoch1 exit0 exit1 ");
}

TEST_F(OutboxTest, ProgressIsOnlyTheNewest) {
  v1::StageProgress progress;
  for (int step = 1; step <= 3; ++step) {
    progress.set_step(step);
    outbox_.SetProgress(Id("a"), progress);
  }
  EXPECT_EQ(Drain(), "step3 ");
}

TEST_F(OutboxTest, MessagesForOneConnectionDieWithIt) {
  v1::WorkerMessage beat;
  beat.mutable_heartbeat();
  outbox_.PushOnce(beat);
  outbox_.OnDisconnected();
  EXPECT_EQ(Drain(), "");
  outbox_.PushOnce(beat);
  EXPECT_EQ(Drain(), "beat ");
}

TEST_F(OutboxTest, ACheckpointIsKeptUntilItIsCommitted) {
  outbox_.PushEvent(Uploaded("a", "aaa"));
  outbox_.PushEvent(Uploaded("a", "bbb"));
  EXPECT_EQ(Drain(), "aaa bbb ");
  EXPECT_FALSE(outbox_.Flushed());
  outbox_.CheckpointCommitted({"a", 1}, "aaa");
  outbox_.Expire(now_ + seconds(100));
  outbox_.OnDisconnected();
  EXPECT_EQ(Drain(), "bbb ");
  outbox_.CheckpointCommitted({"a", 2}, "bbb");
  EXPECT_FALSE(outbox_.Flushed()) << "that was another generation";
  outbox_.CheckpointCommitted({"a", 1}, "bbb");
  EXPECT_TRUE(outbox_.Flushed());
}

TEST_F(OutboxTest, SentEventsAgeOutButALiveAttemptStaysKnown) {
  outbox_.PushEvent(Running("a"));
  outbox_.PushEvent(Epoch("a", 1));
  Drain();
  outbox_.PushEvent(Epoch("a", 2));
  outbox_.Expire(now_ + seconds(1));
  outbox_.OnDisconnected();
  EXPECT_EQ(Drain(), "running epoch2 ");
  outbox_.PushEvent(Exited("a", 0));
  Drain();
  outbox_.AttemptEnded({"a", 1});
  EXPECT_FALSE(outbox_.Done({"a", 1}));
  outbox_.Expire(now_);
  EXPECT_FALSE(outbox_.Done({"a", 1})) << "not old enough";
  outbox_.Expire(now_ + seconds(1));
  EXPECT_TRUE(outbox_.Done({"a", 1}));
}

TEST_F(OutboxTest, ARanksEndComesAfterItsLogAndLogsAreSentInPieces) {
  const std::string path = testing::TempDir() + "outbox-" + std::to_string(getpid()) + ".log";
  std::ofstream(path) << std::string(70'000, 'x') << "tail";
  outbox_.LogGrew(Id("a"), 0, path, 70'004);
  outbox_.PushEvent(Exited("a", 0));
  EXPECT_EQ(Drain(), "log0:xxxxx log65536:xxxxx exit0 ");
  EXPECT_TRUE(outbox_.Flushed());
  outbox_.OnDisconnected();
  EXPECT_EQ(Drain(), "log0:xxxxx log65536:xxxxx exit0 ") << "the newest part is told again";
  std::filesystem::remove(path);
}

TEST_F(OutboxTest, AMissingLogHoldsUpNothing) {
  outbox_.LogGrew(Id("a"), 0, "/nonexistent/log", 10);
  outbox_.PushEvent(Exited("a", 0));
  EXPECT_EQ(Drain(), "exit0 ");
  EXPECT_TRUE(outbox_.Flushed());
}

TEST_F(OutboxTest, AttemptsTakeTurns) {
  for (int i = 0; i < 2; ++i) {
    outbox_.PushEvent(Exited("a", i));
    outbox_.PushEvent(Exited("b", 10 + i));
  }
  EXPECT_EQ(Drain(), "exit0 exit10 exit1 exit11 ");
}

}  // namespace
}  // namespace bitstair::worker
