#include "worker/trainer_frames.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace bitstair::worker {
namespace {

constexpr size_t kHeaderBytes = 4;

}  // namespace

std::string EncodeTrainerFrame(const google::protobuf::MessageLite& message) {
  const std::string body = message.SerializeAsString();
  if (body.size() > kMaxTrainerFrameBytes) {
    std::fprintf(stderr, "a %s of %zu bytes is longer than a frame may be\n", message.GetTypeName().c_str(), body.size());
    std::abort();
  }
  std::string frame;
  frame.reserve(kHeaderBytes + body.size());
  for (size_t i = 0; i < kHeaderBytes; ++i) frame.push_back(static_cast<char>((body.size() >> (8 * i)) & 0xff));
  return frame + body;
}

void TrainerFrameDecoder::Append(absl::string_view bytes) {
  if (!failed_.ok()) return;
  buffer_.erase(0, begin_);
  begin_ = 0;
  buffer_.append(bytes.data(), bytes.size());
}

absl::StatusOr<bool> TrainerFrameDecoder::Next(google::protobuf::MessageLite* message) {
  if (!failed_.ok()) return failed_;
  const size_t held = buffer_.size() - begin_;
  if (held < kHeaderBytes) return false;
  uint32_t length = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) length |= uint32_t{static_cast<unsigned char>(buffer_[begin_ + i])} << (8 * i);
  if (length > kMaxTrainerFrameBytes) {
    failed_ = absl::InvalidArgumentError(absl::StrCat("trainer frame of ", length, " bytes is longer than ", kMaxTrainerFrameBytes));
    return failed_;
  }
  if (held < kHeaderBytes + length) return false;
  if (!message->ParseFromArray(buffer_.data() + begin_ + kHeaderBytes, static_cast<int>(length))) {
    failed_ = absl::InvalidArgumentError(absl::StrCat("trainer frame of ", length, " bytes is not a ", message->GetTypeName()));
    return failed_;
  }
  begin_ += kHeaderBytes + length;
  return true;
}

}  // namespace bitstair::worker
