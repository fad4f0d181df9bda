#include "server/planner.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/job_spec.h"

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

}  // namespace

std::vector<v1::StageSpec> PlanStages(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest) {
  std::vector<v1::StageSpec> stages;
  const v1::StageSpec common = CommonFields(resolved, data_digest);
  const std::vector<Bits> bits = QuantizedBits(resolved);
  const auto import = [&](v1::StageSpec& stage) {
    *stage.mutable_initial_weights() = resolved.initial_weights();
    stage.set_initial_weights_digest(weights_digest);
  };
  if (!resolved.widths().empty() && resolved.widths(0) == 32 && (!resolved.has_initial_weights() || bits.empty())) {
    v1::StageSpec stage = common;
    stage.set_name("W32A32");
    stage.set_weight_bits(32);
    stage.set_activation_bits(32);
    stage.set_activation(resolved.pretrain_activation());
    SetPhase(resolved.pretrain(), &stage);
    stage.set_epochs(resolved.pretrain().epochs());
    stage.set_schedule_epochs(stage.epochs());
    if (resolved.has_initial_weights()) import(stage);
    stages.push_back(std::move(stage));
  }
  if (bits.empty()) return stages;
  const int phase_epochs = resolved.quantized().epochs();
  const auto& given = resolved.quantized().stage_epochs();
  const std::vector<int> epochs = given.empty() ? ShareEpochs(bits, phase_epochs) : std::vector<int>(given.begin(), given.end());
  int offset = 0;
  for (size_t i = 0; i < bits.size(); ++i) {
    v1::StageSpec stage = common;
    stage.set_name(absl::StrCat("W", bits[i].weights, "A", bits[i].activations));
    stage.set_weight_bits(bits[i].weights);
    stage.set_activation_bits(bits[i].activations);
    stage.set_activation(bits[i].activations == 32 ? resolved.two_stage_activation() : v1::ACTIVATION_FUNCTION_CLIP);
    stage.set_epochs(epochs[i]);
    SetPhase(resolved.quantized(), &stage);
    if (resolved.has_guided()) *stage.mutable_guided() = resolved.guided();
    if (resolved.has_stochastic_precision()) *stage.mutable_stochastic_precision() = resolved.stochastic_precision();
    if (resolved.has_distillation()) *stage.mutable_distillation() = resolved.distillation();
    if (resolved.schedule() == v1::SCHEDULE_SCOPE_STAGE) {
      stage.set_schedule_epochs(epochs[i]);
      ScaleStepEpochs(phase_epochs, &stage);
    } else {
      stage.set_schedule_offset(offset);
      stage.set_schedule_epochs(phase_epochs);
      stage.set_carry_momentum(i > 0);
    }
    offset += epochs[i];
    const bool imported = stages.empty() && resolved.has_initial_weights();
    if (imported) import(stage);
    if (!stages.empty()) stage.set_parent(stages.back().name());
    if (imported || !stages.empty()) {
      const v1::ActivationFunction before = imported ? resolved.pretrain_activation() : stages.back().activation();
      const bool from_relu = before == v1::ACTIVATION_FUNCTION_RELU && stage.activation() == v1::ACTIVATION_FUNCTION_CLIP;
      if (from_relu) stage.set_calibration(resolved.activation_calibration());
    }
    stages.push_back(std::move(stage));
  }
  return stages;
}

}  // namespace bitstair::server
