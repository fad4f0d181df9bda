#include "server/planner.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/job_spec.h"
#include "server/stage_graph.h"
#include "server/stage_key.h"
#include "server/sweep.h"

namespace bitstair::server {
namespace {

struct Bits {
  int weights;
  int activations;
};

std::vector<Bits> QuantizedBits(const v1::JobSpec& spec) {
  std::vector<int> widths;
  for (const int bits : spec.widths()) {
    if (bits != 32) widths.push_back(bits);
  }
  std::vector<Bits> stages;
  if (!spec.two_stage()) {
    for (const int bits : widths) stages.push_back({bits, bits});
  } else if (spec.order() == v1::STAGE_ORDER_PER_STAGE) {
    for (const int bits : widths) stages.push_back({bits, 32});
    for (const int bits : widths) stages.push_back({widths.back(), bits});
  } else {
    int activations = 32;
    for (const int bits : widths) {
      stages.push_back({bits, activations});
      stages.push_back({bits, bits});
      activations = bits;
    }
  }
  return stages;
}

// `total` >= stages.size(); see PlanStages.
std::vector<int> ShareEpochs(const std::vector<Bits>& stages, int total) {
  const int count = static_cast<int>(stages.size());
  const int last_weights = stages.back().weights;
  const int last_group = static_cast<int>(std::count_if(stages.begin(), stages.end(), [&](const Bits& b) { return b.weights == last_weights; }));
  const int others = count - last_group;
  const int for_others = others == 0 ? 0 : std::max(others, std::min(total / 2, total - last_group));
  std::vector<int> epochs(count, 1);
  // What does not divide evenly goes to the later ones: they are the harder ones.
  for (int i = 0; i < others; ++i) epochs[i] = for_others / others + (i >= others - for_others % others ? 1 : 0);
  const int for_last = total - for_others;
  const int each = std::max(1, for_last / (last_group + 1));
  for (int i = others; i < count - 1; ++i) epochs[i] = each;
  epochs[count - 1] = for_last - each * (last_group - 1);
  return epochs;
}

v1::StageSpec CommonFields(const v1::JobSpec& spec, const std::string& data_digest) {
  v1::StageSpec stage;
  stage.set_momentum(spec.momentum());
  stage.set_nesterov(spec.nesterov());
  stage.set_weight_decay(spec.weight_decay());
  stage.set_decay_batch_norm(spec.decay_batch_norm());
  stage.set_network(spec.network());
  stage.set_calibration(v1::ACTIVATION_CALIBRATION_NONE);
  stage.set_calibration_percentile(spec.calibration_percentile());
  stage.set_quantizer(spec.quantizer());
  stage.set_detach_weight_max(spec.detach_weight_max());
  stage.set_quantize_last_activation(spec.quantize_last_activation());
  stage.set_quantize_first_last(spec.quantize_first_last());
  stage.set_shortcut_values(spec.shortcut_values());
  stage.set_shortcut_conv_bits(spec.shortcut_conv_bits());
  stage.set_weight_norm(spec.weight_norm());
  for (const auto& [pattern, width] : spec.layer_widths()) {
    int bits = 0;
    if (absl::SimpleAtoi(width, &bits)) (*stage.mutable_layer_widths())[pattern] = bits;  // job_spec.cc has checked it
  }
  stage.set_numerics(spec.numerics());
  stage.set_seed(spec.seed());
  stage.set_ranks(spec.ranks());
  if (spec.min_ranks() < spec.ranks()) stage.set_min_ranks(spec.min_ranks());
  if (spec.reduction() == v1::REDUCTION_FIXED_SHARDS) {
    stage.set_reduction(spec.reduction());
    stage.set_shards(spec.shards());
  }
  stage.set_batch_size(spec.batch_size());
  *stage.mutable_data() = spec.data();
  stage.set_data_digest(data_digest);
  *stage.mutable_checkpoint() = spec.checkpoint();
  *stage.mutable_environment() = spec.environment();
  return stage;
}

void SetPhase(const v1::PhaseSpec& phase, v1::StageSpec* stage) {
  stage->set_learning_rate(phase.learning_rate());
  stage->set_learning_rate_schedule(phase.learning_rate_schedule());
  *stage->mutable_step_epochs() = phase.step_epochs();
  stage->set_step_gamma(phase.step_gamma());
}

void ScaleStepEpochs(int phase_epochs, v1::StageSpec* stage) {
  const auto whole = stage->step_epochs();
  stage->clear_step_epochs();
  int last = 0;
  for (const int epoch : whole) {
    const int scaled = static_cast<int>(static_cast<int64_t>(epoch) * stage->epochs() / phase_epochs);
    if (scaled > last) stage->add_step_epochs(last = scaled);
  }
}

// What the methods of the recipe add to a quantised stage.
void SetMethods(const v1::JobSpec& spec, v1::StageSpec* stage) {
  if (spec.has_guided()) *stage->mutable_guided() = spec.guided();
  if (spec.has_guided() && spec.placement() == v1::PAIR_PLACEMENT_SPLIT) stage->set_placement(spec.placement());
  if (spec.has_stochastic_precision()) *stage->mutable_stochastic_precision() = spec.stochastic_precision();
  if (spec.has_distillation()) *stage->mutable_distillation() = spec.distillation();
  // Absent also in recipes that were resolved before it was there.
  if (spec.has_batch_norm_learning_rate_factor() && spec.batch_norm_learning_rate_factor() != 1)
    stage->set_batch_norm_learning_rate_factor(spec.batch_norm_learning_rate_factor());
}

void SetBits(Bits bits, v1::StageSpec* stage) {
  stage->set_name(absl::StrCat("W", bits.weights, "A", bits.activations));
  stage->set_weight_bits(bits.weights);
  stage->set_activation_bits(bits.activations);
}

// One recipe's stages, without sweep.
class Plan {
 public:
  Plan(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest)
      : spec_(resolved), weights_digest_(weights_digest), common_(CommonFields(resolved, data_digest)) {}

  std::vector<PlannedStage> Run() {
    spec_.stages().empty() ? Staircase() : Graph();
    return std::move(stages_);
  }

 private:
  void Import(v1::StageSpec* stage) const {
    *stage->mutable_initial_weights() = spec_.initial_weights();
    stage->set_initial_weights_digest(weights_digest_);
  }

  // before: the activation function of what it starts from.
  void Calibrate(v1::ActivationFunction before, v1::StageSpec* stage) const {
    const bool from_relu = before == v1::ACTIVATION_FUNCTION_RELU && stage->activation() == v1::ACTIVATION_FUNCTION_CLIP;
    if (from_relu) stage->set_calibration(spec_.activation_calibration());
  }

  void Staircase() {
    const std::vector<Bits> bits = QuantizedBits(spec_);
    if (!spec_.widths().empty() && spec_.widths(0) == 32 && (!spec_.has_initial_weights() || bits.empty())) {
      v1::StageSpec stage = common_;
      SetBits({32, 32}, &stage);
      stage.set_activation(spec_.pretrain_activation());
      SetPhase(spec_.pretrain(), &stage);
      stage.set_epochs(spec_.pretrain().epochs());
      stage.set_schedule_epochs(stage.epochs());
      if (spec_.has_initial_weights()) Import(&stage);
      stages_.push_back({std::move(stage), "", v1::GATE_ACTION_UNSPECIFIED});
    }
    if (bits.empty()) return;
    const int phase_epochs = spec_.quantized().epochs();
    const auto& given = spec_.quantized().stage_epochs();
    const std::vector<int> epochs = given.empty() ? ShareEpochs(bits, phase_epochs) : std::vector<int>(given.begin(), given.end());
    int offset = 0;
    for (size_t i = 0; i < bits.size(); ++i) {
      v1::StageSpec stage = common_;
      SetBits(bits[i], &stage);
      stage.set_activation(bits[i].activations == 32 ? spec_.two_stage_activation() : v1::ACTIVATION_FUNCTION_CLIP);
      stage.set_epochs(epochs[i]);
      SetPhase(spec_.quantized(), &stage);
      if (!spec_.quantized().stage_learning_rates().empty()) stage.set_learning_rate(spec_.quantized().stage_learning_rates(static_cast<int>(i)));
      SetMethods(spec_, &stage);
      if (spec_.schedule() == v1::SCHEDULE_SCOPE_STAGE) {
        stage.set_schedule_epochs(epochs[i]);
        ScaleStepEpochs(phase_epochs, &stage);
      } else {
        stage.set_schedule_offset(offset);
        stage.set_schedule_epochs(phase_epochs);
        stage.set_carry_momentum(i > 0);
      }
      offset += epochs[i];
      if (!stages_.empty()) {
        stage.set_parent(stages_.back().spec.name());
        Calibrate(stages_.back().spec.activation(), &stage);
      } else if (spec_.has_initial_weights()) {
        Import(&stage);
        Calibrate(spec_.pretrain_activation(), &stage);
      }
      stages_.push_back({std::move(stage), spec_.require(), spec_.on_gate_failure()});
    }
  }

  void Graph() {
    std::map<std::string, v1::ActivationFunction> activations;  // by stage
    for (const int i : StagesInOrder(spec_)) {
      const v1::StageRecipe& recipe = spec_.stages(i);
      v1::StageSpec stage = common_;
      const bool quantized = recipe.weight_bits() < 32 || recipe.activation_bits() < 32;
      SetBits({recipe.weight_bits(), recipe.activation_bits()}, &stage);
      stage.set_name(recipe.name());
      stage.set_parent(recipe.parent());
      stage.set_epochs(recipe.epochs());
      stage.set_schedule_epochs(recipe.epochs());
      stage.set_learning_rate(recipe.learning_rate());
      stage.set_learning_rate_schedule(recipe.learning_rate_schedule());
      *stage.mutable_step_epochs() = recipe.step_epochs();
      stage.set_step_gamma(recipe.step_gamma());
      stage.set_activation(!quantized                      ? spec_.pretrain_activation()
                           : recipe.activation_bits() < 32 ? v1::ACTIVATION_FUNCTION_CLIP
                                                           : spec_.two_stage_activation());
      if (quantized) SetMethods(spec_, &stage);
      const bool imports = recipe.parent().empty() && spec_.has_initial_weights();
      if (imports) Import(&stage);
      if (imports || !recipe.parent().empty()) Calibrate(imports ? spec_.pretrain_activation() : activations[recipe.parent()], &stage);
      activations[recipe.name()] = stage.activation();
      stages_.push_back({std::move(stage), recipe.require(), recipe.on_gate_failure()});
    }
  }

  const v1::JobSpec& spec_;
  const std::string& weights_digest_;
  const v1::StageSpec common_;
  std::vector<PlannedStage> stages_;
};

constexpr size_t kMaxNameBytes = 64;

// The stages of all variants; what several have in common is there once.
class Sweep {
 public:
  Sweep(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest) : spec_(resolved) {
    std::vector<FieldViolation> faults;
    variants_ = ExpandSweep(resolved, &faults);
    for (size_t v = 0; v < variants_.size(); ++v) {
      const auto variant = ResolveJobSpec(variants_[v].spec);
      if (variant.ok()) Add(v, Plan(*variant, data_digest, weights_digest).Run());
    }
  }

  std::vector<PlannedStage> Run() {
    std::set<std::string> taken;
    for (Merged& merged : stages_) {
      merged.name = NameOf(merged, taken);
      taken.insert(merged.name);
    }
    std::vector<PlannedStage> result;
    for (Merged& merged : stages_) {
      merged.stage.spec.set_name(merged.name);
      if (merged.parent >= 0) merged.stage.spec.set_parent(stages_[merged.parent].name);
      result.push_back(std::move(merged.stage));
    }
    return result;
  }

 private:
  struct Merged {
    PlannedStage stage;
    int parent = -1;            // index
    std::vector<size_t> users;  // variants
    std::string name;
  };

  void Add(size_t variant, std::vector<PlannedStage> stages) {
    std::map<std::string, std::string> keys;
    for (PlannedStage& stage : stages) {
      const std::string& parent = stage.spec.parent();
      const std::string key = StageKey(stage.spec, parent.empty() ? "" : keys[parent]);
      const auto [known, added] = index_.emplace(key, static_cast<int>(stages_.size()));
      const int parent_index = parent.empty() ? -1 : index_.at(keys[parent]);
      keys[stage.spec.name()] = key;
      if (added) stages_.push_back({std::move(stage), parent_index, {}, ""});
      stages_[known->second].users.push_back(variant);
    }
  }

  // By its widths, and by those choices that make a difference to it.
  std::string NameOf(const Merged& merged, const std::set<std::string>& taken) const {
    std::string name = merged.stage.spec.name();
    const auto& first = variants_[merged.users[0]].choices;
    for (size_t axis = 0; axis < first.size(); ++axis) {
      std::set<int> values;
      for (const size_t user : merged.users) values.insert(variants_[user].choices[axis].second);
      const bool matters = values.size() < static_cast<size_t>(spec_.sweep().at(first[axis].first).values_size());
      if (matters && values.size() == 1) absl::StrAppend(&name, ".", ChoiceLabel(spec_, first[axis]));
    }
    if (name.size() <= kMaxNameBytes && taken.count(name) == 0) return name;
    for (int number = 1;; ++number) {
      std::string numbered = absl::StrCat(merged.stage.spec.name(), ".", number);
      if (taken.count(numbered) == 0) return numbered;
    }
  }

  const v1::JobSpec& spec_;
  std::vector<Variant> variants_;
  std::vector<Merged> stages_;
  std::map<std::string, int> index_;  // by key
};

}  // namespace

std::vector<PlannedStage> PlanJob(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest) {
  return resolved.sweep().empty() ? Plan(resolved, data_digest, weights_digest).Run() : Sweep(resolved, data_digest, weights_digest).Run();
}

std::vector<v1::StageSpec> PlanStages(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest) {
  std::vector<v1::StageSpec> specs;
  for (PlannedStage& stage : PlanJob(resolved, data_digest, weights_digest)) specs.push_back(std::move(stage.spec));
  return specs;
}

}  // namespace bitstair::server
