#include "client/staircase.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/client/demo_job.h"

namespace bitstair::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

int Columns(const std::string& line) {
  return static_cast<int>(std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

v1::Job Chain(const std::vector<std::pair<int, double>>& widths) {
  v1::Job job;
  job.set_name("jobs/chain");
  for (const auto& [bits, top1] : widths) AddEpoch(AddStage(job, bits, bits, v1::STAGE_STATE_SUCCEEDED, 1), top1, 1);
  return job;
}

TEST(StaircaseTest, StepsGoDownAndUpWithTheAccuracy) {
  const v1::Job job = Chain({{32, 92}, {8, 90}, {4, 91}});
  EXPECT_THAT(Staircase(job, {30, 3, false}), ElementsAre("top-1 (%) by bits of weights/a",  //
                                                          "  92.00",                         //
                                                          "=========+          91.00",       //
                                                          "         | 90.00  +========",     //
                                                          "         +========+",             //
                                                          "---------------------------",     //
                                                          "  32/32     8/8      4/4"));
  const auto unicode = Staircase(job, {30, 3, true});
  EXPECT_EQ(unicode[2], "━━━━━━━━━┓          91.00");
  EXPECT_EQ(unicode[4], "         ┗━━━━━━━━┛");
}

TEST(StaircaseTest, AStageWithoutAResultHasNoStep) {
  v1::Job job = DemoJob();
  EXPECT_THAT(Staircase(job, {60, 4, false}).back(), HasSubstr("4/4"));
  EXPECT_THAT(Staircase(job, {60, 4, false})[2], testing::StartsWith("============+"));
  for (v1::Stage& stage : *job.mutable_stages()) stage.clear_epochs();
  EXPECT_THAT(Staircase(job, {60, 4, false}), IsEmpty());
  EXPECT_THAT(Staircase(v1::Job(), {}), IsEmpty());
}

TEST(StaircaseTest, EqualResultsAreFlatAndNoiseIsNoStaircase) {
  EXPECT_EQ(Staircase(Chain({{32, 90}, {4, 90}}), {20, 4, false})[2], "==================");
  EXPECT_EQ(Staircase(Chain({{32, 90.05}, {4, 90}}), {20, 4, false})[2], "==================");
}

TEST(StaircaseTest, OfBranchesItIsTheWayToTheNarrowest) {
  v1::Job job = Chain({{32, 92}, {8, 91}});
  v1::Stage* branch = AddStage(job, 2, 2, v1::STAGE_STATE_SUCCEEDED, 1);
  branch->mutable_spec()->set_parent("W32A32");
  AddEpoch(branch, 80, 1);
  EXPECT_THAT(Staircase(job, {60, 4, false}).back(), testing::AllOf(HasSubstr("32/32"), HasSubstr("2/2"), testing::Not(HasSubstr("8/8"))));
}

TEST(StaircaseTest, FitsEveryWidthAndSaysWhatIsLeftOut) {
  std::vector<std::pair<int, double>> widths{{32, 100}};
  for (int bits = 16; bits > 0; --bits) widths.emplace_back(bits, 100 - 3 * (16 - bits));
  const v1::Job job = Chain(widths);
  for (int width = 20; width < 150; ++width) {
    for (const std::string& line : Staircase(job, {width, 6, true})) EXPECT_LE(Columns(line), width);
  }
  const auto lines = Staircase(job, {61, 6, false});
  EXPECT_EQ(lines.back(), "(7 stages left out)");
  EXPECT_THAT(lines[lines.size() - 2], testing::AllOf(HasSubstr("32/32"), HasSubstr("1/1")));
}

TEST(StaircaseTest, StrangeJobsDoNoHarm) {
  v1::Job job = Chain({{32, std::numeric_limits<double>::quiet_NaN()}, {8, 90}, {4, std::numeric_limits<double>::infinity()}});
  EXPECT_FALSE(Staircase(job, {40, 5, false}).empty());
  // A cycle, which no coordinator makes.
  job.mutable_stages(0)->mutable_spec()->set_parent("W4A4");
  EXPECT_FALSE(Staircase(job, {40, 5, false}).empty());
}

}  // namespace
}  // namespace bitstair::client
