#include "proto/timestamp.h"

namespace bitstair {

absl::Time FromStamp(const google::protobuf::Timestamp& stamp) {
  return absl::FromUnixNanos(stamp.seconds() * 1'000'000'000 + stamp.nanos());
}

void SetTime(absl::Time time, google::protobuf::Timestamp* stamp) {
  const int64_t nanos = absl::ToUnixNanos(time);
  stamp->set_seconds(nanos / 1'000'000'000);
  stamp->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

}  // namespace bitstair
