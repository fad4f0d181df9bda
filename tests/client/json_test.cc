#include "client/json.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <cmath>

#include "bitstair/v1/fleet.pb.h"
#include "tests/client/demo_job.h"

namespace bitstair::client {
namespace {

TEST(JsonTest, MessagesKeepNumbersAndShortenEnums) {
  v1::Worker worker;
  worker.set_name("workers/w1");
  worker.set_state(v1::WORKER_STATE_READY);
  worker.add_slots()->set_kind(v1::SLOT_KIND_CPU);
  worker.mutable_connect_time()->set_seconds(0);
  const Json json = ToJson(worker);
  EXPECT_EQ(json["state"], "READY");
  EXPECT_EQ(json["slots"][0]["kind"], "CPU");
  EXPECT_EQ(json["connect_time"], "1970-01-01T00:00:00Z");
  EXPECT_EQ(json["free_slots"], 0);
  EXPECT_FALSE(json.contains("datasets"));
  v1::JobSpec spec;
  spec.set_order(v1::STAGE_ORDER_PER_WIDTH);
  spec.set_seed(18446744073709551615U);
  (*spec.mutable_environment())["OMP_NUM_THREADS"] = "1";
  const Json recipe = ToJson(spec, EnumWords::kRecipe);
  EXPECT_EQ(recipe["order"], "per_width");
  EXPECT_EQ(recipe["seed"].dump(), "18446744073709551615");
  EXPECT_EQ(recipe["environment"]["OMP_NUM_THREADS"], "1");
  EXPECT_FALSE(recipe.contains("momentum")) << "absent optional fields stay absent";
}

TEST(JsonTest, ResultOfAJob) {
  const Json json = JobJson(DemoJob(), false);
  EXPECT_EQ(json["job"], "demo-1");
  EXPECT_EQ(json["state"], "RUNNING");
  ASSERT_EQ(json["stages"].size(), 3U);
  const Json& full = json["stages"][0];
  EXPECT_EQ(full["name"], "W32A32");
  EXPECT_EQ(full["weight_bits"], 32);
  EXPECT_EQ(full["top1"], 91.5);
  EXPECT_EQ(full["seconds"], 20.5);
  EXPECT_EQ(full["checkpoint_sha256"], std::string(64, 'a'));
  EXPECT_EQ(json["stages"][1]["drop"], 1.25);
  EXPECT_EQ(json["stages"][1]["epochs_done"], 1);
  EXPECT_TRUE(json["stages"][2]["top1"].is_null());
  EXPECT_EQ(json["stages"][2]["checkpoint_sha256"], "");
  EXPECT_FALSE(json.contains("spec"));
  const Json details = JobJson(DemoJob(), true);
  EXPECT_EQ(details["spec"]["name"], "demo");
  EXPECT_EQ(details["stages"][1]["progress"]["step"], 50);
  EXPECT_EQ(details["stages"][0]["results"].size(), 2U);
}

TEST(JsonTest, NoNumberThatJsonDoesNotHave) {
  v1::Job job = DemoJob();
  job.mutable_stages(0)->mutable_epochs(1)->set_test_top1(NAN);
  const std::string text = Dump(JobJson(job, true), "json");
  EXPECT_TRUE(Json::accept(text));
  EXPECT_TRUE(Json::parse(text)["stages"][0]["top1"].is_null());
}

TEST(JsonTest, DumpsBytesThatAreNotUtf8) {
  v1::Job job = DemoJob();
  job.set_reason("broken \xff text");
  EXPECT_TRUE(Json::accept(Dump(JobJson(job, false), "json")));
}

TEST(JsonTest, YamlReadsBackAsTheSameValues) {
  const Json json = JobJson(DemoJob(), true);
  const YAML::Node yaml = YAML::Load(Dump(json, "yaml"));
  EXPECT_EQ(yaml["job"].as<std::string>(), "demo-1");
  EXPECT_EQ(yaml["stages"].size(), 3U);
  EXPECT_EQ(yaml["stages"][1]["drop"].as<double>(), 1.25);
  EXPECT_TRUE(yaml["stages"][2]["top1"].IsNull());
  const YAML::Node words = YAML::Load(Dump(Json{{"a", "true"}, {"b", "1e5"}, {"c", "x\n\x1b"}}, "yaml"));
  EXPECT_EQ(words["a"].Tag(), "!") << "quoted";
  EXPECT_EQ(words["c"].as<std::string>(), "x\n\x1b");
}

}  // namespace
}  // namespace bitstair::client
