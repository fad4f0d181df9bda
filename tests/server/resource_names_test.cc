#include "server/resource_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/status.h"

namespace bitstair::server {
namespace {

using ::testing::HasSubstr;

bool Matches(const JobFilter& filter, const v1::Job& job) {
  return filter.Passes(job.state()) && filter.Passes(job.spec().name());
}

TEST(ResourceNamesTest, NamesAreParsedStrictly) {
  EXPECT_EQ(*ParseJobName("jobs/smoke-1a2b", "name"), "smoke-1a2b");
  for (const std::string name : {"", "smoke", "jobs/", "jobs/a/", "jobs//a", "Jobs/a", "jobs/..", "jobs/a b", " jobs/a", "jobs/a/stages/W4A4", "jobs/ä"}) {
    const auto parsed = ParseJobName(name, "name");
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_EQ(GetFieldViolations(parsed.status())[0].field, "name");
  }
  EXPECT_EQ(ParseStageName("jobs/a/stages/W4A4", "name")->second, "W4A4");
  for (const std::string name : {"jobs/a", "jobs/a/stages", "jobs/a/stages/", "jobs/a/stages/x/y", "jobs/../stages/x"})
    EXPECT_FALSE(ParseStageName(name, "name").ok()) << name;
}

TEST(ResourceNamesTest, FiltersMatch) {
  v1::Job job;
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_spec()->set_name("smoke");
  for (const std::string yes : {"", "state=RUNNING", "state=ACTIVE", "name=smoke", "name=sm*", "name=*", "state=ACTIVE AND name=smoke"}) {
    const auto filter = ParseJobFilter(yes);
    ASSERT_TRUE(filter.ok()) << filter.status();
    EXPECT_TRUE(Matches(*filter, job)) << yes;
  }
  for (const std::string no : {"state=FAILED", "name=smo", "name=x*", "state=FAILED AND name=smoke"}) EXPECT_FALSE(Matches(*ParseJobFilter(no), job)) << no;
  job.set_state(v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(Matches(*ParseJobFilter("state=ACTIVE"), job));
}

TEST(ResourceNamesTest, ABadFilterNamesItsTerm) {
  for (const std::string term : {"state=BUSY", "state=UNSPECIFIED", "owner=me", "name=", "nonsense", "state=RUNNING name=x"}) {
    const auto filter = ParseJobFilter("name=a AND " + term);
    ASSERT_FALSE(filter.ok()) << term;
    EXPECT_EQ(GetFieldViolations(filter.status())[0].field, "filter");
    EXPECT_THAT(std::string(filter.status().message()), HasSubstr("\"" + term + "\""));
  }
}

TEST(ResourceNamesTest, PageTokensBelongToTheirList) {
  const std::string token = MakePageToken("jobs?state=ACTIVE", "17 a");
  EXPECT_EQ(*ParsePageToken("jobs?state=ACTIVE", token), "17 a");
  EXPECT_EQ(*ParsePageToken("jobs?", ""), "");
  for (const std::string& bad : {token + "x", std::string("AAAA"), std::string("!!"), std::string(2000, 'A')}) {
    EXPECT_FALSE(ParsePageToken("jobs?state=ACTIVE", bad).ok()) << bad;
  }
  EXPECT_FALSE(ParsePageToken("jobs?", token).ok()) << "another filter";
  EXPECT_EQ(*CheckPageSize(0), 50);
  EXPECT_EQ(*CheckPageSize(5000), 1000);
  EXPECT_FALSE(CheckPageSize(-1).ok());
}

}  // namespace
}  // namespace bitstair::server
