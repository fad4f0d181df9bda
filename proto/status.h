// Errors on the wire: absl::Status inside our programs, google.rpc.Status with details between them.
#pragma once

#include <string>
#include <vector>

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bitstair {

// One fault in the input, for google.rpc.BadRequest. `field` is a proto path such as "spec.widths[2]".
struct FieldViolation {
  std::string field;
  std::string description;
};

// An INVALID_ARGUMENT status that carries the violations; its message lists them all.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);

// The violations that InvalidFields (or FromGrpc) attached; empty for other errors.
std::vector<FieldViolation> GetFieldViolations(const absl::Status& status);

// Attaches the reason of google.rpc.ErrorInfo: UPPER_SNAKE_CASE, stable for programs, such as "JOB_ENDED".
absl::Status WithReason(absl::Status status, absl::string_view reason);

// The reason attached by WithReason or received from a peer; empty if there is none.
std::string GetReason(const absl::Status& status);

// Out: code and message as they are, ErrorInfo (domain "bitstair.dev"; the code's name where no reason was given) and BadRequest in the details.
grpc::Status ToGrpc(const absl::Status& status);

// In: the reverse of ToGrpc.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace bitstair
