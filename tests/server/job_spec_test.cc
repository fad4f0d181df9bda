#include "server/job_spec.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/status.h"
#include "tests/support/job_specs.h"

namespace bitstair::server {
namespace {

using ::testing::HasSubstr;

TEST(JobSpecTest, WritesEveryDefaultOut) {
  const auto spec = ResolveJobSpec(testing::SmallSpec());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->seed(), 1u);
  EXPECT_EQ(spec->batch_size(), 128);
  EXPECT_EQ(spec->order(), v1::STAGE_ORDER_PER_WIDTH);
  EXPECT_EQ(spec->two_stage_activation(), v1::ACTIVATION_FUNCTION_CLIP);
  EXPECT_EQ(spec->pretrain_activation(), v1::ACTIVATION_FUNCTION_RELU);
  EXPECT_EQ(spec->activation_calibration(), v1::ACTIVATION_CALIBRATION_PERCENTILE);
  EXPECT_EQ(spec->calibration_percentile(), 99.9);
  EXPECT_EQ(spec->pretrain().learning_rate(), 0.1);
  EXPECT_EQ(spec->quantized().learning_rate(), 0.02);
  EXPECT_FALSE(spec->quantized().has_step_gamma());
  EXPECT_EQ(spec->schedule(), v1::SCHEDULE_SCOPE_CHAIN);
  EXPECT_EQ(spec->momentum(), 0.9);
  EXPECT_TRUE(spec->nesterov());
  EXPECT_EQ(spec->weight_decay(), 1e-4);
  EXPECT_EQ(spec->batch_norm_learning_rate_factor(), 1);
  EXPECT_TRUE(spec->decay_batch_norm());
  EXPECT_EQ(spec->quantizer(), "dorefa");
  EXPECT_TRUE(spec->has_detach_weight_max() && !spec->detach_weight_max());
  EXPECT_TRUE(spec->has_quantize_first_last() && !spec->quantize_first_last());
  EXPECT_EQ(spec->numerics(), v1::NUMERICS_FAST);
  EXPECT_TRUE(spec->checkpoint().every_epoch());
  EXPECT_TRUE(spec->checkpoint().has_every_steps());
  EXPECT_EQ(spec->max_attempts(), 3);
  EXPECT_EQ(spec->data().augmentation(), v1::AUGMENTATION_NONE);
  EXPECT_EQ(spec->data().unreadable_images(), v1::UNREADABLE_IMAGES_ERROR);
  EXPECT_FALSE(spec->has_guided());
  EXPECT_FALSE(spec->has_distillation());
  EXPECT_FALSE(spec->has_stochastic_precision());
}

TEST(JobSpecTest, ResolvingAgainChangesNothing) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_quantized()->set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_STEP);
  spec.mutable_quantized()->add_step_epochs(4);
  spec.set_momentum(0);
  spec.mutable_guided();
  const auto once = ResolveJobSpec(spec);
  ASSERT_TRUE(once.ok()) << once.status();
  EXPECT_FALSE(once->nesterov());
  EXPECT_EQ(once->quantized().step_gamma(), 0.1);
  EXPECT_EQ(once->guided().lambda(), 10);
  EXPECT_EQ(once->guided().teacher_learning_rate_factor(), 0.2);
  EXPECT_EQ(once->guided().teacher(), v1::TEACHER_START_CARRY);
  EXPECT_TRUE(once->guided().hint_points().empty());
  EXPECT_FALSE(once->guided().has_temperature());
  spec.mutable_guided()->add_hint_points("logits");
  const auto at_logits = ResolveJobSpec(spec);
  ASSERT_TRUE(at_logits.ok()) << at_logits.status();
  EXPECT_EQ(at_logits->guided().temperature(), 4);
  const auto twice = ResolveJobSpec(*once);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*once, *twice));
}

TEST(JobSpecTest, MethodsOfTheJournalVersionGetTheirDefaults) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_distillation()->add_students(2);
  spec.mutable_stochastic_precision();
  const auto once = ResolveJobSpec(spec);
  ASSERT_TRUE(once.ok()) << once.status();
  EXPECT_EQ(once->stochastic_precision().start_share(), 0.5);
  EXPECT_EQ(once->stochastic_precision().full_share_at(), 0.8);
  EXPECT_EQ(once->distillation().temperature(), 1);
  EXPECT_EQ(once->distillation().student_weight(), 0.5);
  EXPECT_EQ(once->distillation().teacher_weight(), 0.5);
  EXPECT_EQ(once->distillation().teacher_learning_rate_factor(), 0.2);
  EXPECT_EQ(once->distillation().teacher(), v1::TEACHER_START_CARRY);
  const auto twice = ResolveJobSpec(*once);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*once, *twice));
}

struct Fault {
  const char* field;
  const char* message;
  std::function<void(v1::JobSpec*)> make;
};

TEST(JobSpecTest, EpochsOfTheStagesGiveTheirSum) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.mutable_quantized()->clear_epochs();
  for (const int epochs : {1, 1, 2, 6}) spec.mutable_quantized()->add_stage_epochs(epochs);
  const auto resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->quantized().epochs(), 10);
}

TEST(JobSpecTest, EachFaultNamesItsField) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto stage_epochs = [](std::vector<int> epochs) {
    return [epochs](v1::JobSpec* s) { s->mutable_quantized()->mutable_stage_epochs()->Assign(epochs.begin(), epochs.end()); };
  };
  const auto stage_rates = [](std::vector<double> rates) {
    return [rates](v1::JobSpec* s) { s->mutable_quantized()->mutable_stage_learning_rates()->Assign(rates.begin(), rates.end()); };
  };
  const std::vector<Fault> faults = {
      {"name", "is required", [](auto* s) { s->clear_name(); }},
      {"name", "1 to 40 characters", [](auto* s) { s->set_name("Big Name"); }},
      {"name", "1 to 40 characters", [](auto* s) { s->set_name(std::string(41, 'a')); }},
      {"network", "known: alexnet, alexnet_cifar, convnet28, preresnet20,", [](auto* s) { s->set_network("vgg"); }},
      {"network", "is required", [](auto* s) { s->clear_network(); }},
      {"data", "needs a name", [](auto* s) { s->clear_data(); }},
      {"data", "has both", [](auto* s) { s->mutable_data()->set_path("/x"); }},
      {"data.name", "at most 64", [](auto* s) { s->mutable_data()->set_name("../x"); }},
      {"data.path", "absolute", [](auto* s) { s->mutable_data()->clear_name(), s->mutable_data()->set_path("x/y"); }},
      {"data.path", "without . and ..", [](auto* s) { s->mutable_data()->clear_name(), s->mutable_data()->set_path("/data/../etc"); }},
      {"data.path", "without . and ..", [](auto* s) { s->mutable_data()->clear_name(), s->mutable_data()->set_path("/data/."); }},
      {"data.train_limit", "is -1", [](auto* s) { s->mutable_data()->set_train_limit(-1); }},
      {"data.train_limit", "less than one batch", [](auto* s) { s->mutable_data()->set_train_limit(64); }},
      {"data.held_back", "is -1", [](auto* s) { s->mutable_data()->set_held_back(-1); }},
      {"data.test_limit", "is -5", [](auto* s) { s->mutable_data()->set_test_limit(-5); }},
      {"data.augmentation", "no value 77", [](auto* s) { s->mutable_data()->set_augmentation(static_cast<v1::Augmentation>(77)); }},
      {"data.unreadable_images", "no value 7", [](auto* s) { s->mutable_data()->set_unreadable_images(static_cast<v1::UnreadableImages>(7)); }},
      {"ranks", "is 0", [](auto* s) { s->set_ranks(0); }},
      {"ranks", "is 65", [](auto* s) { s->set_ranks(65), s->set_batch_size(65); }},
      {"batch_size", "not a multiple of ranks (2)", [](auto* s) { s->set_batch_size(129); }},
      {"batch_size", "is 0", [](auto* s) { s->set_batch_size(0); }},
      {"widths", "is required", [](auto* s) { s->clear_widths(); }},
      {"widths[1]", "is 9", [](auto* s) { s->set_widths(1, 9); }},
      {"widths[2]", "is 8 after 8", [](auto* s) { s->set_widths(2, 8); }},
      {"widths[2]", "is 16 after 8", [](auto* s) { s->set_widths(2, 16); }},
      {"widths[2]", "is -4", [](auto* s) { s->set_widths(2, -4); }},
      {"order", "no value 9", [](auto* s) { s->set_order(static_cast<v1::StageOrder>(9)); }},
      {"calibration_percentile", "is 50", [](auto* s) { s->set_calibration_percentile(50); }},
      {"calibration_percentile", "is nan", [&](auto* s) { s->set_calibration_percentile(nan); }},
      {"pretrain.epochs", "is required", [](auto* s) { s->mutable_pretrain()->clear_epochs(); }},
      {"pretrain.epochs", "is 0", [](auto* s) { s->mutable_pretrain()->set_epochs(0); }},
      {"quantized.epochs", "is -1", [](auto* s) { s->mutable_quantized()->set_epochs(-1); }},
      {"quantized.epochs", "the 4 quantised stages need", [](auto* s) { s->mutable_quantized()->set_epochs(3); }},
      {"pretrain", "no width is 32", [](auto* s) { s->mutable_widths()->erase(s->widths().begin()); }},
      {"quantized", "no width is below 32", [](auto* s) { s->mutable_widths()->Truncate(1); }},
      {"quantized.learning_rate", "is 0", [](auto* s) { s->mutable_quantized()->set_learning_rate(0); }},
      {"quantized.learning_rate", "is inf", [](auto* s) { s->mutable_quantized()->set_learning_rate(std::numeric_limits<double>::infinity()); }},
      {"pretrain.step_epochs", "needs learning_rate_schedule: step", [](auto* s) { s->mutable_pretrain()->add_step_epochs(1); }},
      {"pretrain.step_gamma", "needs learning_rate_schedule: step", [](auto* s) { s->mutable_pretrain()->set_step_gamma(0.5); }},
      {"pretrain.step_epochs", "is required", [](auto* s) { s->mutable_pretrain()->set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_STEP); }},
      {"pretrain.step_epochs[0]", "below pretrain.epochs",
       [](auto* s) { s->mutable_pretrain()->set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_STEP), s->mutable_pretrain()->add_step_epochs(3); }},
      {"pretrain.step_epochs[1]", "must go up",
       [](auto* s) {
         s->mutable_pretrain()->set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_STEP);
         s->mutable_pretrain()->add_step_epochs(2), s->mutable_pretrain()->add_step_epochs(1);
       }},
      {"pretrain.stage_learning_rates", "this phase is one stage", [](auto* s) { s->mutable_pretrain()->add_stage_learning_rates(0.1); }},
      {"quantized.stage_learning_rates", "needs schedule: stage", stage_rates({0.01, 0.01, 0.01, 0.02})},
      {"quantized.stage_learning_rates", "has 2 entries, but there are 4 quantised stages", stage_rates({0.01, 0.02})},
      {"quantized.stage_learning_rates[1]", "is 0; must be above 0 and at most 100", stage_rates({0.01, 0, 0.01, 0.02})},
      {"pretrain.stage_epochs", "this phase is one stage", [](auto* s) { s->mutable_pretrain()->add_stage_epochs(3); }},
      {"quantized.stage_epochs", "has 3 entries, but there are 4 quantised stages", stage_epochs({1, 1, 6})},
      {"quantized.stage_epochs", "adds up to 9, but quantized.epochs is 8", stage_epochs({1, 1, 2, 5})},
      {"quantized.stage_epochs[1]", "is 0; must be 1 to", stage_epochs({1, 0, 2, 5})},
      {"momentum", "is 1", [](auto* s) { s->set_momentum(1); }},
      {"nesterov", "needs a momentum", [](auto* s) { s->set_momentum(0), s->set_nesterov(true); }},
      {"weight_decay", "is -0.1", [](auto* s) { s->set_weight_decay(-0.1); }},
      {"weight_decay", "is nan", [&](auto* s) { s->set_weight_decay(nan); }},
      {"batch_norm_learning_rate_factor", "is 1.5", [](auto* s) { s->set_batch_norm_learning_rate_factor(1.5); }},
      {"batch_norm_learning_rate_factor", "is -1", [](auto* s) { s->set_batch_norm_learning_rate_factor(-1); }},
      {"quantizer", "known: dorefa, lsq, pact", [](auto* s) { s->set_quantizer("lsqq"); }},
      {"guided", "needs quantizer: dorefa, not pact",
       [](auto* s) {
         s->set_quantizer("pact");
         s->mutable_guided();
       }},
      {"distillation.students", "needs quantizer: dorefa, not lsq",
       [](auto* s) {
         s->set_quantizer("lsq");
         s->mutable_distillation()->add_students(2);
       }},
      {"layer_widths", "needs quantizer: dorefa, not lsq",
       [](auto* s) {
         s->set_quantizer("lsq");
         (*s->mutable_layer_widths())["conv2"] = "4";
       }},
      {"weight_norm", "needs quantizer: dorefa, not lsq",
       [](auto* s) {
         s->set_quantizer("lsq");
         s->set_weight_norm(v1::WEIGHT_NORM_STD);
       }},
      {"widths[1]", "is 16; lsq has 2 to 8 bits",
       [](auto* s) {
         s->set_quantizer("lsq");
         s->set_widths(1, 16);
       }},
      {"shortcut_conv_bits", "must be 8 or 32", [](auto* s) { s->set_shortcut_conv_bits(4); }},
      {"shortcut_conv_bits", "is 0", [](auto* s) { s->set_shortcut_conv_bits(0); }},
      {"quantize_first_last", "and quantize_last_activation exclude each other",
       [](auto* s) { s->set_quantize_first_last(true), s->set_quantize_last_activation(true); }},
      {"quantize_first_last", "needs two_stage_activation: clip",
       [](auto* s) { s->set_quantize_first_last(true), s->set_two_stage_activation(v1::ACTIVATION_FUNCTION_RELU); }},
      {"shortcut_values", "has no value 7", [](auto* s) { s->set_shortcut_values(static_cast<v1::ShortcutValues>(7)); }},
      {"weight_norm", "has no value 7", [](auto* s) { s->set_weight_norm(static_cast<v1::WeightNorm>(7)); }},
      {"layer_widths[\"conv2\"]", "must be 1 to 8, 16 or 32", [](auto* s) { (*s->mutable_layer_widths())["conv2"] = "9"; }},
      {"layer_widths[\"conv2\"]", "is \"wide\"", [](auto* s) { (*s->mutable_layer_widths())["conv2"] = "wide"; }},
      {"layer_widths[\"\"]", "must be a name pattern", [](auto* s) { (*s->mutable_layer_widths())[""] = "8"; }},
      {"layer_widths[\"conv[2]\"]", "must be a name pattern", [](auto* s) { (*s->mutable_layer_widths())["conv[2]"] = "8"; }},
      {"layer_widths", "more than 64",
       [](auto* s) {
         for (int i = 0; i < 65; ++i) (*s->mutable_layer_widths())["conv" + std::to_string(i)] = "8";
       }},
      {"guided", "widths must begin with 32", [](auto* s) { s->mutable_guided(), s->mutable_widths()->erase(s->widths().begin()), s->clear_pretrain(); }},
      {"guided", "no width is below 32", [](auto* s) { s->mutable_guided(), s->mutable_widths()->Truncate(1), s->clear_quantized(); }},
      {"guided", "two_stage_activation: clip", [](auto* s) { s->mutable_guided(), s->set_two_stage_activation(v1::ACTIVATION_FUNCTION_RELU); }},
      {"guided.lambda", "is -1", [](auto* s) { s->mutable_guided()->set_lambda(-1); }},
      {"guided.lambda", "is nan", [&](auto* s) { s->mutable_guided()->set_lambda(nan); }},
      {"guided.teacher_learning_rate_factor", "is 101", [](auto* s) { s->mutable_guided()->set_teacher_learning_rate_factor(101); }},
      {"guided.teacher", "no value 5", [](auto* s) { s->mutable_guided()->set_teacher(static_cast<v1::TeacherStart>(5)); }},
      {"guided.hint_points[1]", "no hint point of convnet28; known: conv1, conv2, conv3, fc1, logits",
       [](auto* s) { s->mutable_guided()->add_hint_points("fc1"), s->mutable_guided()->add_hint_points("layer3"); }},
      {"guided.hint_points[1]", "named twice", [](auto* s) { s->mutable_guided()->add_hint_points("fc1"), s->mutable_guided()->add_hint_points("fc1"); }},
      {"guided.temperature", "needs the hint point logits", [](auto* s) { s->mutable_guided()->set_temperature(2); }},
      {"guided.temperature", "is 0; must be above 0 and at most 100",
       [](auto* s) { s->mutable_guided()->add_hint_points("logits"), s->mutable_guided()->set_temperature(0); }},
      {"distillation", "exclude each other", [](auto* s) { s->mutable_guided(), s->mutable_distillation(); }},
      {"distillation", "widths must begin with 32",
       [](auto* s) { s->mutable_distillation(), s->mutable_widths()->erase(s->widths().begin()), s->clear_pretrain(); }},
      {"distillation", "two_stage_activation: clip", [](auto* s) { s->mutable_distillation(), s->set_two_stage_activation(v1::ACTIVATION_FUNCTION_RELU); }},
      {"distillation.temperature", "is 0", [](auto* s) { s->mutable_distillation()->set_temperature(0); }},
      {"distillation.student_weight", "is -1", [](auto* s) { s->mutable_distillation()->set_student_weight(-1); }},
      {"distillation.teacher_weight", "is nan", [&](auto* s) { s->mutable_distillation()->set_teacher_weight(nan); }},
      {"distillation.teacher_learning_rate_factor", "is 101", [](auto* s) { s->mutable_distillation()->set_teacher_learning_rate_factor(101); }},
      {"distillation.teacher", "no value 5", [](auto* s) { s->mutable_distillation()->set_teacher(static_cast<v1::TeacherStart>(5)); }},
      {"distillation.students[1]", "is 32", [](auto* s) { s->mutable_distillation()->add_students(2), s->mutable_distillation()->add_students(32); }},
      {"distillation.students[1]", "is 2 again", [](auto* s) { s->mutable_distillation()->add_students(2), s->mutable_distillation()->add_students(2); }},
      {"distillation.students", "more than 8",
       [](auto* s) {
         for (int bits = 0; bits < 9; ++bits) s->mutable_distillation()->add_students(bits);
       }},
      {"stochastic_precision", "no width is below 32",
       [](auto* s) { s->mutable_stochastic_precision(), s->mutable_widths()->Truncate(1), s->clear_quantized(); }},
      {"stochastic_precision", "two_stage_activation: clip",
       [](auto* s) { s->mutable_stochastic_precision(), s->set_two_stage_activation(v1::ACTIVATION_FUNCTION_RELU); }},
      {"stochastic_precision.start_share", "is 1.5", [](auto* s) { s->mutable_stochastic_precision()->set_start_share(1.5); }},
      {"stochastic_precision.full_share_at", "is 0", [](auto* s) { s->mutable_stochastic_precision()->set_full_share_at(0); }},
      {"min_ranks", "is 3, more than ranks (2)", [](auto* s) { s->set_min_ranks(3), s->set_reduction(v1::REDUCTION_FIXED_SHARDS); }},
      {"min_ranks", "is 0; must be 1 to 2", [](auto* s) { s->set_min_ranks(0), s->set_reduction(v1::REDUCTION_FIXED_SHARDS); }},
      {"min_ranks", "needs reduction: fixed_shards", [](auto* s) { s->set_min_ranks(1); }},
      {"shards", "needs reduction: fixed_shards", [](auto* s) { s->set_shards(4); }},
      {"shards", "is 3, not a multiple of 2 ranks", [](auto* s) { s->set_shards(3), s->set_reduction(v1::REDUCTION_FIXED_SHARDS); }},
      {"shards", "is 65; must be 1 to 64", [](auto* s) { s->set_shards(65), s->set_reduction(v1::REDUCTION_FIXED_SHARDS); }},
      {"batch_size", "is 120, not a multiple of shards (16)",
       [](auto* s) { s->set_shards(16), s->set_batch_size(120), s->set_reduction(v1::REDUCTION_FIXED_SHARDS); }},
      {"placement", "needs guided", [](auto* s) { s->set_placement(v1::PAIR_PLACEMENT_SPLIT); }},
      {"ranks", "at most 32 with placement: split", [](auto* s) { s->set_ranks(64), s->mutable_guided(), s->set_placement(v1::PAIR_PLACEMENT_SPLIT); }},
      {"require", "\"speed\" is no metric", [](auto* s) { s->set_require("speed >= 1"); }},
      {"require", "needs a full-precision stage", [](auto* s) { s->set_widths(0, 16), s->clear_pretrain(), s->set_require("top1_drop <= 1"); }},
      {"require", "no width is below 32", [](auto* s) { s->mutable_widths()->Truncate(1), s->clear_quantized(), s->set_require("top1 >= 1"); }},
      {"checkpoint.every_steps", "is -1", [](auto* s) { s->mutable_checkpoint()->set_every_steps(-1); }},
      {"max_attempts", "is 101", [](auto* s) { s->set_max_attempts(101); }},
      {"environment[\"LD_PRELOAD\"]", "is not allowed", [](auto* s) { (*s->mutable_environment())["LD_PRELOAD"] = "x"; }},
      {"environment[\"NCCL_x\"]", "is not allowed", [](auto* s) { (*s->mutable_environment())["NCCL_x"] = "x"; }},
      {"environment[\"NCCL_DEBUG_FILE\"]", "names a file", [](auto* s) { (*s->mutable_environment())["NCCL_DEBUG_FILE"] = "x"; }},
      {"environment[\"NCCL_NET_PLUGIN\"]", "names a file", [](auto* s) { (*s->mutable_environment())["NCCL_NET_PLUGIN"] = "x"; }},
      {"environment[\"OMP_TOOL_LIBRARIES\"]", "names a file", [](auto* s) { (*s->mutable_environment())["OMP_TOOL_LIBRARIES"] = "x.so"; }},
      {"environment[\"NCCL_DEBUG\"]", "names a file", [](auto* s) { (*s->mutable_environment())["NCCL_DEBUG"] = "/tmp/x"; }},
      {"environment[\"OMP_NUM_THREADS\"]", "too long", [](auto* s) { (*s->mutable_environment())["OMP_NUM_THREADS"] = std::string(300, '1'); }},
  };
  for (const Fault& fault : faults) {
    v1::JobSpec spec = testing::SmallSpec();
    fault.make(&spec);
    const auto result = ResolveJobSpec(spec);
    ASSERT_FALSE(result.ok()) << fault.field << ": " << fault.message;
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    const auto violations = GetFieldViolations(result.status());
    ASSERT_EQ(violations.size(), 1u) << fault.field << ": " << result.status();
    EXPECT_EQ(violations[0].field, fault.field);
    EXPECT_THAT(violations[0].description, HasSubstr(fault.message));
  }
}

TEST(JobSpecTest, AllFaultsAreListedAtOnce) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_name("");
  spec.set_widths(2, 9);
  spec.set_momentum(2);
  EXPECT_EQ(GetFieldViolations(ResolveJobSpec(spec).status()).size(), 3u);
}

TEST(JobSpecTest, AllowedEnvironmentPasses) {
  v1::JobSpec spec = testing::SmallSpec();
  (*spec.mutable_environment())["NCCL_SOCKET_IFNAME"] = "eth0";
  (*spec.mutable_environment())["OMP_NUM_THREADS"] = "1";
  (*spec.mutable_environment())["GLOO_SOCKET_IFNAME"] = "lo";
  EXPECT_TRUE(ResolveJobSpec(spec).ok());
}

TEST(JobSpecTest, InitialWeights) {
  v1::JobSpec spec = testing::SmallSpec();
  spec.clear_pretrain();
  spec.mutable_initial_weights()->set_path("/w.safetensors");
  spec.mutable_guided();
  auto resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_TRUE(resolved->initial_weights().has_allow_missing() && !resolved->initial_weights().allow_missing());
  EXPECT_TRUE(resolved->initial_weights().has_allow_unexpected() && !resolved->initial_weights().allow_unexpected());
  EXPECT_FALSE(resolved->has_pretrain());
  spec.mutable_widths()->erase(spec.mutable_widths()->begin());
  EXPECT_TRUE(ResolveJobSpec(spec).ok()) << "a pair needs no 32 among the widths then";

  const auto fault = [](const v1::JobSpec& wrong) {
    const auto faults = GetFieldViolations(ResolveJobSpec(wrong).status());
    return faults.size() == 1 ? faults[0].field + " " + faults[0].description : absl::StrCat(faults.size(), " faults");
  };
  spec.mutable_pretrain()->set_epochs(1);
  resolved = ResolveJobSpec(spec);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_FALSE(resolved->has_pretrain()) << "idle: one recipe serves with and without weights";

  v1::JobSpec wrong = spec;
  wrong.mutable_initial_weights()->clear_path();
  EXPECT_EQ(fault(wrong), "initial_weights.path is required");
  wrong.mutable_initial_weights()->set_path("w.safetensors");
  EXPECT_EQ(fault(wrong), "initial_weights.path must be an absolute path on the workers, without . and ..");
  v1::JobSpec full = testing::OneStageSpec();
  *full.mutable_initial_weights() = spec.initial_weights();
  resolved = ResolveJobSpec(full);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_TRUE(resolved->has_pretrain()) << "full precision goes on from the weights";
}

TEST(JobSpecTest, Scheduling) {
  const v1::JobSpec resolved = *ResolveJobSpec(testing::SmallSpec());
  EXPECT_TRUE(resolved.share() && resolved.preemptible());
  EXPECT_EQ(resolved.priority(), v1::PRIORITY_CLASS_NORMAL);
  EXPECT_EQ(resolved.queue(), "default");
  v1::JobSpec spec = testing::SmallSpec();
  spec.set_queue("vision team");
  (*spec.mutable_labels())["gpu"] = "";
  (*spec.mutable_labels())["rack/7"] = "x";
  const auto faults = GetFieldViolations(ResolveJobSpec(spec).status());
  ASSERT_EQ(faults.size(), 3u);
  EXPECT_EQ(faults[0].field, "queue");
  EXPECT_EQ(faults[1].field, "labels[\"gpu\"]");
  EXPECT_EQ(faults[2].field, "labels[\"rack/7\"]");
  spec.set_queue("vision-team");
  spec.clear_labels();
  for (int i = 0; i < 17; ++i) (*spec.mutable_labels())[absl::StrCat("k", i)] = "v";
  EXPECT_EQ(GetFieldViolations(ResolveJobSpec(spec).status())[0].field, "labels");
}

}  // namespace
}  // namespace bitstair::server
