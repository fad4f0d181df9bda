#include "core/nn/batch_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels/batch_norm.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor ChannelVector(int64_t channels) {
  return at::empty({channels}, at::kDouble);
}

// alpha and beta of x / range = fma(S, alpha, beta) from the statistics of y = sum_scale * S.
void FoldAffine(const at::Tensor& gamma, const at::Tensor& beta, const at::Tensor& mean_y, const at::Tensor& variance_y, double sum_scale, double range,
                at::Tensor& alpha_out, at::Tensor& beta_out) {
  const at::Tensor g = gamma.to(at::kDouble);
  const at::Tensor b = beta.to(at::kDouble);
  const double* pg = g.const_data_ptr<double>();
  const double* pb = b.const_data_ptr<double>();
  const double* mean = mean_y.const_data_ptr<double>();
  const double* variance = variance_y.const_data_ptr<double>();
  double* alpha = alpha_out.mutable_data_ptr<double>();
  double* shift = beta_out.mutable_data_ptr<double>();
  for (int64_t c = 0; c < g.numel(); ++c) {
    const ChannelAffine affine = BatchNormAffine(pg[c], pb[c], mean[c], variance[c], BatchNorm::kEpsilon, sum_scale);
    alpha[c] = affine.alpha / range;
    shift[c] = affine.beta / range;
  }
}

class BatchNormOfSums : public torch::autograd::Function<BatchNormOfSums> {
 public:
  // mean, variance: of S, float64.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& sums, const at::Tensor& gamma, const at::Tensor& beta,
                            const std::optional<at::Tensor>& shortcut, const at::Tensor& mean, const at::Tensor& variance, double sum_scale,
                            double shortcut_scale, double range) {
    at::Tensor alpha = ChannelVector(gamma.numel());
    at::Tensor shift = ChannelVector(gamma.numel());
    FoldAffine(gamma, beta, mean * sum_scale, variance * (sum_scale * sum_scale), sum_scale, range, alpha, shift);
    at::Tensor x = at::empty(sums.sizes(), gamma.options().requires_grad(false));
    BatchNormApply(sums, alpha, shift, shortcut, shortcut_scale / range, x);
    ctx->save_for_backward({sums, gamma, mean, variance});
    ctx->saved_data["sum_scale"] = sum_scale;
    ctx->saved_data["shortcut_scale"] = shortcut_scale;
    ctx->saved_data["range"] = range;
    return x;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& sums = saved[0];
    const at::Tensor& gamma = saved[1];
    const at::Tensor& mean = saved[2];
    const double sum_scale = ctx->saved_data["sum_scale"].toDouble();
    const double range = ctx->saved_data["range"].toDouble();
    const at::Tensor grad_x = range == 1 ? grads[0].contiguous() : grads[0].contiguous() / range;
    const int64_t channels = gamma.numel();
    const int64_t per_channel = sums.numel() / channels;
    const auto count = static_cast<double>(per_channel);

    at::Tensor grad_sum = ChannelVector(channels);
    at::Tensor grad_dot = ChannelVector(channels);
    BatchNormBackwardSums(grad_x, sums, mean, grad_sum, grad_dot);

    // With xhat = (S - mean) r, r = sum_scale / sqrt(variance_y + epsilon):  dL/dgamma = r grad_dot, dL/dbeta = grad_sum,
    // dL/dS = gamma r (g - grad_sum / count - xhat dL/dgamma / count).
    const at::Tensor r = sum_scale / (saved[3] * (sum_scale * sum_scale) + BatchNorm::kEpsilon).sqrt();
    const at::Tensor grad_gamma = r * grad_dot;
    at::Tensor grad_sums;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor a = gamma.to(at::kDouble) * r;
      grad_sums = at::empty_like(grad_x);
      BatchNormBackwardApply(grad_x, sums, mean, a, -(a * r * grad_gamma) / count, -(a * grad_sum) / count, grad_sums);
    }
    at::Tensor grad_shortcut;
    const double shortcut_scale = ctx->saved_data["shortcut_scale"].toDouble();
    if (ctx->needs_input_grad(3)) grad_shortcut = shortcut_scale == 1 ? grad_x : grad_x * shortcut_scale;
    return {grad_sums,
            grad_gamma.to(gamma.scalar_type()),
            grad_sum.to(gamma.scalar_type()),
            grad_shortcut,
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

BatchNorm::BatchNorm(std::string name, int64_t channels, c10::ScalarType dtype) : name_(std::move(name)), dtype_(dtype) {
  gamma_ = at::ones({channels}, dtype).set_requires_grad(true);
  beta_ = at::zeros({channels}, dtype).set_requires_grad(true);
  running_mean_ = at::zeros({channels}, at::kDouble);
  running_variance_ = at::ones({channels}, at::kDouble);
}

at::Tensor BatchNorm::Forward(const Sums& sums, const Features* shortcut, bool training, double range) {
  const at::Tensor s = sums.tensor.contiguous();
  std::optional<at::Tensor> add;
  if (shortcut != nullptr) add = shortcut->tensor.contiguous();
  const double shortcut_scale = shortcut != nullptr ? shortcut->scale : 1;
  if (!training) {
    at::Tensor alpha = ChannelVector(gamma_.numel());
    at::Tensor shift = ChannelVector(gamma_.numel());
    FoldAffine(gamma_, beta_, running_mean_, running_variance_, sums.scale, range, alpha, shift);
    at::Tensor x = at::empty(s.sizes(), dtype_);
    BatchNormApply(s, alpha, shift, add, shortcut_scale / range, x);
    return x;
  }
  const int64_t per_channel = s.numel() / gamma_.numel();
  at::Tensor mean = ChannelVector(gamma_.numel());
  at::Tensor variance = ChannelVector(gamma_.numel());
  BatchNormStatistics(s, sums.bound, mean, variance);
  UpdateStatistics(mean, variance, sums.scale, per_channel);
  return BatchNormOfSums::apply(s, gamma_, beta_, add, mean, variance, sums.scale, shortcut_scale, range);
}

void BatchNorm::UpdateStatistics(const at::Tensor& mean, const at::Tensor& variance, double sum_scale, int64_t per_channel) {
  TORCH_CHECK(per_channel > 1, name_, ": batch statistics need more than one value per channel, got ", per_channel);
  const auto count = static_cast<double>(per_channel);
  running_mean_.mul_(1 - kMomentum).add_(mean * (sum_scale * kMomentum));
  running_variance_.mul_(1 - kMomentum).add_(variance * (sum_scale * sum_scale * kMomentum * (count / (count - 1))));
}

void BatchNorm::AddParameters(std::vector<Parameter>& parameters) const {
  parameters.push_back({name_ + ".weight", gamma_, gamma_, nullptr, true});
  parameters.push_back({name_ + ".bias", beta_, beta_, nullptr, true});
}

void BatchNorm::AddBuffers(std::vector<Buffer>& buffers) const {
  buffers.push_back({name_ + ".running_mean", running_mean_});
  buffers.push_back({name_ + ".running_var", running_variance_});
}

}  // namespace bitstair::core
