#include "server/sweep.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "server/job_spec.h"
#include "server/planner.h"
#include "server/stage_key.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

// sweep: field -> JSON list.
v1::JobSpec Spec(const std::map<std::string, std::string>& sweep) {
  v1::JobSpec spec = testing::SmallSpec();
  for (const auto& [field, list] : sweep) {
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(list, &(*spec.mutable_sweep())[field]).ok()) << list;
  }
  return spec;
}

std::vector<std::string> Edges(const v1::JobSpec& spec) {
  const auto resolved = ResolveJobSpec(spec);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  std::vector<std::string> edges;
  if (!resolved.ok()) return edges;
  for (const auto& stage : PlanStages(*resolved, testing::kDigestA)) edges.push_back(absl::StrCat(stage.parent(), ">", stage.name()));
  return edges;
}

TEST(SweepTest, MakesEveryCombination) {
  std::vector<FieldViolation> faults;
  const auto variants = ExpandSweep(Spec({{"seed", "[1, 2]"}, {"guided.lambda", "[1, 10, 100]"}}), &faults);
  EXPECT_TRUE(faults.empty());
  ASSERT_EQ(variants.size(), 6u);
  std::set<std::pair<uint64_t, double>> seen;
  for (const Variant& variant : variants) {
    seen.emplace(variant.spec.seed(), variant.spec.guided().lambda());
    EXPECT_TRUE(variant.spec.sweep().empty());
  }
  EXPECT_EQ(seen.size(), 6u);
}

TEST(SweepTest, WhatVariantsHaveInCommonIsThereOnce) {
  v1::JobSpec spec = Spec({{"guided.lambda", "[1, 10]"}});
  spec.set_two_stage(false);
  EXPECT_THAT(Edges(spec),
              ElementsAre(">W32A32", "W32A32>W8A8.lambda-1", "W8A8.lambda-1>W4A4.lambda-1", "W32A32>W8A8.lambda-10", "W8A8.lambda-10>W4A4.lambda-10"));
}

TEST(SweepTest, NamesTellWhatMakesADifference) {
  v1::JobSpec spec = Spec({{"seed", "[1, 2]"}, {"guided", "[null, {}]"}});
  spec.set_two_stage(false);
  spec.mutable_widths()->Truncate(2);
  spec.set_batch_size(128);
  EXPECT_THAT(Edges(spec),
              UnorderedElementsAre(">W32A32.seed-1", ">W32A32.seed-2", "W32A32.seed-1>W8A8.guided-none.seed-1", "W32A32.seed-2>W8A8.guided-none.seed-2",
                                   "W32A32.seed-1>W8A8.guided-on.seed-1", "W32A32.seed-2>W8A8.guided-on.seed-2"));
}

TEST(SweepTest, WidthsAndMethodsCanBeSwept) {
  v1::JobSpec spec = Spec({{"widths", "[[32, 8], [32, 4]]"}, {"quantizer", R"(["dorefa", "lsq"])"}, {"weight_norm", R"(["max"])"}});
  spec.set_two_stage(false);
  const auto edges = Edges(spec);
  EXPECT_EQ(edges.size(), 5u) << "one full-precision stage";
  EXPECT_THAT(edges, ::testing::Contains("W32A32>W4A4.quantizer-lsq.widths-32-4"));
}

TEST(SweepTest, AStageIsTheSameTrainingAsWithoutTheSweep) {
  v1::JobSpec spec = Spec({{"seed", "[5, 6]"}});
  const auto swept = PlanStages(*ResolveJobSpec(spec), testing::kDigestA);
  v1::JobSpec alone = testing::SmallSpec();
  alone.set_seed(6);
  const auto single = PlanStages(*ResolveJobSpec(alone), testing::kDigestA);
  EXPECT_EQ(StageKey(swept[5], ""), StageKey(single[0], ""));
  EXPECT_EQ(swept[5].name(), "W32A32.seed-6");
}

TEST(SweepTest, ResolvingWritesOutWhatIsTheJobsAndNothingElse) {
  const auto once = ResolveJobSpec(Spec({{"seed", "[1, 2]"}}));
  ASSERT_TRUE(once.ok()) << once.status();
  EXPECT_EQ(once->queue(), "default");
  EXPECT_EQ(once->max_attempts(), 3);
  EXPECT_FALSE(once->has_momentum());
  EXPECT_EQ(ResolveJobSpec(*once)->SerializeAsString(), once->SerializeAsString());
}

TEST(SweepTest, EveryFaultNamesItsPlace) {
  struct Case {
    std::map<std::string, std::string> sweep;
    const char* field;
    const char* message;
  };
  const Case cases[] = {
      {{{"seed", "[]"}}, "sweep[\"seed\"]", "is empty"},
      {{{"sed", "[1]"}}, "sweep[\"sed\"]", "is no field of a recipe"},
      {{{"guided.lamda", "[1]"}}, "sweep[\"guided.lamda\"]", "is no field of a recipe"},
      {{{"queue", "[\"a\"]"}}, "sweep[\"queue\"]", "is the job's and cannot be swept"},
      {{{"data.path", "[\"/a\"]"}}, "sweep[\"data.path\"]", "cannot be swept"},
      {{{"initial_weights.path", "[\"/a\"]"}}, "sweep[\"initial_weights.path\"]", "cannot be swept"},
      {{{"seed", "[1, 2, 1]"}}, "sweep[\"seed\"][2]", "is there already"},
      {{{"seed", "[1, \"x\"]"}}, "sweep[\"seed\"][1]", "is \"x\"; must be a whole number"},
      {{{"seed", "[1.5]"}}, "sweep[\"seed\"][0]", "is 1.5; must be a whole number"},
      {{{"seed", "[1e300]"}}, "sweep[\"seed\"][0]", "beyond 2^53"},
      {{{"order", "[\"upwards\"]"}}, "sweep[\"order\"][0]", "must be per_width or per_stage"},
      {{{"two_stage", "[1]"}}, "sweep[\"two_stage\"][0]", "must be true or false"},
      {{{"guided", "[3]"}}, "sweep[\"guided\"][0]", "must be a group of keys"},
      {{{"guided", "[{\"mu\": 1}]"}}, "sweep[\"guided\"][0]", "has an unknown key \"mu\""},
      {{{"guided", "[{}]"}, {"guided.lambda", "[1]"}}, "sweep[\"guided.lambda\"]", "and guided overlap"},
      {{{"guided.lambda", "[1, -1]"}}, "sweep[\"guided.lambda\"][1]", "guided.lambda is -1; must be 0 to 1e6"},
      {{{"widths", "[[32, 8], [8, 16]]"}, {"pretrain", "[{\"epochs\": 1}]"}}, "sweep[\"widths\"][1]", "widths[1] is 16 after 8"},
      {{{"seed", "[1,2,3,4,5,6,7,8,9]"}, {"momentum", "[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8]"}}, "sweep", "makes 72 variants; at most 64"},
  };
  for (const Case& c : cases) {
    const auto result = ResolveJobSpec(Spec(c.sweep));
    ASSERT_FALSE(result.ok()) << c.message;
    const auto faults = GetFieldViolations(result.status());
    ASSERT_GE(faults.size(), 1u) << c.message;
    EXPECT_EQ(faults[0].field, c.field) << result.status();
    EXPECT_THAT(faults[0].description, HasSubstr(c.message));
  }
}

TEST(SweepTest, SeedsBeyondANumbersExactnessAreTexts) {
  std::vector<FieldViolation> faults;
  const auto variants = ExpandSweep(Spec({{"seed", "[\"18446744073709551615\"]"}}), &faults);
  ASSERT_EQ(variants.size(), 1u);
  EXPECT_EQ(variants[0].spec.seed(), 18446744073709551615u);
}

TEST(SweepTest, LongNamesGetNumbers) {
  v1::JobSpec spec = Spec({{"guided", R"([{"lambda": 1, "teacher_learning_rate_factor": 0.25, "hint_points": ["conv1"]},
                                          {"lambda": 1, "teacher_learning_rate_factor": 0.25, "hint_points": ["conv2"]}])"}});
  spec.set_two_stage(false);
  spec.mutable_widths()->Truncate(2);
  EXPECT_THAT(Edges(spec), ElementsAre(">W32A32", "W32A32>W8A8.1", "W32A32>W8A8.2"));
}

}  // namespace
}  // namespace bitstair::server
