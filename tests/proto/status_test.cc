#include "proto/status.h"

#include <gtest/gtest.h>

namespace bitstair {
namespace {

TEST(StatusTest, FieldViolationsAndReasonSurviveTheWire) {
  const absl::Status sent = WithReason(InvalidFields({{"spec.widths[1]", "goes up"}, {"spec.ranks", "is 0"}}), "BAD_RECIPE");
  const absl::Status got = FromGrpc(ToGrpc(sent));
  EXPECT_EQ(got.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(got.message(), "spec.widths[1]: goes up; spec.ranks: is 0");
  EXPECT_EQ(GetReason(got), "BAD_RECIPE");
  const auto violations = GetFieldViolations(got);
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[0].field, "spec.widths[1]");
  EXPECT_EQ(violations[1].description, "is 0");
}

TEST(StatusTest, AnErrorWithoutReasonCarriesItsCodeAsReason) {
  EXPECT_EQ(GetReason(FromGrpc(ToGrpc(absl::NotFoundError("no job x")))), "NOT_FOUND");
}

TEST(StatusTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(StatusTest, GarbageInTheDetailsIsIgnored) {
  const absl::Status got = FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone", "\x01\xffgarbage"));
  EXPECT_EQ(got.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(GetReason(got).empty());
}

}  // namespace
}  // namespace bitstair
