#include "server/job_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class JobIndexTest : public ::testing::Test {
 protected:
  // Jobs are as old as they are added late.
  void Add(const std::string& id, const std::string& name, v1::JobState state) { index_.Set(id, absl::FromUnixSeconds(++time_), name, state); }

  std::vector<std::string> List(const std::string& filter, size_t most = 100, std::optional<JobIndex::Place> after = std::nullopt) {
    std::vector<std::string> ids;
    index_.Visit(*ParseJobFilter(filter), after, [&](const JobIndex::Place& place) {
      ids.push_back(place.second);
      last_ = place;
      return ids.size() < most;
    });
    return ids;
  }

  JobIndex index_;
  JobIndex::Place last_;
  int64_t time_ = 0;
};

TEST_F(JobIndexTest, NewestFirstByStateAndName) {
  Add("a", "night", v1::JOB_STATE_SUCCEEDED);
  Add("b", "day", v1::JOB_STATE_RUNNING);
  Add("c", "nightly", v1::JOB_STATE_RUNNING);
  Add("d", "night", v1::JOB_STATE_PENDING);
  EXPECT_THAT(List(""), ElementsAre("d", "c", "b", "a"));
  EXPECT_THAT(List("state=RUNNING"), ElementsAre("c", "b"));
  EXPECT_THAT(List("state=ACTIVE"), ElementsAre("d", "c", "b"));
  EXPECT_THAT(List("name=night"), ElementsAre("d", "a"));
  EXPECT_THAT(List("name=night*"), ElementsAre("d", "c", "a"));
  EXPECT_THAT(List("name=*"), ElementsAre("d", "c", "b", "a"));
  EXPECT_THAT(List("state=RUNNING AND name=night*"), ElementsAre("c"));
  EXPECT_THAT(List("state=FAILED"), IsEmpty());
  EXPECT_THAT(List("name=evening"), IsEmpty());
}

TEST_F(JobIndexTest, AJobMovesWithItsState) {
  Add("a", "x", v1::JOB_STATE_RUNNING);
  index_.Set("a", absl::FromUnixSeconds(1), "x", v1::JOB_STATE_FAILED);
  EXPECT_THAT(List("state=RUNNING"), IsEmpty());
  EXPECT_THAT(List("state=FAILED"), ElementsAre("a"));
  EXPECT_THAT(List(""), ElementsAre("a"));
}

TEST_F(JobIndexTest, PagesGoOnWhereTheLastOneEnded) {
  for (int i = 0; i < 20; ++i) Add(absl::StrCat("j", i), i % 2 == 0 ? "even" : "odd", i % 3 == 0 ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_PENDING);
  for (const char* filter : {"", "state=ACTIVE", "state=RUNNING", "name=even", "name=*"}) {
    std::vector<std::string> pages = List(filter, 3);
    while (true) {
      const auto page = List(filter, 3, last_);
      if (page.empty()) break;
      pages.insert(pages.end(), page.begin(), page.end());
    }
    EXPECT_EQ(pages, List(filter)) << filter;
  }
}

}  // namespace
}  // namespace bitstair::server
