// Times on the wire and on disk.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include "absl/time/time.h"

namespace bitstair {

absl::Time FromStamp(const google::protobuf::Timestamp& stamp);
// Times after the year 2262 become that year's.
void SetTime(absl::Time time, google::protobuf::Timestamp* stamp);

}  // namespace bitstair
