#include "worker/trainer/stage_config.h"

#include <ATen/ATen.h>

#include <set>

#include <gtest/gtest.h>

#include "core/data/dataset.h"
#include "core/nn/network.h"
#include "server/known_networks.h"

namespace bitstair::trainer {
namespace {

v1::StartTrainer Good() {
  v1::StartTrainer start;
  start.set_world_size(2);
  start.set_checkpoint_dir("dir");
  v1::StageSpec& spec = *start.mutable_spec();
  spec.set_ranks(2);
  spec.set_weight_bits(8);
  spec.set_activation_bits(32);
  spec.set_epochs(3);
  spec.set_schedule_offset(2);
  spec.set_schedule_epochs(5);
  spec.set_batch_size(8);
  return start;
}

TEST(StageConfigTest, EachFaultIsFound) {
  EXPECT_TRUE(CheckStart(Good()).ok()) << CheckStart(Good());
  const auto with = [](auto change) {
    v1::StartTrainer start = Good();
    change(start);
    return CheckStart(start).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(with([](auto& s) { s.set_rank(2); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.set_rank(-1); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.set_world_size(3); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_weight_bits(0); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_activation_bits(12); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_epochs(1 << 20); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_schedule_epochs(4); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_batch_size(9); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->mutable_data()->set_train_limit(-1); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.clear_checkpoint_dir(); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_parent("W32A32"); }), kInvalid);
}

TEST(StageConfigTest, FixedShardsAllowTheRanksThatDivideThem) {
  v1::StartTrainer start = Good();
  v1::StageSpec& spec = *start.mutable_spec();
  spec.set_min_ranks(1);
  EXPECT_FALSE(CheckStart(start).ok()) << "the Reducer's result depends on the ranks";
  spec.set_reduction(v1::REDUCTION_FIXED_SHARDS);
  spec.set_ranks(4);
  spec.set_shards(4);
  EXPECT_TRUE(CheckStart(start).ok()) << CheckStart(start);
  start.set_rank(1);
  EXPECT_EQ(PartsOf(start).count, 4);
  EXPECT_EQ(PartsOf(start).own, (ShardRange{2, 4}));
  start.set_world_size(3);
  EXPECT_FALSE(CheckStart(start).ok()) << "4 shards on 3 ranks";
  start.set_world_size(8);
  EXPECT_FALSE(CheckStart(start).ok()) << "more than ranks";
  start.set_world_size(2);
  spec.set_min_ranks(4);
  EXPECT_FALSE(CheckStart(start).ok()) << "fewer than min_ranks";
  spec.set_min_ranks(2);
  spec.set_batch_size(6);
  EXPECT_FALSE(CheckStart(start).ok()) << "a batch that 4 shards do not divide";
  spec.set_shards(0);
  EXPECT_FALSE(CheckStart(start).ok()) << "no shards";
}

TEST(StageConfigTest, ASplitPairHasTwoSetsWithTheSameParts) {
  v1::StartTrainer start = Good();
  v1::StageSpec& spec = *start.mutable_spec();
  spec.set_placement(v1::PAIR_PLACEMENT_SPLIT);
  start.set_world_size(4);
  EXPECT_FALSE(CheckStart(start).ok()) << "of what pair";
  spec.mutable_guided();
  spec.set_activation(v1::ACTIVATION_FUNCTION_CLIP);
  spec.set_parent("W32A32");
  start.set_parent_path("parent");
  EXPECT_TRUE(CheckStart(start).ok()) << CheckStart(start);
  for (int rank = 0; rank < 4; ++rank) {
    start.set_rank(rank);
    EXPECT_EQ(SetOf(start).set, rank / 2);
    EXPECT_EQ(SetOf(start).rank, rank % 2);
    EXPECT_EQ(PartsOf(start).count, 2);
    EXPECT_EQ(PartsOf(start).own, (ShardRange{rank % 2, rank % 2 + 1}));
    EXPECT_EQ(LoaderOptionsOf(start).rank, rank % 2);
    EXPECT_EQ(LoaderOptionsOf(start).world_size, 2);
  }
  start.set_rank(0);
  start.set_world_size(2);
  EXPECT_FALSE(CheckStart(start).ok()) << "one set";
  start.set_world_size(3);
  EXPECT_FALSE(CheckStart(start).ok()) << "odd";
}

TEST(StageConfigTest, EpochWordsOfAChainAreDistinct) {
  std::set<int64_t> words;
  for (const int weights : {32, 16, 8, 7, 4, 2, 1}) {
    for (const int activations : {32, 16, 8, 7, 4, 2, 1}) {
      v1::StageSpec spec;
      spec.set_weight_bits(weights);
      spec.set_activation_bits(activations);
      for (const int epoch : {0, 1, 99'999}) {
        const int64_t word = EpochWord(spec, epoch);
        EXPECT_LT(word, int64_t{1} << 32);
        EXPECT_TRUE(words.insert(word).second) << weights << " " << activations << " " << epoch;
      }
    }
  }
}

TEST(StageConfigTest, TheLoaderReadsWithTheSlotsShareOfTheCores) {
  v1::StartTrainer start = Good();
  start.mutable_slot()->set_threads(3);
  EXPECT_EQ(LoaderOptionsOf(start).threads, 3);
  EXPECT_FALSE(LoaderOptionsOf(start).augment);
  start.mutable_slot()->clear_threads();
  start.mutable_spec()->mutable_data()->set_augmentation(v1::AUGMENTATION_CROP_FLIP);
  EXPECT_EQ(LoaderOptionsOf(start).threads, 1);
  EXPECT_TRUE(LoaderOptionsOf(start).augment);
}

TEST(StageConfigTest, CalibrationSeesTheParentAsItWasTrained) {
  core::ImageDataset data;
  data.images = at::zeros({2, 1, 28, 28}, at::kByte);
  data.classes = 10;
  v1::StageSpec spec = Good().spec();
  spec.set_activation(v1::ACTIVATION_FUNCTION_CLIP);
  const core::NetworkConfig own = NetworkConfigOf(spec, data), parent = ParentReluConfigOf(spec, data);
  EXPECT_EQ(own.weight_bits, 8);
  EXPECT_EQ(own.activation, core::ActivationFunction::kClip);
  EXPECT_EQ(own.image_height, 28);
  EXPECT_EQ(parent.weight_bits, 32);
  EXPECT_EQ(parent.activation_bits, 32);
  EXPECT_EQ(parent.activation, core::ActivationFunction::kRelu);
}

TEST(StageConfigTest, OptionsOfTheNetworkArrive) {
  core::ImageDataset data;
  data.images = at::zeros({2, 3, 32, 32}, at::kByte);
  data.classes = 10;
  v1::StageSpec spec = Good().spec();
  const core::NetworkConfig neutral = NetworkConfigOf(spec, data);
  EXPECT_EQ(neutral.weight_norm, core::WeightNorm::kMax);
  EXPECT_EQ(neutral.shortcut_values, core::ShortcutValues::kCodes);
  EXPECT_EQ(neutral.shortcut_conv_bits, 0);
  EXPECT_TRUE(neutral.layer_widths.empty());
  EXPECT_FALSE(neutral.quantize_first_last);
  spec.set_weight_norm(v1::WEIGHT_NORM_STD);
  spec.set_shortcut_values(v1::SHORTCUT_VALUES_FLOAT);
  spec.set_shortcut_conv_bits(32);
  spec.set_quantize_first_last(true);
  data.mean = {0.5F, 0.25F, 0.5F};
  data.std = {0.25F, 0.25F, 0.5F};
  (*spec.mutable_layer_widths())["layer1.*"] = 8;
  const core::NetworkConfig config = NetworkConfigOf(spec, data);
  EXPECT_EQ(config.weight_norm, core::WeightNorm::kStd);
  EXPECT_EQ(config.shortcut_values, core::ShortcutValues::kFloat);
  EXPECT_EQ(config.shortcut_conv_bits, 32);
  EXPECT_TRUE(config.quantizes_first_last());
  EXPECT_EQ(config.pixels.low, -2);
  EXPECT_EQ(config.pixels.high, 3) << "the range of all channels together";
  EXPECT_FALSE(ParentReluConfigOf(spec, data).quantizes_first_last());
  EXPECT_FALSE(TeacherConfigOf(spec, data).quantizes_first_last());
  EXPECT_EQ(config.layer_widths, (std::map<std::string, int>{{"layer1.*", 8}}));
}

TEST(StageConfigTest, OptionsOfTheOptimiserArrive) {
  v1::StageSpec spec;
  EXPECT_EQ(SgdOptionsOf(spec).batch_norm_learning_rate_factor, 1);
  spec.set_momentum(0.5);
  spec.set_nesterov(true);
  spec.set_weight_decay(0.25);
  spec.set_decay_batch_norm(true);
  spec.set_batch_norm_learning_rate_factor(0);
  const core::SgdOptions options = SgdOptionsOf(spec);
  EXPECT_EQ(options.momentum, 0.5);
  EXPECT_TRUE(options.nesterov);
  EXPECT_EQ(options.weight_decay, 0.25);
  EXPECT_TRUE(options.decay_batch_norm);
  EXPECT_EQ(options.batch_norm_learning_rate_factor, 0);
}

TEST(StageConfigTest, RecipesMayNameEveryNetworkThatTheCoreMakes) {
  EXPECT_EQ(server::KnownNetworks(), core::NetworkNames());
}

TEST(StageConfigTest, ADistillingStageIsCheckedAndItsStudentsHaveTheirWidths) {
  v1::StartTrainer start = Good();
  start.mutable_spec()->set_parent("W32A32");
  start.set_parent_path("path");
  start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_CLIP);
  start.mutable_spec()->mutable_distillation()->add_students(2);
  start.mutable_spec()->mutable_stochastic_precision()->set_full_share_at(0.8);
  EXPECT_TRUE(CheckStart(start).ok()) << CheckStart(start);
  core::ImageDataset data;
  data.images = at::zeros({2, 1, 28, 28}, at::kByte);
  for (const int activation_bits : {8, 32}) {
    start.mutable_spec()->set_activation_bits(activation_bits);
    const core::NetworkConfig student = StudentConfigOf(start.spec(), 0, data);
    EXPECT_EQ(student.weight_bits, 2);
    EXPECT_EQ(student.activation_bits, activation_bits == 32 ? 32 : 2);
    EXPECT_EQ(student.activation, core::ActivationFunction::kClip);
  }
  const auto with = [&](auto change) {
    v1::StartTrainer other = start;
    change(*other.mutable_spec());
    return std::string(CheckStart(other).message());
  };
  EXPECT_EQ(with([](auto& s) { s.mutable_guided(); }), "start message: spec has both guided and distillation");
  EXPECT_EQ(with([](auto& s) { s.clear_parent(); }), "start message: a distilling stage needs a parent for its full-precision net");
  EXPECT_EQ(with([](auto& s) { s.set_activation(v1::ACTIVATION_FUNCTION_RELU); }), "start message: a distilling stage needs activations that clip");
  EXPECT_EQ(with([](auto& s) { s.mutable_distillation()->add_students(32); }), "start message: spec.distillation.students has width 32");
  EXPECT_EQ(with([](auto& s) { s.mutable_stochastic_precision()->set_start_share(2); }), "start message: spec.stochastic_precision.start_share 2");
  EXPECT_EQ(with([](auto& s) { s.mutable_stochastic_precision()->set_full_share_at(0); }), "start message: spec.stochastic_precision.full_share_at 0");
}

TEST(StageConfigTest, AGuidedStageIsCheckedAndItsTeacherClips) {
  v1::StartTrainer start = Good();
  start.mutable_spec()->set_parent("W32A32");
  start.set_parent_path("path");
  start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_CLIP);
  v1::GuidedSpec& guided = *start.mutable_spec()->mutable_guided();
  guided.set_lambda(30);
  guided.set_teacher_learning_rate_factor(0.2);
  guided.add_hint_points("fc1");
  EXPECT_TRUE(CheckStart(start).ok()) << CheckStart(start);
  core::ImageDataset data;
  data.images = at::zeros({2, 1, 28, 28}, at::kByte);
  const core::NetworkConfig teacher = TeacherConfigOf(start.spec(), data);
  EXPECT_EQ(teacher.weight_bits, 32);
  EXPECT_EQ(teacher.activation_bits, 32);
  EXPECT_EQ(teacher.activation, core::ActivationFunction::kClip);
  EXPECT_EQ(GuidedOptionsOf(start.spec()).lambda, 30);
  EXPECT_EQ(GuidedOptionsOf(start.spec()).hint_points, std::vector<std::string>{"fc1"});

  const auto with = [&](auto change) {
    v1::StartTrainer other = start;
    change(other);
    return CheckStart(other).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->clear_parent(); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU); }), kInvalid);
  EXPECT_EQ(with([](auto& s) { s.mutable_spec()->mutable_guided()->set_teacher_learning_rate_factor(-1); }), kInvalid);
}

// The coordinator, which does not know the networks, refuses other names.
TEST(StageConfigTest, TheCoordinatorKnowsTheNetworksHintPoints) {
  for (const std::string& name : server::KnownNetworks()) {
    core::NetworkConfig config;
    config.network = name;
    config.image_channels = name == "convnet28" ? 1 : 3;
    config.image_height = config.image_width = name == "convnet28" ? 28 : 64;
    config.classes = 10;
    config.channel_divisor = name == "convnet28" ? 1 : 16;
    const auto network = core::CreateNetwork(config);
    ASSERT_TRUE(network.ok()) << network.status();
    std::vector<std::string> points;
    for (const core::HintPoint& point : (*network)->hint_points()) points.push_back(point.name);
    EXPECT_EQ(server::KnownHintPoints(name), points) << name;
  }
}

}  // namespace
}  // namespace bitstair::trainer
