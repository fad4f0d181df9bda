// Layers of nn/fast_layers.h that do not compute but choose, move or average.
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/fused/fused_pool.h"
#include "core/kernels/step_clock.h"
#include "core/nn/fast_arrays.h"

namespace bitstair::core {
namespace {

// The parts as one tensor of FastFloat().
at::Tensor Joined(std::vector<FeatureGradient>& received) {
  std::vector<FeatureGradient> parts = AtMost(1, std::exchange(received, {}));
  TORCH_CHECK(!parts.empty(), "features got no gradient");
  return parts[0].scale == 1 ? parts[0].gradient : parts[0].gradient * parts[0].scale;
}

}  // namespace

Features FastImages(const at::Tensor& images) {
  const StepTimer timer(StepPart::kData);
  Features features;
  features.fast = std::make_shared<FastFeatures>();
  features.fast->numbers = images.permute({0, 2, 3, 1}).contiguous();
  return features;
}

Features FastMaxPool(const Features& features, int64_t size, int64_t stride, int64_t padding) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  const at::Tensor& x = in->numbers;
  const PoolShape shape{x.size(0), x.size(1), x.size(2), x.size(3), size, stride, padding};
  at::Tensor pooled = at::empty({shape.images, shape.out_height(), shape.out_width(), shape.channels}, x.options());
  at::Tensor taken = at::empty(pooled.sizes(), at::kByte);
  MaxPoolRows(shape, Read(x), Write(pooled), taken.mutable_data_ptr<uint8_t>());
  Features out{{}, features.scale, features.greatest_code, NewFeatures(std::move(pooled))};
  Record({in->token}, out.fast->token, [in, shape, taken, received = out.fast->parts](const at::Tensor&) -> std::vector<at::Tensor> {
    const at::Tensor grad = Joined(*received);
    at::Tensor grad_x = at::empty(in->numbers.sizes(), FastFloat());
    MaxPoolRowsBackward(shape, Read(grad), taken.const_data_ptr<uint8_t>(), Write(grad_x));
    in->parts->push_back({std::move(grad_x), 1});
    return {at::Tensor()};
  });
  return out;
}

Features FastPaddedShortcut(const Features& features, int64_t channels, int64_t stride) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  const at::Tensor& x = in->numbers;
  const int64_t before = (channels - x.size(3)) / 2, after = channels - x.size(3) - before;
  const at::Tensor thinned = x.slice(1, 0, std::nullopt, stride).slice(2, 0, std::nullopt, stride);
  Features out{{}, features.scale, features.greatest_code, NewFeatures(at::constant_pad_nd(thinned, {before, after}, 0).contiguous())};
  Record({in->token}, out.fast->token, [in, before, stride, received = out.fast->parts](const at::Tensor&) -> std::vector<at::Tensor> {
    const at::Tensor grad = Joined(*received);
    at::Tensor grad_x = at::zeros(in->numbers.sizes(), FastFloat());
    grad_x.slice(1, 0, std::nullopt, stride).slice(2, 0, std::nullopt, stride).copy_(grad.narrow(3, before, in->numbers.size(3)));
    in->parts->push_back({std::move(grad_x), 1});
    return {at::Tensor()};
  });
  return out;
}

Features FastFlatten(const Features& features) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  const at::Tensor& x = in->numbers;
  const int64_t images = x.size(0);
  Features out{{}, features.scale, features.greatest_code, NewFeatures(x.permute({0, 3, 1, 2}).reshape({images, 1, 1, -1}))};
  Record({in->token}, out.fast->token, [in, received = out.fast->parts](const at::Tensor&) -> std::vector<at::Tensor> {
    const at::Tensor& x = in->numbers;
    const at::Tensor grad = Joined(*received).view({x.size(0), x.size(3), x.size(1), x.size(2)});
    in->parts->push_back({grad.permute({0, 2, 3, 1}).contiguous(), 1});
    return {at::Tensor()};
  });
  return out;
}

at::Tensor FastAveragePool(const Features& features) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  const at::Tensor& x = in->numbers;
  const auto positions = static_cast<double>(x.size(1) * x.size(2));
  at::Tensor mean;
  {
    const at::NoGradGuard no_grad;
    mean = x.to(at::kFloat).mean({1, 2}).mul_(features.scale);
  }
  Record({in->token}, mean, [in, scale = features.scale / positions](const at::Tensor& grad) -> std::vector<at::Tensor> {
    const at::Tensor& x = in->numbers;
    in->parts->push_back({(grad * scale).to(FastFloat()).view({x.size(0), 1, 1, x.size(3)}).expand(x.sizes()).contiguous(), 1});
    return {at::Tensor()};
  });
  return mean;
}

at::Tensor FastSumsOfCodes(const Features& features) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  at::Tensor sums = in->numbers.sum({1, 2}, /*keepdim=*/false, at::kInt).to(at::kFloat);
  Record({in->token}, sums, [in](const at::Tensor& grad) -> std::vector<at::Tensor> {
    const at::Tensor& x = in->numbers;
    in->parts->push_back({grad.to(FastFloat()).view({x.size(0), 1, 1, x.size(3)}).expand(x.sizes()).contiguous(), 1});
    return {at::Tensor()};
  });
  return sums;
}

}  // namespace bitstair::core
