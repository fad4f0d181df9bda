#include "server/stage_key.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "server/job_spec.h"
#include "server/planner.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

std::map<std::string, std::string> Keys(const v1::JobSpec& spec) {
  const auto resolved = ResolveJobSpec(spec);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  std::map<std::string, std::string> keys;
  for (const auto& stage : PlanStages(*resolved, testing::kDigestA)) keys[stage.name()] = StageKey(stage, stage.parent().empty() ? "" : keys[stage.parent()]);
  return keys;
}

TEST(StageKeyTest, NumbersAreWrittenAsEcmaScriptDoes) {
  // RFC 8785, appendix B, and the borders of ECMA-262 Number::toString.
  const std::vector<std::pair<double, std::string>> cases = {{0, "0"},
                                                             {-0.0, "0"},
                                                             {5e-324, "5e-324"},
                                                             {-5e-324, "-5e-324"},
                                                             {1.7976931348623157e308, "1.7976931348623157e+308"},
                                                             {9007199254740992, "9007199254740992"},
                                                             {295147905179352830000.0, "295147905179352830000"},
                                                             {9.999999999999997e22, "9.999999999999997e+22"},
                                                             {1e23, "1e+23"},
                                                             {1.0000000000000001e23, "1.0000000000000001e+23"},
                                                             {999999999999999700000.0, "999999999999999700000"},
                                                             {1e21, "1e+21"},
                                                             {9.999999999999997e-7, "9.999999999999997e-7"},
                                                             {0.000001, "0.000001"},
                                                             {333333333.3333332, "333333333.3333332"},
                                                             {-0.0000033333333333333333, "-0.0000033333333333333333"},
                                                             {1424953923781206.2, "1424953923781206.2"},
                                                             {1e-7, "1e-7"},
                                                             {0.1, "0.1"},
                                                             {99.9, "99.9"},
                                                             {100, "100"},
                                                             {1e-4, "0.0001"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(EcmaScriptNumber(value), text);
}

TEST(StageKeyTest, CanonicalJsonSortsByUtf16AndEscapesAsTheRfcSays) {
  // RFC 8785, 3.2.2 and 3.2.3: the emoji's surrogate sorts before U+FB33, unlike in UTF-8.
  const auto value = nlohmann::json::parse(
      "{\"\\u20ac\":\"Euro Sign\",\"\\r\":\"Carriage "
      "Return\",\"\\ufb33\":\"Hebrew\",\"1\":\"One\",\"\\ud83d\\ude00\":\"Emoji\",\"\\u0080\":\"Control\",\"\\u00f6\":\"o\"}");
  EXPECT_EQ(CanonicalJson(value),
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"\u00f6\":\"o\",\"\u20ac\":\"Euro "
            "Sign\",\"\U0001F600\":\"Emoji\",\"\uFB33\":\"Hebrew\"}");
  EXPECT_EQ(CanonicalJson(nlohmann::json::parse(R"([56, {"d":true, "1":[], "10":null}, "\u000f\nA'\u0042\u0022\\\"/"])")),
            R"([56,{"1":[],"10":null,"d":true},"\u000f\nA'B\"\\\"/"])");
}

TEST(StageKeyTest, GoldenDocument) {
  const auto resolved = ResolveJobSpec(testing::SmallSpec());
  ASSERT_TRUE(resolved.ok());
  const auto stages = PlanStages(*resolved, testing::kDigestA);
  EXPECT_EQ(
      StageKeyDocument(stages[1], "PARENT"),
      R"({"activation":"clip","activation_bits":32,"calibration_percentile":99.9,"data":{"augmentation":"none","sha256":")" + testing::kDigestA +
          R"("},"decay_batch_norm":true,"epochs":2,"images_per_rank":64,"momentum":0.9,"nesterov":true,"network":"convnet28","numerics":"fast",)"
          R"("numerics_version":6,"parents":["PARENT"],"quantizer":"dorefa","ranks":2,"schedule":{"epochs":8,"kind":"cosine","learning_rate":0.02,"offset":0},)"
          R"("seed":"1","weight_bits":8,"weight_decay":0.0001})");
}

// These name training runs in stores and artifact folders that exist. A change here makes every finished stage run again.
TEST(StageKeyTest, GoldenKeys) {
  const std::map<std::string, std::string> expected = {
      {"W32A32", "2321c8178917658e4737b743a97d1ad687abd7f5c20ae62b8bdd4dbcf7f1ea20"},
      {"W8A32", "8bcd205dacdd6a7be14c87834bd3fa64ad39b4b229bd7e208f9020b788f1f749"},
      {"W8A8", "10f9233bd46a0f2a5f7642bf45f772711f25481f2e537edca4bb56dd33b8e68d"},
      {"W4A8", "fe9b0989ae8b05ff7e80af0d81c861cdb6556c2e647e02c45c6c44d055fad67e"},
      {"W4A4", "c1d8b4567621ce62cab172b3003a8f5f19479971d92907f40eed4630f0fe48fe"},
  };
  EXPECT_EQ(Keys(testing::SmallSpec()), expected);
}

// The number of ranks gives other bits, unless the gradients are summed by fixed shards. How many ranks may share those, and where a pair's nets live, does
// not.
TEST(StageKeyTest, WithFixedShardsTheNumberOfRanksDoesNotCount) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_reduction(v1::REDUCTION_FIXED_SHARDS);
  spec.set_shards(4);
  const auto keys = Keys(spec);
  EXPECT_NE(keys, Keys(testing::SmallSpec()));
  spec.set_ranks(4);
  EXPECT_EQ(Keys(spec), keys);
  spec.set_min_ranks(1);
  EXPECT_EQ(Keys(spec), keys);
  spec.set_shards(8);
  EXPECT_NE(Keys(spec), keys);
  v1::JobSpec pair = testing::SmallSpec();
  pair.mutable_guided();
  const auto colocated = Keys(pair);
  pair.set_placement(v1::PAIR_PLACEMENT_SPLIT);
  EXPECT_EQ(Keys(pair), colocated);
}

TEST(StageKeyTest, NetworkOptionsAreWrittenOnlyWhereTheyCount) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_weight_norm(v1::WEIGHT_NORM_STD);
  spec.set_quantize_first_last(true);
  spec.set_shortcut_values(v1::SHORTCUT_VALUES_FLOAT);
  spec.set_shortcut_conv_bits(32);
  (*spec.mutable_layer_widths())["relu1"] = "8";
  (*spec.mutable_layer_widths())["*conv2"] = "16";
  const auto resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const auto stages = PlanStages(*resolved, testing::kDigestA);
  const auto document = [&](int i) { return nlohmann::json::parse(StageKeyDocument(stages[i], "PARENT")); };
  const nlohmann::json full = document(0), weights = document(1), both = document(2);
  for (const char* key : {"weight_norm", "quantize_first_last", "shortcut_values", "shortcut_conv_bits", "layer_widths"})
    EXPECT_FALSE(full.contains(key)) << key;
  EXPECT_EQ(weights["weight_norm"], "std");
  EXPECT_EQ(weights["quantize_first_last"], true);
  EXPECT_EQ(weights["shortcut_conv_bits"], 32);
  EXPECT_FALSE(weights.contains("shortcut_values"));
  EXPECT_EQ(both["shortcut_values"], "float");
  EXPECT_EQ(both["layer_widths"], (nlohmann::json{{"*conv2", 16}, {"relu1", 8}}));
}

// A pair's stages are other training runs than those of the net alone; the full-precision stage is the same.
TEST(StageKeyTest, GuidedStagesHaveKeysOfTheirOwn) {
  v1::JobSpec spec = testing::SmallSpec();
  const auto alone = Keys(spec);
  spec.mutable_guided();
  const auto guided = Keys(spec);
  EXPECT_EQ(guided.at("W32A32"), alone.at("W32A32"));
  for (const char* stage : {"W8A32", "W8A8", "W4A8", "W4A4"}) EXPECT_NE(guided.at(stage), alone.at(stage)) << stage;
  const auto resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok());
  EXPECT_NE(StageKeyDocument(PlanStages(*resolved, testing::kDigestA)[1], "PARENT")
                .find(R"("guided":{"lambda":10,"teacher":"carry","teacher_learning_rate_factor":0.2},)"),
            std::string::npos);
  EXPECT_EQ(guided.at("W4A4"), "5be0e18af923c0859091fb2e1dd2b0b84acd64d9ff318a7bfd928bd1ef924a5f");

  std::set<std::string> keys{guided.at("W8A32")};
  for (const auto& change : std::vector<std::function<void(v1::GuidedSpec&)>>{
           [](auto& g) { g.set_lambda(100); }, [](auto& g) { g.set_teacher(v1::TEACHER_START_RESET); }, [](auto& g) { g.set_teacher_learning_rate_factor(0); },
           [](auto& g) { g.add_hint_points("fc1"); }, [](auto& g) { g.add_hint_points("logits"); },
           [](auto& g) { g.add_hint_points("logits"), g.set_temperature(2); }}) {
    v1::JobSpec other = spec;
    change(*other.mutable_guided());
    EXPECT_TRUE(keys.insert(Keys(other).at("W8A32")).second);
  }
  // The order of the names says nothing.
  v1::JobSpec one = spec, two = spec;
  for (const char* name : {"fc1", "conv3"}) one.mutable_guided()->add_hint_points(name);
  for (const char* name : {"conv3", "fc1"}) two.mutable_guided()->add_hint_points(name);
  EXPECT_EQ(Keys(one), Keys(two));
}

TEST(StageKeyTest, DistillationAndStochasticPrecisionAreInTheKeysOfQuantisedStages) {
  const v1::JobSpec spec = testing::SmallSpec();
  const auto alone = Keys(spec);
  std::set<std::string> keys{alone.at("W8A32")};
  for (const auto& change : std::vector<std::function<void(v1::JobSpec&)>>{
           [](auto& s) { s.mutable_stochastic_precision(); }, [](auto& s) { s.mutable_stochastic_precision()->set_start_share(0.25); },
           [](auto& s) { s.mutable_stochastic_precision()->set_full_share_at(1); }, [](auto& s) { s.mutable_distillation(); },
           [](auto& s) { s.mutable_distillation()->set_temperature(2); }, [](auto& s) { s.mutable_distillation()->set_student_weight(1); },
           [](auto& s) { s.mutable_distillation()->set_teacher_weight(1); }, [](auto& s) { s.mutable_distillation()->set_teacher(v1::TEACHER_START_RESET); },
           [](auto& s) { s.mutable_distillation()->set_teacher_learning_rate_factor(1); }, [](auto& s) { s.mutable_distillation()->add_students(2); }}) {
    v1::JobSpec other = spec;
    change(other);
    const auto changed = Keys(other);
    EXPECT_EQ(changed.at("W32A32"), alone.at("W32A32"));
    EXPECT_TRUE(keys.insert(changed.at("W8A32")).second);
  }
}

TEST(StageKeyTest, WhatCannotChangeABitIsNotInTheKey) {
  const auto before = Keys(testing::SmallSpec());
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_name("other");
  spec.mutable_data()->clear_name();
  spec.mutable_data()->set_path("/data/fashion");
  spec.mutable_checkpoint()->set_every_steps(7);
  spec.set_max_attempts(9);
  (*spec.mutable_environment())["OMP_PROC_BIND"] = "true";
  EXPECT_EQ(Keys(spec), before);
}

TEST(StageKeyTest, WhatCanChangeABitIsInTheKeyOfTheStageAndItsChildren) {
  const auto before = Keys(testing::SmallSpec());
  const std::vector<std::function<void(v1::JobSpec*)>> changes = {
      [](auto* s) { s->set_seed(2); },
      [](auto* s) { s->set_ranks(4); },
      [](auto* s) { s->set_batch_size(64); },
      [](auto* s) { s->set_network("resnet20"); },
      [](auto* s) { s->set_momentum(0.8); },
      [](auto* s) { s->set_nesterov(false); },
      [](auto* s) { s->set_weight_decay(0); },
      [](auto* s) { s->set_decay_batch_norm(false); },
      [](auto* s) { s->mutable_pretrain()->set_epochs(4); },
      [](auto* s) { s->mutable_pretrain()->set_learning_rate(0.2); },
      [](auto* s) { s->mutable_data()->set_augmentation(v1::AUGMENTATION_CROP_FLIP); },
      [](auto* s) { s->mutable_data()->set_train_limit(1000); },
      [](auto* s) { s->mutable_data()->set_test_limit(1000); },
      [](auto* s) { s->mutable_data()->set_held_back(5000); },
      [](auto* s) { s->mutable_data()->set_unreadable_images(v1::UNREADABLE_IMAGES_SKIP); },
      [](auto* s) { s->set_pretrain_activation(v1::ACTIVATION_FUNCTION_CLIP); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    v1::JobSpec spec = testing::SmallSpec();
    changes[i](&spec);
    const auto after = Keys(spec);
    for (const auto& [name, key] : before) EXPECT_NE(after.at(name), key) << name << ", change " << i;
  }
  // These touch the quantised stages alone.
  const std::vector<std::function<void(v1::JobSpec*)>> quantised = {
      [](auto* s) { s->mutable_quantized()->set_epochs(9); },
      [](auto* s) { s->set_detach_weight_max(true); },
      [](auto* s) { s->set_batch_norm_learning_rate_factor(0.1); },
      [](auto* s) { s->set_calibration_percentile(99); },
      [](auto* s) { s->set_activation_calibration(v1::ACTIVATION_CALIBRATION_NONE); },
      [](auto* s) { s->set_schedule(v1::SCHEDULE_SCOPE_STAGE); },
      [](auto* s) { s->set_quantize_last_activation(true); },
      [](auto* s) { s->set_quantize_first_last(true); },
      [](auto* s) { s->set_weight_norm(v1::WEIGHT_NORM_STD); },
      [](auto* s) { s->set_shortcut_values(v1::SHORTCUT_VALUES_FLOAT); },
      [](auto* s) { s->set_shortcut_conv_bits(8); },
      [](auto* s) { (*s->mutable_layer_widths())["conv2"] = "8"; },
  };
  for (size_t i = 0; i < quantised.size(); ++i) {
    v1::JobSpec spec = testing::SmallSpec();
    quantised[i](&spec);
    const auto after = Keys(spec);
    EXPECT_EQ(after.at("W32A32"), before.at("W32A32")) << "change " << i;
    EXPECT_NE(after.at("W4A4"), before.at("W4A4")) << "change " << i;
  }
}

TEST(StageKeyTest, InitialWeightsCountByTheirDigest) {
  v1::StageSpec stage;
  const std::string none = StageKeyDocument(stage, "");
  EXPECT_EQ(none.find("initial_weights"), std::string::npos);
  stage.mutable_initial_weights()->set_path("/a");
  stage.set_initial_weights_digest(testing::kDigestA);
  const std::string key = StageKey(stage, "");
  EXPECT_NE(StageKeyDocument(stage, ""), none);
  stage.mutable_initial_weights()->set_path("/b");
  stage.mutable_initial_weights()->set_allow_missing(true);
  EXPECT_EQ(StageKey(stage, ""), key);
  stage.set_initial_weights_digest(testing::kDigestB);
  EXPECT_NE(StageKey(stage, ""), key);
}

}  // namespace
}  // namespace bitstair::server
