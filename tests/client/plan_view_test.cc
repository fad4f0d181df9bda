#include "client/plan_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/job_spec.h"
#include "server/planner.h"

namespace bitstair::client {
namespace {

using testing::HasSubstr;

v1::JobSpec Spec() {
  v1::JobSpec spec;
  spec.set_name("demo");
  spec.set_network("convnet28");
  spec.mutable_data()->set_name("fashion_mnist");
  for (const int width : {32, 4}) spec.add_widths(width);
  spec.set_two_stage(true);
  spec.mutable_pretrain()->set_epochs(2);
  spec.mutable_pretrain()->set_learning_rate(0.1);
  spec.mutable_quantized()->set_epochs(4);
  const auto resolved = server::ResolveJobSpec(spec);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return *resolved;
}

TEST(PlanViewTest, LearningRatesFollowTheSchedule) {
  v1::StageSpec stage;
  stage.set_learning_rate(0.2);
  stage.set_epochs(2);
  stage.set_schedule_offset(2);
  stage.set_schedule_epochs(4);
  stage.set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_COSINE);
  EXPECT_NEAR(LearningRates(stage).first, 0.1, 1e-12) << "half-way down the cosine";
  EXPECT_NEAR(LearningRates(stage).last, 0.1 * (1 - 0.70710678118654752), 1e-12);
  stage.set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_STEP);
  stage.add_step_epochs(3);
  stage.set_step_gamma(0.1);
  EXPECT_NEAR(LearningRates(stage).first, 0.2, 1e-12);
  EXPECT_NEAR(LearningRates(stage).last, 0.02, 1e-12);
}

TEST(PlanViewTest, TextHasARowPerStage) {
  const std::string text = PlanText(server::PlanJob(Spec(), ""));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
  EXPECT_THAT(text, HasSubstr("W32A32     32/32  -"));
  EXPECT_THAT(text, HasSubstr("W4A4         4/4  W4A32"));
  EXPECT_THAT(text, HasSubstr("calibrated at 99.9 %"));
}

TEST(PlanViewTest, DotHasTheEdges) {
  const std::string dot = PlanDot("demo", server::PlanJob(Spec(), ""));
  EXPECT_THAT(dot, HasSubstr("digraph \"demo\" {"));
  EXPECT_THAT(dot, HasSubstr("\"W32A32\" -> \"W4A32\";"));
  EXPECT_THAT(dot, HasSubstr("\"W4A32\" -> \"W4A4\";"));
}

TEST(PlanViewTest, JsonHasStagesInOrder) {
  const Json json = PlanJson(Spec(), server::PlanJob(Spec(), ""));
  EXPECT_EQ(json["spec"]["widths"], Json({32, 4}));
  ASSERT_EQ(json["stages"].size(), 3U);
  EXPECT_EQ(json["stages"][2]["name"], "W4A4");
  EXPECT_EQ(json["stages"][2]["parent"], "W4A32");
  EXPECT_EQ(json["stages"][0]["first_learning_rate"], 0.1);
  EXPECT_FALSE(json["stages"][0].contains("data_digest"));
}

}  // namespace
}  // namespace bitstair::client
