#include "server/job_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/status.h"
#include "server/gate.h"
#include "server/known_networks.h"
#include "server/phase_spec.h"
#include "server/stage_graph.h"
#include "server/sweep.h"

namespace bitstair::server {
namespace {

constexpr int kMaxBatchSize = 1 << 16;
constexpr size_t kMaxEnvironment = 32;
constexpr size_t kMaxTextBytes = 4096;
constexpr size_t kMaxLayerWidths = 64;
constexpr size_t kMaxPatternBytes = 128;
constexpr size_t kMaxVariableBytes = 256;

bool AllOf(const std::string& text, absl::string_view extra, bool upper) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (upper && c >= 'A' && c <= 'Z') || extra.find(c) != absl::string_view::npos;
  });
}

bool IsLabel(const std::string& text, size_t most) {
  return !text.empty() && text.size() <= most && AllOf(text, "-._", true);
}

class Resolver {
 public:
  explicit Resolver(v1::JobSpec spec) : spec_(std::move(spec)) {}

  absl::StatusOr<v1::JobSpec> Run() {
    Names();
    Data();
    Widths();
    Gates();
    if (!spec_.stages().empty()) {
      ResolveStages(&spec_, &faults_);
      spec_.set_schedule(v1::SCHEDULE_SCOPE_STAGE);
    }
    Counts();
    Distribution();
    Choices();
    LayerWidths();
    Optimizer();
    InitialWeights();
    const bool imported = spec_.has_initial_weights();
    const bool lower = spec_.stages().empty() && HasQuantizedStages(spec_);
    // Imported weights make it idle, not wrong: one recipe serves both.
    const bool idle = imported && lower;
    if (idle) spec_.clear_pretrain();
    Phase("pretrain", Has(32) && !idle, spec_.has_pretrain(), "no width is 32", 0.1, [this] { return spec_.mutable_pretrain(); });
    Phase("quantized", lower, spec_.has_quantized(), "no width is below 32", 0.02, [this] { return spec_.mutable_quantized(); });
    const auto one_for_each_stage = [&](const char* field, int entries) {
      if (faults_.empty() && lower && entries > 0 && entries != QuantizedStageCount(spec_)) {
        Fault(field, absl::StrCat("has ", entries, " entries, but there are ", QuantizedStageCount(spec_), " quantised stages"));
      }
    };
    one_for_each_stage("quantized.stage_epochs", spec_.quantized().stage_epochs_size());
    one_for_each_stage("quantized.stage_learning_rates", spec_.quantized().stage_learning_rates_size());
    if (faults_.empty() && spec_.quantized().stage_learning_rates_size() > 0 && spec_.schedule() != v1::SCHEDULE_SCOPE_STAGE) {
      Fault("quantized.stage_learning_rates", "needs schedule: stage; a chain has one schedule for all stages");
    }
    if (faults_.empty() && lower && spec_.quantized().epochs() < QuantizedStageCount(spec_)) {
      Fault("quantized.epochs",
            absl::StrCat("is ", spec_.quantized().epochs(), ", but the ", QuantizedStageCount(spec_), " quantised stages need at least one each"));
    }
    Guided();
    StochasticPrecision();
    Distillation();
    Environment();
    if (!faults_.empty()) return InvalidFields(faults_);
    return std::move(spec_);
  }

 private:
  void Fault(std::string field, std::string description) { faults_.push_back({std::move(field), std::move(description)}); }
  bool Has(int width) const { return std::find(spec_.widths().begin(), spec_.widths().end(), width) != spec_.widths().end(); }

  // Writes `fallback` out if the field is absent, and checks low <= value <= high.
  template <typename T>
  void Range(const std::string& field, bool present, T value, T fallback, T low, T high, void (v1::JobSpec::*set)(T)) {
    if (!present) {
      (spec_.*set)(fallback);
    } else if (!(value >= low && value <= high)) {
      Fault(field, absl::StrCat("is ", value, "; must be ", low, " to ", high));
    }
  }

  // Writes `fallback` out for UNSPECIFIED and refuses numbers that the enum does not have.
  template <typename E, typename Set>
  void Choice(const std::string& field, E value, E fallback, bool (*is_valid)(int), Set set) {
    if (static_cast<int>(value) == 0) {
      set(fallback);
    } else if (!is_valid(static_cast<int>(value))) {
      Fault(field, absl::StrCat("has no value ", static_cast<int>(value)));
    }
  }

  void Names() {
    const std::string& name = spec_.name();
    if (name.empty()) {
      Fault("name", "is required");
    } else if (name.size() > 40 || !AllOf(name, "-_.", false)) {
      Fault("name", "must be 1 to 40 characters of a-z, 0-9, '-', '_' and '.'");
    }
    const auto& known = KnownNetworks();
    if (spec_.network().empty()) {
      Fault("network", absl::StrCat("is required; known: ", absl::StrJoin(known, ", ")));
    } else if (std::find(known.begin(), known.end(), spec_.network()) == known.end()) {
      Fault("network", absl::StrCat("\"", Shown(spec_.network()), "\" is not known; known: ", absl::StrJoin(known, ", ")));
    }
    if (spec_.quantizer().empty()) spec_.set_quantizer("dorefa");
    Quantizer();
  }

  static std::string Shown(const std::string& text) { return text.size() <= 80 ? text : absl::StrCat(text.substr(0, 77), "..."); }

  void Data() {
    auto* data = spec_.mutable_data();
    if (data->name().empty() == data->path().empty()) {
      Fault("data", data->name().empty() ? "needs a name (of a data set that workers offer) or a path" : "has both name and path; give one");
    }
    if (data->name().size() > 64 || !AllOf(data->name(), "-_.", true)) {
      Fault("data.name", "must be at most 64 characters of A-Z, a-z, 0-9, '-', '_' and '.'");
    }
    if (!data->path().empty() && !IsPlainPath(data->path())) Fault("data.path", "must be an absolute path on the workers, without . and ..");
    Choice("data.augmentation", data->augmentation(), v1::AUGMENTATION_NONE, v1::Augmentation_IsValid, [&](auto v) { data->set_augmentation(v); });
    Choice("data.unreadable_images", data->unreadable_images(), v1::UNREADABLE_IMAGES_ERROR, v1::UnreadableImages_IsValid,
           [&](auto v) { data->set_unreadable_images(v); });
    data->set_train_limit(data->train_limit());
    data->set_test_limit(data->test_limit());
    data->set_held_back(data->held_back());
    if (data->train_limit() < 0) Fault("data.train_limit", absl::StrCat("is ", data->train_limit(), "; must be 0 (all) or more"));
    if (data->held_back() < 0) Fault("data.held_back", absl::StrCat("is ", data->held_back(), "; must be 0 (none) or more"));
    if (data->test_limit() < 0) Fault("data.test_limit", absl::StrCat("is ", data->test_limit(), "; must be 0 (all) or more"));
  }

  void Widths() {
    if (spec_.widths().empty() && spec_.stages().empty()) Fault("widths", "is required, e.g. [32, 8, 4]");
    for (int i = 0; i < spec_.widths_size() && i < 32; ++i) {
      const int bits = spec_.widths(i);
      const std::string field = absl::StrCat("widths[", i, "]");
      if (!((bits >= 1 && bits <= 8) || bits == 16 || bits == 32)) {
        Fault(field, absl::StrCat("is ", bits, "; must be 1 to 8, 16 or 32"));
      } else if (i > 0 && bits >= spec_.widths(i - 1)) {
        Fault(field, absl::StrCat("is ", bits, " after ", spec_.widths(i - 1), "; widths must go down"));
      }
    }
  }

  void Gates() {
    Choice("on_gate_failure", spec_.on_gate_failure(), v1::GATE_ACTION_STOP, v1::GateAction_IsValid, [&](auto v) { spec_.set_on_gate_failure(v); });
    if (spec_.require().empty()) return;
    const auto gate = ParseGate(spec_.require());
    if (!gate.ok()) return Fault("require", std::string(gate.status().message()));
    if (!spec_.stages().empty()) return;  // each of them is looked at
    if (!spec_.widths().empty() && !HasQuantizedStages(spec_)) Fault("require", "is given, but no width is below 32");
    if (IsDrop(*gate) && !spec_.widths().empty() && (!Has(32) || spec_.has_initial_weights())) {
      Fault("require", absl::StrCat(gate->metric, " needs a full-precision stage: widths must begin with 32, without initial_weights"));
    }
  }

  // How a stage's ranks share its work.
  void Distribution() {
    Choice("reduction", spec_.reduction(), v1::REDUCTION_REDUCER, v1::Reduction_IsValid, [&](auto v) { spec_.set_reduction(v); });
    Choice("placement", spec_.placement(), v1::PAIR_PLACEMENT_COLOCATED, v1::PairPlacement_IsValid, [&](auto v) { spec_.set_placement(v); });
    if (spec_.placement() == v1::PAIR_PLACEMENT_SPLIT && !spec_.has_guided()) Fault("placement", "is split, but there is no pair to split: it needs guided");
    if (spec_.placement() == v1::PAIR_PLACEMENT_SPLIT && spec_.ranks() > 32) Fault("ranks", "must be at most 32 with placement: split, which doubles them");
    if (!spec_.has_min_ranks()) spec_.set_min_ranks(spec_.ranks());
    if (spec_.ranks() < 1) return;  // told already
    if (spec_.min_ranks() < 1) {
      return Fault("min_ranks", absl::StrCat("is ", spec_.min_ranks(), "; must be 1 to ", spec_.ranks()));
    }
    if (spec_.min_ranks() > spec_.ranks()) {
      return Fault("min_ranks", absl::StrCat("is ", spec_.min_ranks(), ", more than ranks (", spec_.ranks(), "): a range goes up, as in 1..8"));
    }
    if (spec_.reduction() != v1::REDUCTION_FIXED_SHARDS) {
      if (spec_.has_shards()) Fault("shards", "needs reduction: fixed_shards");
      if (spec_.min_ranks() < spec_.ranks()) Fault("min_ranks", "needs reduction: fixed_shards, so that the result does not depend on the number of ranks");
      return;
    }
    if (!spec_.has_shards()) spec_.set_shards(spec_.ranks());
    const int shards = spec_.shards();
    if (shards < 1 || shards > 64) return Fault("shards", absl::StrCat("is ", shards, "; must be 1 to 64"));
    for (const int ranks : {spec_.ranks(), spec_.min_ranks()}) {
      if (ranks > 0 && shards % ranks != 0) return Fault("shards", absl::StrCat("is ", shards, ", not a multiple of ", ranks, " ranks"));
    }
    if (spec_.batch_size() > 0 && spec_.batch_size() % shards != 0) {
      Fault("batch_size", absl::StrCat("is ", spec_.batch_size(), ", not a multiple of shards (", shards, ")"));
    }
  }

  void Counts() {
    if (!spec_.has_seed()) spec_.set_seed(1);
    Range<int32_t>("ranks", spec_.has_ranks(), spec_.ranks(), 1, 1, 64, &v1::JobSpec::set_ranks);
    Range<int32_t>("batch_size", spec_.has_batch_size(), spec_.batch_size(), 128, 1, kMaxBatchSize, &v1::JobSpec::set_batch_size);
    if (spec_.ranks() > 0 && spec_.batch_size() > 0 && spec_.batch_size() % spec_.ranks() != 0) {
      Fault("batch_size", absl::StrCat("is ", spec_.batch_size(), ", not a multiple of ranks (", spec_.ranks(), ")"));
    }
    if (spec_.data().train_limit() > 0 && spec_.data().train_limit() < spec_.batch_size()) {
      Fault("data.train_limit", absl::StrCat("is ", spec_.data().train_limit(), ", less than one batch (", spec_.batch_size(), ")"));
    }
    Scheduling();
    Range<int32_t>("max_attempts", spec_.has_max_attempts(), spec_.max_attempts(), 3, 1, 100, &v1::JobSpec::set_max_attempts);
    auto* checkpoint = spec_.mutable_checkpoint();
    checkpoint->set_every_steps(checkpoint->every_steps());
    if (checkpoint->every_steps() < 0)
      Fault("checkpoint.every_steps", absl::StrCat("is ", checkpoint->every_steps(), "; must be 0 (only at epochs' ends) or more"));
    if (!checkpoint->has_every_epoch()) checkpoint->set_every_epoch(true);
  }

  void Choices() {
    spec_.set_two_stage(spec_.two_stage());
    Choice("order", spec_.order(), v1::STAGE_ORDER_PER_WIDTH, v1::StageOrder_IsValid, [&](auto v) { spec_.set_order(v); });
    Choice("two_stage_activation", spec_.two_stage_activation(), v1::ACTIVATION_FUNCTION_CLIP, v1::ActivationFunction_IsValid,
           [&](auto v) { spec_.set_two_stage_activation(v); });
    Choice("pretrain_activation", spec_.pretrain_activation(), v1::ACTIVATION_FUNCTION_RELU, v1::ActivationFunction_IsValid,
           [&](auto v) { spec_.set_pretrain_activation(v); });
    Choice("activation_calibration", spec_.activation_calibration(), v1::ACTIVATION_CALIBRATION_PERCENTILE, v1::ActivationCalibration_IsValid,
           [&](auto v) { spec_.set_activation_calibration(v); });
    Choice("schedule", spec_.schedule(), v1::SCHEDULE_SCOPE_CHAIN, v1::ScheduleScope_IsValid, [&](auto v) { spec_.set_schedule(v); });
    Choice("numerics", spec_.numerics(), v1::NUMERICS_FAST, v1::Numerics_IsValid, [&](auto v) { spec_.set_numerics(v); });
    if (!spec_.has_calibration_percentile()) spec_.set_calibration_percentile(99.9);
    if (!(spec_.calibration_percentile() > 50 && spec_.calibration_percentile() <= 100)) {
      Fault("calibration_percentile", absl::StrCat("is ", spec_.calibration_percentile(), "; must be above 50 and at most 100"));
    }
    Choice("shortcut_values", spec_.shortcut_values(), v1::SHORTCUT_VALUES_CODES, v1::ShortcutValues_IsValid, [&](auto v) { spec_.set_shortcut_values(v); });
    Choice("weight_norm", spec_.weight_norm(), v1::WEIGHT_NORM_MAX, v1::WeightNorm_IsValid, [&](auto v) { spec_.set_weight_norm(v); });
    if (spec_.has_shortcut_conv_bits() && spec_.shortcut_conv_bits() != 8 && spec_.shortcut_conv_bits() != 32) {
      Fault("shortcut_conv_bits", absl::StrCat("is ", spec_.shortcut_conv_bits(), "; must be 8 or 32, or left out for the stage's own width"));
    }
    spec_.set_detach_weight_max(spec_.detach_weight_max());
    spec_.set_quantize_last_activation(spec_.quantize_last_activation());
    spec_.set_quantize_first_last(spec_.quantize_first_last());
    if (!spec_.quantize_first_last()) return;
    if (spec_.quantize_last_activation()) Fault("quantize_first_last", "and quantize_last_activation exclude each other: the last activation has 8 bits");
    if (HasReluStages()) Fault("quantize_first_last", "needs two_stage_activation: clip");
  }

  void Optimizer() {
    if (!spec_.has_momentum()) spec_.set_momentum(0.9);
    if (!(spec_.momentum() >= 0 && spec_.momentum() < 1)) Fault("momentum", absl::StrCat("is ", spec_.momentum(), "; must be at least 0 and below 1"));
    if (!spec_.has_nesterov()) spec_.set_nesterov(spec_.momentum() > 0);
    if (spec_.nesterov() && spec_.momentum() == 0) Fault("nesterov", "needs a momentum above 0");
    Range<double>("weight_decay", spec_.has_weight_decay(), spec_.weight_decay(), 1e-4, 0.0, 1.0, &v1::JobSpec::set_weight_decay);
    if (!spec_.has_decay_batch_norm()) spec_.set_decay_batch_norm(true);
    Range<double>("batch_norm_learning_rate_factor", spec_.has_batch_norm_learning_rate_factor(), spec_.batch_norm_learning_rate_factor(), 1.0, 0.0, 1.0,
                  &v1::JobSpec::set_batch_norm_learning_rate_factor);
  }

  template <typename Mutable>
  void Phase(const std::string& name, bool wanted, bool present, const char* why_not, double learning_rate, Mutable get) {
    if (wanted) {
      ResolvePhase(name, learning_rate, get(), &faults_);
    } else if (present && !spec_.widths().empty()) {
      Fault(name, absl::StrCat("is given, but ", why_not));
    }
  }

  void LayerWidths() {
    if (spec_.layer_widths().size() > kMaxLayerWidths) Fault("layer_widths", absl::StrCat("has more than ", kMaxLayerWidths, " entries"));
    std::vector<std::pair<std::string, std::string>> sorted(spec_.layer_widths().begin(), spec_.layer_widths().end());
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [pattern, width] : sorted) {
      const std::string field = absl::StrCat("layer_widths[\"", Shown(pattern), "\"]");
      int bits = 0;
      if (pattern.empty() || pattern.size() > kMaxPatternBytes || !AllOf(pattern, "._*", true)) {
        Fault(field, "must be a name pattern of A-Z, a-z, 0-9, '.', '_' and '*'");
      } else if (!absl::SimpleAtoi(width, &bits) || !((bits >= 1 && bits <= 8) || bits == 16 || bits == 32)) {
        Fault(field, absl::StrCat("is \"", Shown(width), "\"; must be 1 to 8, 16 or 32"));
      }
    }
  }

  void Scheduling() {
    if (!spec_.has_share()) spec_.set_share(true);
    if (!spec_.has_preemptible()) spec_.set_preemptible(true);
    Choice("priority", spec_.priority(), v1::PRIORITY_CLASS_NORMAL, v1::PriorityClass_IsValid, [&](auto v) { spec_.set_priority(v); });
    if (!spec_.has_queue()) spec_.set_queue("default");
    if (!IsQueueName(spec_.queue())) Fault("queue", "must be 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'");
    if (spec_.labels().size() > 16) Fault("labels", "has more than 16 entries");
    std::vector<std::pair<std::string, std::string>> sorted(spec_.labels().begin(), spec_.labels().end());
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [key, value] : sorted) {
      if (!IsLabel(key, 63) || !IsLabel(value, 63)) {
        Fault(absl::StrCat("labels[\"", Shown(key), "\"]"), "and its value must be 1 to 63 characters of A-Z, a-z, 0-9, '-', '_' and '.'");
      }
    }
  }

  // Components that lead elsewhere are refused here, before any worker looks at them; links are for the worker to see.
  static bool IsPlainPath(const std::string& path) {
    if (path[0] != '/' || path.size() > kMaxTextBytes || path.find('\0') != std::string::npos) return false;
    const std::vector<std::string> components = absl::StrSplit(path, '/');
    return std::none_of(components.begin(), components.end(), [](const std::string& component) { return component == "." || component == ".."; });
  }

  void InitialWeights() {
    if (!spec_.has_initial_weights()) return;
    auto* weights = spec_.mutable_initial_weights();
    if (weights->path().empty()) {
      Fault("initial_weights.path", "is required");
    } else if (!IsPlainPath(weights->path())) {
      Fault("initial_weights.path", "must be an absolute path on the workers, without . and ..");
    }
    weights->set_allow_missing(weights->allow_missing());
    weights->set_allow_unexpected(weights->allow_unexpected());
  }

  // core/quant/ has what each of them is (docs/quantizers.md).
  void Quantizer() {
    const std::string& name = spec_.quantizer();
    if (name == "dorefa") return;
    if (name != "lsq" && name != "pact") return Fault("quantizer", absl::StrCat("\"", Shown(name), "\" is not known; known: dorefa, lsq, pact"));
    const auto needs_dorefa = [&](bool given, const char* field) {
      if (given) Fault(field, absl::StrCat("needs quantizer: dorefa, not ", name));
    };
    needs_dorefa(spec_.has_guided(), "guided");
    // Their learned scalars would have to start anew where a stage begins to quantise activations.
    needs_dorefa(spec_.distillation().students_size() > 0, "distillation.students");
    needs_dorefa(!spec_.layer_widths().empty(), "layer_widths");
    needs_dorefa(name == "lsq" && spec_.weight_norm() == v1::WEIGHT_NORM_STD, "weight_norm");
    needs_dorefa(name == "lsq" && spec_.detach_weight_max(), "detach_weight_max");
    const auto check_width = [&](const std::string& field, int bits) {
      if (bits == 16 || (bits == 1 && name == "lsq")) Fault(field, absl::StrCat("is ", bits, "; ", name, " has ", name == "lsq" ? 2 : 1, " to 8 bits"));
    };
    for (int i = 0; i < spec_.widths_size(); ++i) check_width(absl::StrCat("widths[", i, "]"), spec_.widths(i));
    for (int i = 0; i < spec_.stages_size() && i < kMaxStages; ++i) {
      check_width(absl::StrCat("stages[", i, "].weight_bits"), spec_.stages(i).weight_bits());
      if (spec_.stages(i).has_activation_bits()) check_width(absl::StrCat("stages[", i, "].activation_bits"), spec_.stages(i).activation_bits());
    }
  }

  void Guided() {
    if (!spec_.has_guided()) return;
    v1::GuidedSpec* guided = spec_.mutable_guided();
    FullPrecisionNet("guided");
    if (!guided->has_lambda()) guided->set_lambda(10);
    if (!(guided->lambda() >= 0 && guided->lambda() <= 1e6)) Fault("guided.lambda", absl::StrCat("is ", guided->lambda(), "; must be 0 to 1e6"));
    if (!guided->has_teacher_learning_rate_factor()) guided->set_teacher_learning_rate_factor(0.2);
    if (!(guided->teacher_learning_rate_factor() >= 0 && guided->teacher_learning_rate_factor() <= 100)) {
      Fault("guided.teacher_learning_rate_factor", absl::StrCat("is ", guided->teacher_learning_rate_factor(), "; must be 0 to 100"));
    }
    Choice("guided.teacher", guided->teacher(), v1::TEACHER_START_CARRY, v1::TeacherStart_IsValid, [&](auto v) { guided->set_teacher(v); });
    HintPoints(*guided);
    const bool logits = std::find(guided->hint_points().begin(), guided->hint_points().end(), "logits") != guided->hint_points().end();
    if (guided->has_temperature() && !logits) Fault("guided.temperature", "needs the hint point logits");
    if (logits && !guided->has_temperature()) guided->set_temperature(4);
    if (logits && !(guided->temperature() > 0 && guided->temperature() <= 100)) {
      Fault("guided.temperature", absl::StrCat("is ", guided->temperature(), "; must be above 0 and at most 100"));
    }
  }

  bool NothingQuantized() const { return !(spec_.widths().empty() && spec_.stages().empty()) && !HasQuantizedStages(spec_); }
  // Whether stages with quantised weights alone are trained with ReLU.
  bool HasReluStages() const {
    const bool weights_alone = spec_.two_stage() || std::any_of(spec_.stages().begin(), spec_.stages().end(),
                                                                [](const auto& stage) { return stage.activation_bits() == 32 && stage.weight_bits() < 32; });
    return weights_alone && spec_.two_stage_activation() == v1::ACTIVATION_FUNCTION_RELU;
  }

  // What a method needs that trains a full-precision net beside the quantised one.
  void FullPrecisionNet(const std::string& field) {
    if (!spec_.widths().empty() && !Has(32) && !spec_.has_initial_weights()) {
      Fault(field, "needs a full-precision stage for its full-precision net: widths must begin with 32, or initial_weights be given");
    }
    if (NothingQuantized()) Fault(field, "is given, but no width is below 32");
    if (HasReluStages()) Fault(field, "needs two_stage_activation: clip");
  }

  void StochasticPrecision() {
    if (!spec_.has_stochastic_precision()) return;
    v1::StochasticPrecisionSpec* options = spec_.mutable_stochastic_precision();
    if (NothingQuantized()) Fault("stochastic_precision", "is given, but no width is below 32");
    if (HasReluStages()) Fault("stochastic_precision", "needs two_stage_activation: clip");
    if (spec_.quantizer() != "dorefa") Fault("stochastic_precision", "needs quantizer: dorefa, whose weights have values before rounding");
    if (!options->has_start_share()) options->set_start_share(0.5);
    if (!(options->start_share() >= 0 && options->start_share() <= 1)) {
      Fault("stochastic_precision.start_share", absl::StrCat("is ", options->start_share(), "; must be 0 to 1"));
    }
    if (!options->has_full_share_at()) options->set_full_share_at(0.8);
    if (!(options->full_share_at() > 0 && options->full_share_at() <= 1)) {
      Fault("stochastic_precision.full_share_at", absl::StrCat("is ", options->full_share_at(), "; must be above 0 and at most 1"));
    }
  }

  void Distillation() {
    if (!spec_.has_distillation()) return;
    v1::DistillationSpec* options = spec_.mutable_distillation();
    if (spec_.has_guided()) Fault("distillation", "and guided exclude each other");
    FullPrecisionNet("distillation");
    if (!options->has_temperature()) options->set_temperature(1);
    if (!(options->temperature() > 0 && options->temperature() <= 100)) {
      Fault("distillation.temperature", absl::StrCat("is ", options->temperature(), "; must be above 0 and at most 100"));
    }
    if (!options->has_student_weight()) options->set_student_weight(0.5);
    if (!options->has_teacher_weight()) options->set_teacher_weight(0.5);
    if (!options->has_teacher_learning_rate_factor()) options->set_teacher_learning_rate_factor(0.2);
    const auto check = [&](const char* name, double value, double most) {
      if (!(value >= 0 && value <= most)) Fault(absl::StrCat("distillation.", name), absl::StrCat("is ", value, "; must be 0 to ", most));
    };
    check("student_weight", options->student_weight(), 1e6);
    check("teacher_weight", options->teacher_weight(), 1e6);
    check("teacher_learning_rate_factor", options->teacher_learning_rate_factor(), 100);
    Choice("distillation.teacher", options->teacher(), v1::TEACHER_START_CARRY, v1::TeacherStart_IsValid, [&](auto v) { options->set_teacher(v); });
    if (options->students_size() > 8) return Fault("distillation.students", "has more than 8 entries");
    std::set<int> seen;
    for (int i = 0; i < options->students_size(); ++i) {
      const int bits = options->students(i);
      const std::string field = absl::StrCat("distillation.students[", i, "]");
      if (!((bits >= 1 && bits <= 8) || bits == 16)) {
        Fault(field, absl::StrCat("is ", bits, "; must be 1 to 8, or 16"));
      } else if (!seen.insert(bits).second) {
        Fault(field, absl::StrCat("is ", bits, " again; students differ in their widths"));
      }
    }
  }

  void HintPoints(const v1::GuidedSpec& guided) {
    if (guided.hint_points_size() > 64) return Fault("guided.hint_points", "has more than 64 entries");
    const std::vector<std::string> known = KnownHintPoints(spec_.network());
    std::set<std::string> seen;
    for (int i = 0; i < guided.hint_points_size(); ++i) {
      const std::string& name = guided.hint_points(i);
      const std::string field = absl::StrCat("guided.hint_points[", i, "]");
      if (!seen.insert(name).second) Fault(field, absl::StrCat("\"", Shown(name), "\" is named twice"));
      // Of an unknown network nothing is known here.
      if (!known.empty() && std::find(known.begin(), known.end(), name) == known.end()) {
        Fault(field, absl::StrCat("\"", Shown(name), "\" is no hint point of ", spec_.network(), "; known: ", absl::StrJoin(known, ", ")));
      }
    }
  }

  // Variables that name a file, or a library to load, would let a recipe reach into the worker's machine.
  static bool NamesAFile(const std::string& key, const std::string& value) {
    for (const char* part : {"FILE", "PATH", "DIR", "DUMP", "PLUGIN", "LIBRAR", "OMP_TOOL", "NCCL_NET_", "NCCL_HOME"}) {
      if (absl::StrContains(key, part)) return true;
    }
    return value.find('/') != std::string::npos;
  }

  void Environment() {
    if (spec_.environment().size() > kMaxEnvironment) Fault("environment", absl::StrCat("has more than ", kMaxEnvironment, " entries"));
    std::vector<std::pair<std::string, std::string>> sorted(spec_.environment().begin(), spec_.environment().end());
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [key, value] : sorted) {
      const std::string field = absl::StrCat("environment[\"", Shown(key), "\"]");
      const bool allowed = absl::StartsWith(key, "NCCL_") || absl::StartsWith(key, "GLOO_") || absl::StartsWith(key, "OMP_");
      const bool well_formed = std::all_of(key.begin(), key.end(), [](char c) { return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; });
      if (!allowed || !well_formed) {
        Fault(field, "is not allowed; only NCCL_*, GLOO_* and OMP_* are");
      } else if (NamesAFile(key, value)) {
        Fault(field, "names a file, which is not allowed");
      } else if (key.size() > kMaxVariableBytes || value.size() > kMaxVariableBytes || value.find('\0') != std::string::npos) {
        Fault(field, "has a value that is too long or holds a zero byte");
      }
    }
  }

  v1::JobSpec spec_;
  std::vector<FieldViolation> faults_;
};

}  // namespace

int QuantizedStageCount(const v1::JobSpec& resolved) {
  const int widths = static_cast<int>(std::count_if(resolved.widths().begin(), resolved.widths().end(), [](int bits) { return bits != 32; }));
  return resolved.two_stage() ? 2 * widths : widths;
}

int StageCount(const v1::JobSpec& resolved) {
  if (!resolved.stages().empty()) return resolved.stages_size();
  return QuantizedStageCount(resolved) + (resolved.has_pretrain() ? 1 : 0);
}

namespace {

// Where a fault of a variant was written: at the swept value that it is about, or, if none is, at its own place.
FieldViolation InSweep(const FieldViolation& fault, const Variant& variant) {
  for (const auto& [field, index] : variant.choices) {
    const std::string inside = fault.field.substr(0, field.size() + 1);
    if (fault.field != field && inside != field + "." && inside != field + "[") continue;
    const std::string rest = fault.field.substr(field.size());
    return {absl::StrCat("sweep[\"", field, "\"][", index, "]"), absl::StrCat(field, rest, " ", fault.description)};
  }
  return fault;
}

absl::StatusOr<v1::JobSpec> ResolveSweep(v1::JobSpec spec) {
  std::vector<FieldViolation> faults;
  std::set<std::pair<std::string, std::string>> seen;
  int stages = 0;
  v1::JobSpec first;
  for (const Variant& variant : ExpandSweep(spec, &faults)) {
    const auto resolved = ResolveJobSpec(variant.spec);
    if (resolved.ok()) {
      stages += StageCount(*resolved);
      if (first.name().empty()) first = *resolved;
      continue;
    }
    for (const FieldViolation& fault : GetFieldViolations(resolved.status())) {
      FieldViolation placed = InSweep(fault, variant);
      if (seen.insert({placed.field, placed.description}).second) faults.push_back(std::move(placed));
    }
  }
  if (stages > kMaxStages) faults.push_back({"sweep", absl::StrCat("makes ", stages, " stages over all variants; at most ", kMaxStages)});
  if (!faults.empty()) return InvalidFields(faults);
  CopyJobFields(first, &spec);
  return spec;
}

}  // namespace

absl::StatusOr<v1::JobSpec> ResolveJobSpec(v1::JobSpec spec) {
  return spec.sweep().empty() ? Resolver(std::move(spec)).Run() : ResolveSweep(std::move(spec));
}

bool IsQueueName(const std::string& name) {
  return IsLabel(name, 40);
}

}  // namespace bitstair::server
