#include "server/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace bitstair::server {
namespace {

using ::testing::HasSubstr;

v1::EpochResult Result(double top1, double top5 = 0) {
  v1::EpochResult result;
  result.set_test_top1(top1);
  result.set_test_top5(top5);
  result.set_test_loss(0.5);
  result.set_train_loss(0.25);
  return result;
}

TEST(GateTest, ReadsMetricDirectionAndBound) {
  const auto gate = ParseGate("top1_drop <= 1.5");
  ASSERT_TRUE(gate.ok()) << gate.status();
  EXPECT_EQ(gate->metric, "top1_drop");
  EXPECT_TRUE(gate->at_most);
  EXPECT_EQ(gate->bound, 1.5);
  EXPECT_FALSE(ParseGate("top1>=60")->at_most);
  EXPECT_TRUE(IsDrop(*gate));
  EXPECT_FALSE(IsDrop(*ParseGate("top1 >= 60")));
}

TEST(GateTest, SaysWhatIsWrong) {
  EXPECT_THAT(ParseGate("top2 <= 1").status().message(), HasSubstr("\"top2\" is no metric; known: test_loss, top1, top1_drop, top5, top5_drop, train_loss"));
  EXPECT_THAT(ParseGate("top1 < 1").status().message(), HasSubstr("has no <= or >="));
  EXPECT_THAT(ParseGate("top1 <= much").status().message(), HasSubstr("has no number"));
  EXPECT_THAT(ParseGate("top1 <= nan").status().message(), HasSubstr("has no number"));
  EXPECT_FALSE(ParseGate("").ok());
}

TEST(GateTest, TakesValuesFromTheRightPlaces) {
  const v1::EpochResult full = Result(61.7, 90), low = Result(60.5, 88);
  EXPECT_NEAR(*GateValue(*ParseGate("top1_drop <= 1"), low, &full), 1.2, 1e-9);
  EXPECT_NEAR(*GateValue(*ParseGate("top5_drop <= 1"), low, &full), 2, 1e-9);
  EXPECT_EQ(*GateValue(*ParseGate("top1 >= 1"), low, nullptr), 60.5);
  EXPECT_EQ(*GateValue(*ParseGate("test_loss <= 1"), low, nullptr), 0.5);
  EXPECT_EQ(*GateValue(*ParseGate("train_loss <= 1"), low, nullptr), 0.25);
  EXPECT_FALSE(GateValue(*ParseGate("top1_drop <= 1"), low, nullptr).has_value());
}

TEST(GateTest, ABoundItselfIsReachedAndNanIsNot) {
  const auto gate = *ParseGate("top1_drop <= 1");
  EXPECT_TRUE(IsReached(gate, 61.68 - 60.68));
  EXPECT_FALSE(IsReached(gate, 1.01));
  EXPECT_TRUE(IsReached(gate, -3));
  EXPECT_TRUE(IsReached(*ParseGate("top1 >= 60"), 60));
  EXPECT_FALSE(IsReached(*ParseGate("top1 >= 60"), 59.99));
  EXPECT_FALSE(IsReached(gate, std::numeric_limits<double>::quiet_NaN()));
}

}  // namespace
}  // namespace bitstair::server
