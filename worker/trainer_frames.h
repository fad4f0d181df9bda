// Messages between a worker and its trainers on the wire: 4 bytes length (little endian), then that many bytes of a protobuf message
// (proto/bitstair/v1/trainer.proto).
#pragma once

#include <cstdint>
#include <string>

#include <google/protobuf/message_lite.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::worker {

inline constexpr uint32_t kMaxTrainerFrameBytes = 16u << 20;

// The frame of one message, ready to be written. A message longer than kMaxTrainerFrameBytes is a broken invariant (ours are small): it aborts.
std::string EncodeTrainerFrame(const google::protobuf::MessageLite& message);

// Cuts a stream of bytes into messages. Not thread-safe.
//   decoder.Append(bytes from the socket);
//   while (true) { auto more = decoder.Next(&message); if (!more.ok()) hang up; if (!*more) break; use message; }
class TrainerFrameDecoder {
 public:
  void Append(absl::string_view bytes);

  // True: *message holds the next message. False: more bytes are needed. INVALID_ARGUMENT: the length is over the limit or the bytes are no such message;
  // the stream cannot be read on, and every later call gives the same error.
  absl::StatusOr<bool> Next(google::protobuf::MessageLite* message);

 private:
  std::string buffer_;
  size_t begin_ = 0;  // of the bytes not used yet
  absl::Status failed_;
};

}  // namespace bitstair::worker
