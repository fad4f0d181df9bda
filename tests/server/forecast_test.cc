#include "server/forecast.h"

#include <gtest/gtest.h>

#include <vector>

#include "server/domain.h"

namespace bitstair::server {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'000'000);

v1::Job View(std::vector<std::tuple<std::string, std::string, v1::StageState>> stages) {
  v1::Job view;
  view.set_state(v1::JOB_STATE_RUNNING);
  for (const auto& [name, parent, state] : stages) {
    v1::Stage* stage = view.add_stages();
    stage->mutable_spec()->set_name(name);
    stage->mutable_spec()->set_parent(parent);
    stage->set_state(state);
  }
  return view;
}

absl::Duration Start(const v1::Job& view, int i) {
  return FromStamp(view.stages(i).expected_start_time()) - kNow;
}
absl::Duration End(const v1::Job& view, int i) {
  return FromStamp(view.stages(i).expected_end_time()) - kNow;
}

int One(int) {
  return 1;
}

// The first of three branches has both slots for itself, then the other two share them; the small one does not wait for the large one before it.
TEST(ForecastTest, BranchesWaitForEachOthersSlots) {
  v1::Job view = View({{"full", "", v1::STAGE_STATE_RUNNING},
                       {"eight", "full", v1::STAGE_STATE_BLOCKED},
                       {"four", "full", v1::STAGE_STATE_BLOCKED},
                       {"two", "full", v1::STAGE_STATE_BLOCKED},
                       {"one", "two", v1::STAGE_STATE_BLOCKED}});
  const auto left = [](int i) { return std::vector<double>{10, 100, 50, 20, 7}[i]; };
  const auto slots = [](int i) { return std::vector<int>{2, 1, 2, 1, 1}[i]; };
  AddForecast({left, [](int) { return kNow; }, slots, 2}, kNow, &view);
  EXPECT_EQ(Start(view, 1), absl::Seconds(10));
  EXPECT_EQ(Start(view, 3), absl::Seconds(10)) << "ahead of the one that needs both";
  EXPECT_EQ(Start(view, 4), absl::Seconds(30));
  EXPECT_EQ(Start(view, 2), absl::Seconds(110));
  EXPECT_EQ(FromStamp(view.expected_end_time()) - kNow, absl::Seconds(160));
  AddForecast({left, [](int) { return kNow; }, slots, 0}, kNow, &view);
  EXPECT_EQ(Start(view, 2), absl::Seconds(10)) << "no limit is known";
  AddForecast({left, [](int) { return kNow; }, slots, 1}, kNow, &view);
  EXPECT_EQ(Start(view, 2), absl::Seconds(110)) << "alone, where it never fits";
}

TEST(ForecastTest, AStageBehindOneWhoseEndIsNotKnownHasNoStart) {
  v1::Job view = View({{"full", "", v1::STAGE_STATE_RUNNING}, {"other", "", v1::STAGE_STATE_PENDING}});
  AddForecast({[](int i) { return i == 0 ? std::optional<double>() : 5.0; }, [](int) { return kNow; }, One, 1}, kNow, &view);
  EXPECT_FALSE(view.stages(1).has_expected_start_time());
}

TEST(ForecastTest, StagesFollowTheirParents) {
  v1::Job view = View({{"full", "", v1::STAGE_STATE_SUCCEEDED},
                       {"eight", "full", v1::STAGE_STATE_RUNNING},
                       {"four", "eight", v1::STAGE_STATE_BLOCKED},
                       {"two", "four", v1::STAGE_STATE_BLOCKED},
                       {"other", "full", v1::STAGE_STATE_PENDING}});
  AddForecast({[](int i) { return std::vector<double>{0, 100, 30, 20, 10}[i]; }, [](int) { return kNow + absl::Seconds(500); }, One, 0}, kNow, &view);
  EXPECT_FALSE(view.stages(0).has_expected_end_time());
  EXPECT_FALSE(view.stages(1).has_expected_start_time()) << "it runs";
  EXPECT_EQ(End(view, 1), absl::Seconds(100));
  EXPECT_EQ(Start(view, 2), absl::Seconds(100));
  EXPECT_EQ(End(view, 2), absl::Seconds(130));
  EXPECT_EQ(End(view, 3), absl::Seconds(150));
  EXPECT_EQ(Start(view, 4), absl::Seconds(500));
  EXPECT_EQ(FromStamp(view.expected_end_time()) - kNow, absl::Seconds(510));
}

TEST(ForecastTest, WhatIsNotKnownIsLeftOut) {
  v1::Job view = View({{"full", "", v1::STAGE_STATE_RUNNING}, {"four", "full", v1::STAGE_STATE_BLOCKED}});
  AddForecast({[](int i) { return i == 0 ? std::optional<double>() : 5.0; }, [](int) { return absl::InfiniteFuture(); }, One, 0}, kNow, &view);
  for (const v1::Stage& stage : view.stages()) {
    EXPECT_FALSE(stage.has_expected_start_time());
    EXPECT_FALSE(stage.has_expected_end_time());
  }
  EXPECT_FALSE(view.has_expected_end_time());
  AddForecast({[](int) { return 5.0; }, [](int) { return absl::InfiniteFuture(); }, One, 0}, kNow, &view);
  EXPECT_TRUE(view.has_expected_end_time());
  view.mutable_stages(0)->set_state(v1::STAGE_STATE_PENDING);
  AddForecast({[](int) { return 5.0; }, [](int) { return absl::InfiniteFuture(); }, One, 0}, kNow, &view);
  EXPECT_FALSE(view.has_expected_end_time()) << "nobody knows when it starts; the old time is taken out";
}

TEST(ForecastTest, AnEndedJobHasNoEndAhead) {
  v1::Job view = View({{"full", "", v1::STAGE_STATE_SUCCEEDED}});
  view.set_state(v1::JOB_STATE_SUCCEEDED);
  AddForecast({[](int) { return 5.0; }, [](int) { return kNow; }, One, 0}, kNow, &view);
  EXPECT_FALSE(view.has_expected_end_time());
}

}  // namespace
}  // namespace bitstair::server
