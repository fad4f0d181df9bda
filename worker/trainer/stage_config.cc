#include "worker/trainer/stage_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace bitstair::trainer {
namespace {

constexpr int kMaxEpochs = 1 << 20;  // 20 bits of the epoch word

bool IsWidth(int bits) {
  return (bits >= 1 && bits <= 8) || bits == 16 || bits == 32;
}

}  // namespace

absl::Status CheckStart(const v1::StartTrainer& start) {
  const v1::StageSpec& spec = start.spec();
  const auto wrong = [](auto&&... parts) { return absl::InvalidArgumentError(absl::StrCat("start message: ", parts...)); };
  if (start.world_size() < 1 || start.rank() < 0 || start.rank() >= start.world_size()) return wrong("rank ", start.rank(), " of ", start.world_size());
  const bool fixed_shards = spec.reduction() == v1::REDUCTION_FIXED_SHARDS;
  if (IsSplit(spec) && (!spec.has_guided() || start.world_size() % 2 != 0)) {
    return wrong("spec.placement is split, ", spec.has_guided() ? "and world_size odd" : "but the stage is not guided");
  }
  const int ranks = SetOf(start).size, min_ranks = spec.min_ranks() > 0 ? spec.min_ranks() : spec.ranks();
  if (min_ranks != spec.ranks() && !fixed_shards) return wrong("spec.min_ranks ", min_ranks, " to ", spec.ranks(), " ranks without fixed shards");
  if (ranks < min_ranks || ranks > spec.ranks()) {
    return wrong("world_size ", start.world_size(), " is not", IsSplit(spec) ? " twice" : "", " spec.ranks ",
                 min_ranks == spec.ranks() ? "" : absl::StrCat(min_ranks, " to "), spec.ranks());
  }
  if (fixed_shards && (spec.shards() < 1 || spec.shards() % ranks != 0)) {
    return wrong("spec.shards ", spec.shards(), " is not a multiple of ", ranks, " ranks");
  }
  if (!IsWidth(spec.weight_bits()) || !IsWidth(spec.activation_bits())) return wrong("widths ", spec.weight_bits(), "/", spec.activation_bits());
  if (spec.epochs() < 1 || spec.epochs() >= kMaxEpochs) return wrong("spec.epochs ", spec.epochs());
  if (spec.schedule_offset() < 0 || spec.schedule_epochs() < spec.schedule_offset() + spec.epochs()) {
    return wrong("epochs ", spec.schedule_offset(), " to ", spec.schedule_offset() + spec.epochs(), " are not within a schedule of ", spec.schedule_epochs());
  }
  const int parts = fixed_shards ? spec.shards() : spec.ranks();
  if (spec.batch_size() < 1 || spec.batch_size() % parts != 0) {
    return wrong("spec.batch_size ", spec.batch_size(), " is not a multiple of ", parts, fixed_shards ? " shards" : " ranks");
  }
  if (spec.data().train_limit() < 0 || spec.data().test_limit() < 0 || spec.data().held_back() < 0) return wrong("spec.data limits below zero");
  if (spec.checkpoint().every_steps() < 0) return wrong("spec.checkpoint.every_steps ", spec.checkpoint().every_steps());
  if (!v1::Numerics_IsValid(spec.numerics())) return wrong("spec.numerics ", static_cast<int>(spec.numerics()));
  if (HasTeacher(spec)) {
    const char* kind = spec.has_guided() ? "guided" : "distilling";
    const double factor = TeacherLearningRateFactorOf(spec);
    if (spec.has_guided() && spec.has_distillation()) return wrong("spec has both guided and distillation");
    if (!(factor >= 0 && std::isfinite(factor)))
      return wrong(spec.has_guided() ? "spec.guided" : "spec.distillation", ".teacher_learning_rate_factor ", factor);
    if (spec.parent().empty() && !spec.has_initial_weights()) return wrong("a ", kind, " stage needs a parent for its full-precision net");
    if (spec.activation() != v1::ACTIVATION_FUNCTION_CLIP) return wrong("a ", kind, " stage needs activations that clip");
    for (const int bits : spec.distillation().students()) {
      if (!IsWidth(bits) || bits == 32) return wrong("spec.distillation.students has width ", bits);
    }
  }
  if (spec.has_stochastic_precision()) {
    const double start_share = spec.stochastic_precision().start_share(), full_share_at = spec.stochastic_precision().full_share_at();
    if (!(start_share >= 0 && start_share <= 1)) return wrong("spec.stochastic_precision.start_share ", start_share);
    if (!(full_share_at > 0 && full_share_at <= 1)) return wrong("spec.stochastic_precision.full_share_at ", full_share_at);
  }
  if (start.checkpoint_dir().empty()) return wrong("checkpoint_dir is empty");
  if (!spec.parent().empty() && start.parent_path().empty() && start.resume_path().empty())
    return wrong("stage ", spec.name(), " has a parent, but no checkpoint of it came");
  if (spec.has_initial_weights() && !spec.parent().empty()) return wrong("stage ", spec.name(), " has both a parent and initial weights");
  if (spec.has_initial_weights() && start.weights_path().empty() && start.resume_path().empty())
    return wrong("stage ", spec.name(), " has initial weights, but no file of them came");
  return absl::OkStatus();
}

bool IsSplit(const v1::StageSpec& spec) {
  return spec.placement() == v1::PAIR_PLACEMENT_SPLIT;
}

GangSet SetOf(const v1::StartTrainer& start) {
  const int size = IsSplit(start.spec()) ? start.world_size() / 2 : start.world_size();
  return {.set = start.rank() / size, .rank = start.rank() % size, .size = size};
}

BatchParts PartsOf(const v1::StartTrainer& start) {
  const bool fixed = start.spec().reduction() == v1::REDUCTION_FIXED_SHARDS;
  const GangSet set = SetOf(start);
  const int count = fixed ? start.spec().shards() : set.size;
  return {.fixed = fixed, .count = count, .own = ShardsOfRank(count, set.rank, set.size)};
}

core::NetworkConfig NetworkConfigOf(const v1::StageSpec& spec, const core::SampleSource& data) {
  core::NetworkConfig config;
  config.network = spec.network();
  config.image_channels = data.shape().channels;
  config.image_height = data.shape().height;
  config.image_width = data.shape().width;
  config.classes = data.classes;
  config.weight_bits = spec.weight_bits();
  config.activation_bits = spec.activation_bits();
  config.activation = spec.activation() == v1::ACTIVATION_FUNCTION_RELU ? core::ActivationFunction::kRelu : core::ActivationFunction::kClip;
  config.quantizer = spec.quantizer();
  config.detach_weight_max = spec.detach_weight_max();
  config.quantize_last_activation = spec.quantize_last_activation();
  config.quantize_first_last = spec.quantize_first_last();
  config.pixels = core::RangeOfPixels(data.mean, data.std);
  config.weight_norm = spec.weight_norm() == v1::WEIGHT_NORM_STD ? core::WeightNorm::kStd : core::WeightNorm::kMax;
  config.shortcut_values = spec.shortcut_values() == v1::SHORTCUT_VALUES_FLOAT ? core::ShortcutValues::kFloat : core::ShortcutValues::kCodes;
  config.shortcut_conv_bits = spec.shortcut_conv_bits();
  config.layer_widths.insert(spec.layer_widths().begin(), spec.layer_widths().end());
  config.seed = spec.seed();
  config.numerics = spec.numerics() == v1::NUMERICS_FAST    ? core::Numerics::kFast
                    : spec.numerics() == v1::NUMERICS_FAST8 ? core::Numerics::kFast8
                                                            : core::Numerics::kReference;
  return config;
}

core::NetworkConfig ParentReluConfigOf(const v1::StageSpec& spec, const core::SampleSource& data) {
  core::NetworkConfig config = NetworkConfigOf(spec, data);
  config.weight_bits = 32;
  config.activation_bits = 32;
  config.activation = core::ActivationFunction::kRelu;
  return config;
}

core::NetworkConfig TeacherConfigOf(const v1::StageSpec& spec, const core::SampleSource& data) {
  core::NetworkConfig config = ParentReluConfigOf(spec, data);
  config.activation = core::ActivationFunction::kClip;
  return config;
}

core::NetworkConfig StudentConfigOf(const v1::StageSpec& spec, int further, const core::SampleSource& data) {
  core::NetworkConfig config = NetworkConfigOf(spec, data);
  config.weight_bits = spec.distillation().students(further);
  if (config.activation_bits != 32) config.activation_bits = config.weight_bits;
  return config;
}

bool HasTeacher(const v1::StageSpec& spec) {
  return spec.has_guided() || spec.has_distillation();
}

v1::TeacherStart TeacherStartOf(const v1::StageSpec& spec) {
  return spec.has_guided() ? spec.guided().teacher() : spec.distillation().teacher();
}

double TeacherLearningRateFactorOf(const v1::StageSpec& spec) {
  return spec.has_guided() ? spec.guided().teacher_learning_rate_factor() : spec.distillation().teacher_learning_rate_factor();
}

core::DistillationOptions DistillationOptionsOf(const v1::StageSpec& spec) {
  const v1::DistillationSpec& options = spec.distillation();
  return {.temperature = options.temperature(), .student_weight = options.student_weight(), .teacher_weight = options.teacher_weight()};
}

core::StochasticPrecisionOptions StochasticPrecisionOptionsOf(const v1::StageSpec& spec) {
  return {.start_share = spec.stochastic_precision().start_share(), .full_share_at = spec.stochastic_precision().full_share_at()};
}

core::GuidedOptions GuidedOptionsOf(const v1::StageSpec& spec) {
  core::GuidedOptions options{.lambda = spec.guided().lambda(), .hint_points = {spec.guided().hint_points().begin(), spec.guided().hint_points().end()}};
  if (spec.guided().has_temperature()) options.temperature = spec.guided().temperature();
  return options;
}

core::SgdOptions SgdOptionsOf(const v1::StageSpec& spec) {
  return {.momentum = spec.momentum(),
          .nesterov = spec.nesterov(),
          .weight_decay = spec.weight_decay(),
          .decay_batch_norm = spec.decay_batch_norm(),
          .batch_norm_learning_rate_factor = spec.has_batch_norm_learning_rate_factor() ? spec.batch_norm_learning_rate_factor() : 1};
}

core::LearningRateSchedule ScheduleOf(const v1::StageSpec& spec) {
  core::LearningRateSchedule schedule;
  schedule.kind =
      spec.learning_rate_schedule() == v1::LEARNING_RATE_SCHEDULE_STEP ? core::LearningRateSchedule::Kind::kStep : core::LearningRateSchedule::Kind::kCosine;
  schedule.initial = spec.learning_rate();
  schedule.epochs = spec.schedule_epochs();
  schedule.step_epochs.assign(spec.step_epochs().begin(), spec.step_epochs().end());
  schedule.gamma = spec.step_gamma();
  return schedule;
}

core::BatchLoaderOptions LoaderOptionsOf(const v1::StartTrainer& start) {
  return {.seed = start.spec().seed(),
          .rank = SetOf(start).rank,
          .world_size = SetOf(start).size,
          .shards = PartsOf(start).count,
          .batch_size = start.spec().batch_size(),
          .augment = start.spec().data().augmentation() == v1::AUGMENTATION_CROP_FLIP,
          .threads = std::max(1, start.slot().threads())};
}

int64_t EpochWord(const v1::StageSpec& spec, int epoch) {
  return (int64_t{spec.weight_bits()} << 26) + (int64_t{spec.activation_bits()} << 20) + epoch;
}

}  // namespace bitstair::trainer
