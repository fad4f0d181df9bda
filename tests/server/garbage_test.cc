#include "server/garbage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::Key;
using ::testing::UnorderedElementsAre;

const absl::Time kNow = absl::FromUnixSeconds(10'000'000);
const absl::Duration kDay = absl::Hours(24);

// Jobs: name -> (days since the end; below zero: it runs, stages). Stage "s" has the checkpoint "S-s".
State MakeState(const std::map<std::string, std::pair<int, std::vector<std::string>>>& jobs) {
  State state;
  for (const auto& [id, what] : jobs) {
    Job& job = state.jobs[id];
    job.record.set_state(what.first < 0 ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_SUCCEEDED);
    if (what.first >= 0) SetTime(kNow - what.first * kDay, job.record.mutable_end_time());
    for (const auto& name : what.second) {
      job.record.add_job_stages()->set_stage(name);
      state.stages[name].record.mutable_checkpoint()->set_sha256("S-" + name);
    }
  }
  return state;
}

TEST(GarbageTest, WithoutAnAgeEveryCheckpointIsKept) {
  const State state = MakeState({{"old", {100, {"a"}}}, {"new", {0, {"b"}}}});
  const References references = FindReferences(state, absl::InfinitePast());
  EXPECT_THAT(references.kept, UnorderedElementsAre(Key("S-a"), Key("S-b")));
  EXPECT_TRUE(references.droppable.empty());
}

TEST(GarbageTest, OnlyWhatNoJobNeedsMayGo) {
  State state = MakeState(
      {{"old", {40, {"a", "shared", "shared-too", "pinned"}}}, {"new", {10, {"shared"}}}, {"runs", {-1, {"shared-too"}}}, {"kept", {90, {"pinned"}}}});
  state.jobs["kept"].record.set_pinned(true);
  const References references = FindReferences(state, kNow - 30 * kDay);
  EXPECT_THAT(references.droppable, ElementsAre(Key("S-a")));
  EXPECT_EQ(references.droppable.at("S-a"), "a");
  EXPECT_THAT(references.kept, UnorderedElementsAre(Key("S-shared"), Key("S-shared-too"), Key("S-pinned")));
}

TEST(GarbageTest, TheSameBytesOfTwoStagesAreKeptForOneOfThem) {
  State state = MakeState({{"old", {40, {"a"}}}, {"runs", {-1, {"b"}}}});
  state.stages["a"].record.mutable_checkpoint()->set_sha256("S-b");
  const References references = FindReferences(state, kNow);
  EXPECT_THAT(references.kept, ElementsAre(Key("S-b")));
  EXPECT_TRUE(references.droppable.empty());
}

TEST(GarbageTest, ARunningAttemptKeepsItsStage) {
  State state = MakeState({{"old", {40, {"a"}}}});
  state.stages["a"].attempt.emplace();
  EXPECT_TRUE(FindReferences(state, kNow).droppable.empty());
}

TEST(GarbageTest, BlobsThatNothingRefersToGetTimeToBecomeCheckpoints) {
  const State state = MakeState({{"runs", {-1, {"a"}}}, {"old", {40, {"b"}}}});
  const References references = FindReferences(state, kNow - kDay);
  const std::vector<StoredBlob> blobs = {{"S-a", 10, kNow - 90 * kDay, true},
                                         {"S-b", 20, kNow, true},
                                         {"fresh", 30, kNow - absl::Minutes(59), true},
                                         {"stray", 40, kNow - absl::Minutes(61), true},
                                         {"partial", 50, kNow - absl::Hours(23), false},
                                         {"given-up", 60, kNow - absl::Hours(25), false}};
  const auto response = FindGarbage(references, blobs, kNow);
  std::vector<std::string> found;
  for (const auto& garbage : response.garbage()) found.push_back(garbage.sha256() + ": " + garbage.reason() + " " + garbage.stage());
  EXPECT_THAT(found, ElementsAre("given-up: an upload that was given up ", "stray: nothing refers to it ", "S-b: checkpoint of jobs that ended long ago b"));
  EXPECT_EQ(response.kept_blobs(), 3);
  EXPECT_EQ(response.kept_bytes(), 10 + 30 + 50);
}

}  // namespace
}  // namespace bitstair::server
