#include "core/training/sgd.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/quant/weight_pass.h"

namespace bitstair::core {
namespace {

bool StaysPositive(const Parameter& p) {
  return p.scalar != Scalar::kNone;
}

double DecayOf(const Parameter& p, const SgdOptions& options) {
  if (p.scalar == Scalar::kClip) return options.clip_weight_decay;
  return p.scalar != Scalar::kNone || (p.batch_norm && !options.decay_batch_norm) ? 0 : options.weight_decay;
}

}  // namespace

Sgd::Sgd(std::vector<Parameter>& parameters, SgdOptions options) : parameters_(parameters), options_(options) {
  for (const Parameter& p : parameters_) momentum_.push_back(at::zeros_like(p.latent.detach()));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].scalar == Scalar::kWeightStep) steps_[parameters_[i].latent.const_data_ptr()] = i;
  }
}

void Sgd::Step(double learning_rate) {
  const at::NoGradGuard no_grad;
  if (norms_ != nullptr) norms_->clear();
  std::vector<WeightToUpdate> weights, steps;
  std::vector<std::pair<size_t, double>> positive;  // with what they were
  const auto add = [&](size_t i, at::Tensor gradient, std::vector<WeightToUpdate>& to) {
    const Parameter& p = parameters_[i];
    if (StaysPositive(p)) positive.emplace_back(i, p.latent.item<double>());
    const double rate = p.batch_norm ? learning_rate * options_.batch_norm_learning_rate_factor : learning_rate;
    // detach() shares the memory
    to.push_back({p.quantizer, p.latent.detach(), std::move(gradient), momentum_[i], {rate, options_.momentum, DecayOf(p, options_), options_.nesterov}});
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (p.scalar == Scalar::kWeightStep) {  // its gradient is made with its weight's, below
      if (norms_ != nullptr) norms_->push_back(0);
      continue;
    }
    TORCH_CHECK(p.leaf.grad().defined(), p.name, " has no gradient");
    if (norms_ != nullptr) norms_->push_back(p.batch_norm ? 0 : p.leaf.grad().norm(2, at::kDouble).item<double>());
    add(i, p.leaf.grad().contiguous(), weights);
    p.leaf.mutable_grad().reset();
    const at::Tensor step = p.quantizer != nullptr ? p.quantizer->learned().value : at::Tensor();
    if (!step.defined()) continue;
    weights.back().step_gradient = at::empty_like(step);
    add(steps_.at(step.const_data_ptr()), weights.back().step_gradient, steps);
  }
  UpdateWeights(weights);
  UpdateWeights(steps);  // after the weights, whose gradients depend on them
  for (const auto& [i, before] : positive) {
    at::Tensor now = parameters_[i].latent.detach();
    if (now.item<double>() >= before / 2 || !now.isfinite().item<bool>()) continue;
    now.fill_(before / 2);
    momentum_[i].zero_();
  }
}

}  // namespace bitstair::core
