#include "server/stream_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;

class StreamWriterTest : public ::testing::Test {
 protected:
  StreamWriter<std::string> writer_{3, [this](const std::string* message) { written_.push_back(*message); },
                                    [this](absl::Status status) { finished_.push_back(std::move(status)); }};
  std::vector<std::string> written_;
  std::vector<absl::Status> finished_;
};

TEST_F(StreamWriterTest, OneWriteIsInFlight) {
  writer_.Send("a");
  writer_.Send("b");
  EXPECT_THAT(written_, ElementsAre("a"));
  writer_.WriteDone(true);
  EXPECT_THAT(written_, ElementsAre("a", "b"));
}

TEST_F(StreamWriterTest, ATopicsNewestMessageReplacesTheWaitingOne) {
  writer_.Send("a");
  writer_.Send("p1", "progress");
  writer_.Send("event");
  writer_.Send("p2", "progress");
  for (int i = 0; i < 3; ++i) writer_.WriteDone(true);
  EXPECT_THAT(written_, ElementsAre("a", "p2", "event"));
}

TEST_F(StreamWriterTest, CloseComesAfterWhatWasSent) {
  writer_.Send("a");
  writer_.Send("b");
  writer_.Close(absl::OkStatus());
  writer_.Send("too late");
  EXPECT_TRUE(finished_.empty());
  writer_.WriteDone(true);
  writer_.WriteDone(true);
  EXPECT_THAT(written_, ElementsAre("a", "b"));
  EXPECT_THAT(finished_, ElementsAre(absl::OkStatus()));
  writer_.Close(absl::InternalError("again"));
  EXPECT_EQ(finished_.size(), 1u);
}

TEST_F(StreamWriterTest, ASlowReaderLosesItsStreamNotItsEvents) {
  for (const char* message : {"a", "b", "c", "d", "e"}) writer_.Send(message);
  writer_.WriteDone(true);
  ASSERT_EQ(finished_.size(), 1u);
  EXPECT_EQ(finished_[0].code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(StreamWriterTest, AFailedWriteEndsTheStream) {
  writer_.Send("a");
  writer_.Send("b");
  writer_.WriteDone(false);
  EXPECT_THAT(written_, ElementsAre("a"));
  EXPECT_EQ(finished_.size(), 1u);
}

}  // namespace
}  // namespace bitstair::server
