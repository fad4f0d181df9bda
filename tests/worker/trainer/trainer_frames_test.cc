#include "worker/trainer_frames.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bitstair/v1/trainer.pb.h"

namespace bitstair::worker {
namespace {

v1::FromTrainer Epoch(int number) {
  v1::FromTrainer message;
  message.mutable_epoch()->set_epoch(number);
  message.mutable_epoch()->set_train_loss(0.5);
  return message;
}

TEST(TrainerFramesTest, LengthIsLittleEndian) {
  v1::FromTrainer beat;
  beat.mutable_beat();
  EXPECT_EQ(EncodeTrainerFrame(beat), std::string("\x02\0\0\0", 4) + beat.SerializeAsString());
}

TEST(TrainerFramesTest, AnySplitGivesTheSameMessages) {
  const std::string stream = EncodeTrainerFrame(Epoch(1)) + EncodeTrainerFrame(Epoch(2)) + EncodeTrainerFrame(v1::FromTrainer()) + EncodeTrainerFrame(Epoch(3));
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    TrainerFrameDecoder decoder;
    std::vector<int> epochs;
    for (size_t at = 0; at < stream.size(); at += piece) {
      decoder.Append(absl::string_view(stream).substr(at, piece));
      v1::FromTrainer message;
      while (true) {
        const absl::StatusOr<bool> more = decoder.Next(&message);
        ASSERT_TRUE(more.ok());
        if (!*more) break;
        epochs.push_back(message.epoch().epoch());
      }
    }
    EXPECT_THAT(epochs, ::testing::ElementsAre(1, 2, 0, 3)) << piece;
  }
}

TEST(TrainerFramesTest, AnOversizeLengthIsRefusedBeforeItsBytesCome) {
  TrainerFrameDecoder decoder;
  decoder.Append(absl::string_view("\x01\0\0\x01", 4));  // 16 MiB + 1
  v1::FromTrainer message;
  EXPECT_EQ(decoder.Next(&message).status().code(), absl::StatusCode::kInvalidArgument);
  decoder.Append(EncodeTrainerFrame(Epoch(1)));
  EXPECT_EQ(decoder.Next(&message).status().code(), absl::StatusCode::kInvalidArgument) << "a broken stream stays broken";
}

TEST(TrainerFramesTest, GarbageIsRefused) {
  TrainerFrameDecoder decoder;
  decoder.Append(absl::string_view("\x03\0\0\0\xff\xff\xff", 7));
  v1::FromTrainer message;
  EXPECT_EQ(decoder.Next(&message).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TrainerFramesTest, AnUnfinishedFrameWaits) {
  TrainerFrameDecoder decoder;
  const std::string frame = EncodeTrainerFrame(Epoch(1));
  v1::FromTrainer message;
  for (size_t length = 0; length < frame.size(); ++length) {
    const absl::StatusOr<bool> more = decoder.Next(&message);
    ASSERT_TRUE(more.ok() && !*more);
    decoder.Append(frame.substr(length, 1));
  }
  EXPECT_TRUE(*decoder.Next(&message));
}

}  // namespace
}  // namespace bitstair::worker
