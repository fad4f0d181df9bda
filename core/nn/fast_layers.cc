#include "core/nn/fast_layers.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/fused/fused_norm.h"
#include "core/kernels/fused/fused_pool.h"
#include "core/kernels/quant_math.h"
#include "core/nn/batch_norm.h"
#include "core/nn/tape.h"

namespace bitstair::core {
namespace {

constexpr int64_t kGreatestByte = 255;

// Bytes of int32 sums that are made, counted and made small before the next ones: they stay in the second-level cache.
constexpr int64_t kSumsInCache = int64_t{1} << 20;

Stored StoredAs(c10::ScalarType type) {
  switch (type) {
    case at::kByte:
      return Stored::kCodes;
    case at::kShort:
      return Stored::kInt16;
    case at::kInt:
      return Stored::kInt32;
    case at::kBFloat16:
      return Stored::kBfloat16;
    default:
      return Stored::kFloat32;
  }
}
ConstArray Read(const at::Tensor& t) {
  return t.defined() ? ConstArray{t.const_data_ptr(), StoredAs(t.scalar_type())} : ConstArray{};
}
MutableArray Write(at::Tensor& t) {
  return t.defined() ? MutableArray{t.mutable_data_ptr(), StoredAs(t.scalar_type())} : MutableArray{};
}
RowShape RowsOf(const at::Tensor& nhwc) {
  return {nhwc.numel() / nhwc.size(3), nhwc.size(3)};
}

// Parts beyond the second are added to the first: kernels take two.
std::vector<FeatureGradient> AtMostTwo(std::vector<FeatureGradient> parts) {
  while (parts.size() > 2) {
    FeatureGradient last = std::move(parts.back());
    parts.pop_back();
    parts[0] = {parts[0].gradient.to(at::kFloat).mul(parts[0].scale).add(last.gradient.to(at::kFloat), last.scale).to(FastFloat()), 1};
  }
  return parts;
}

// The parts as one tensor of FastFloat().
at::Tensor Joined(std::vector<FeatureGradient>& parts) {
  at::Tensor sum;
  for (const FeatureGradient& part : std::exchange(parts, {})) {
    const at::Tensor g = part.scale == 1 ? part.gradient : part.gradient.to(at::kFloat).mul(part.scale).to(FastFloat());
    sum = sum.defined() ? sum.to(at::kFloat).add(g.to(at::kFloat)).to(FastFloat()) : g;
  }
  TORCH_CHECK(sum.defined(), "features got no gradient");
  return sum;
}

std::shared_ptr<FastFeatures> NewFeatures(at::Tensor numbers) {
  auto fast = std::make_shared<FastFeatures>();
  fast->numbers = std::move(numbers);
  if (at::GradMode::is_enabled()) fast->token = NewToken();
  return fast;
}

struct ChannelAffines {
  std::vector<float> alpha, beta;
};

// Of x = fma(S, alpha, beta), from the statistics of y = scale S. Same expressions as nn/batch_norm.cc.
ChannelAffines Fold(const FastNorm& norm, const Sums& sums, bool training) {
  const at::Tensor mean_y = training ? sums.fast->mean * sums.scale : norm.mean;
  const at::Tensor variance_y = training ? sums.fast->variance * (sums.scale * sums.scale) : norm.variance;
  const at::Tensor gamma = norm.gamma.detach(), beta = norm.beta.detach();
  ChannelAffines affines;
  for (int64_t c = 0; c < gamma.numel(); ++c) {
    const ChannelAffine affine = BatchNormAffine(gamma.const_data_ptr<float>()[c], beta.const_data_ptr<float>()[c], mean_y.const_data_ptr<double>()[c],
                                                 variance_y.const_data_ptr<double>()[c], BatchNorm::kEpsilon, sums.scale);
    affines.alpha.push_back(static_cast<float>(affine.alpha));
    affines.beta.push_back(static_cast<float>(affine.beta));
  }
  return affines;
}

// What the apply pass needs, and the gradients of gamma and beta, from the two sums. Derivation: nn/batch_norm.cc.
struct NormGradient {
  std::vector<float> a, b, c, mean;
  at::Tensor grad_gamma, grad_beta;
};
NormGradient GradientFactors(const at::Tensor& gamma, const at::Tensor& mean, const at::Tensor& variance, double scale, double count,
                             const std::vector<double>& grad_sum, const std::vector<double>& grad_dot) {
  const auto channels = static_cast<int64_t>(grad_sum.size());
  NormGradient out;
  out.grad_gamma = at::empty({channels});
  out.grad_beta = at::empty({channels});
  for (int64_t c = 0; c < channels; ++c) {
    const double r = scale / std::sqrt(variance.const_data_ptr<double>()[c] * (scale * scale) + BatchNorm::kEpsilon);
    const double grad_gamma = r * grad_dot[c], a = gamma.const_data_ptr<float>()[c] * r;
    out.a.push_back(static_cast<float>(a));
    out.b.push_back(static_cast<float>(-(a * r * grad_gamma) / count));
    out.c.push_back(static_cast<float>(-(a * grad_sum[c]) / count));
    out.mean.push_back(static_cast<float>(mean.const_data_ptr<double>()[c]));
    out.grad_gamma.mutable_data_ptr<float>()[c] = static_cast<float>(grad_gamma);
    out.grad_beta.mutable_data_ptr<float>()[c] = static_cast<float>(grad_sum[c]);
  }
  return out;
}

std::vector<float> AsFloats(const at::Tensor& float64) {
  return {float64.const_data_ptr<double>(), float64.const_data_ptr<double>() + float64.numel()};
}

// The integer sums of all images with their moments. False if one does not fit int16 and `sums` are to be int16.
bool SumInChunks(Convolution& kernels, const at::Tensor& codes, int64_t greatest_activation, at::Tensor& sums, ChannelMoments* moments) {
  const int64_t images = codes.size(0), per_image = sums.numel() / std::max<int64_t>(1, images);
  const bool compact = sums.scalar_type() == at::kShort;
  const int64_t step = std::clamp<int64_t>(kSumsInCache / std::max<int64_t>(1, per_image * 4), 1, std::max<int64_t>(1, images));
  at::Tensor buffer;
  for (int64_t at = 0; at < images; at += step) {
    const int64_t count = std::min(step, images - at);
    at::Tensor out = sums.narrow(0, at, count);
    at::Tensor wide = out;
    if (compact) {
      if (!buffer.defined()) buffer = at::empty({step, sums.size(1), sums.size(2), sums.size(3)}, at::kInt);
      wide = buffer.narrow(0, 0, count);
    }
    kernels.SumCodes(codes.narrow(0, at, count), greatest_activation, wide);
    if (moments != nullptr && !moments->Add(Read(wide), RowsOf(wide), compact ? Write(out) : MutableArray{})) return !compact;
  }
  return true;
}

}  // namespace

Features FastImages(const at::Tensor& images) {
  Features features;
  features.fast = std::make_shared<FastFeatures>();
  features.fast->numbers = images.permute({0, 2, 3, 1}).to(FastFloat()).contiguous();
  return features;
}

Sums FastConvolve(FastConvolution& layer, const Features& features, const at::Tensor& operand, const at::Tensor& leaf, double leaf_scale, int64_t greatest,
                  bool training) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  const at::Tensor& x = in->numbers;
  const ConvolutionShape& shape = layer.kernels.shape();
  const bool integers = x.scalar_type() == at::kByte && greatest > 0 && greatest <= kGreatestByte;
  layer.kernels.SetWeights(operand, greatest);

  Sums out;
  out.scale = features.scale * leaf_scale;
  out.bound = integers ? SumBound(operand.numel() / operand.size(0), features.greatest_code, greatest) : 0;
  TORCH_CHECK(out.bound < int64_t{1} << 31, "sums of ", operand.sizes(), " weights up to ", greatest, " and activations up to ", features.greatest_code,
              " do not fit 32 bits");
  out.fast = std::make_shared<FastSums>();
  const std::vector<int64_t> size{x.size(0), shape.Out(x.size(1)), shape.Out(x.size(2)), shape.out_channels};
  ChannelMoments moments(shape.out_channels);
  if (integers) {
    bool fits = false;
    if (!layer.wide && training) {
      out.fast->sums = at::empty(size, at::kShort);
      fits = SumInChunks(layer.kernels, x, features.greatest_code, out.fast->sums, &moments);
      layer.wide = !fits;
    }
    if (!fits) {
      moments = ChannelMoments(shape.out_channels);
      out.fast->sums = at::empty(size, at::kInt);
      SumInChunks(layer.kernels, x, features.greatest_code, out.fast->sums, training ? &moments : nullptr);
    }
  } else {
    at::Tensor floats = x;
    if (x.scalar_type() == at::kByte) {
      floats = at::empty(x.sizes(), FastFloat());
      ExpandCodes(x.const_data_ptr<uint8_t>(), x.numel(), Write(floats));
    }
    out.fast->sums = at::empty(size, FastFloat());
    layer.kernels.Forward(floats, out.fast->sums);
    if (training) moments.Add(Read(out.fast->sums), RowsOf(out.fast->sums), {});
  }
  if (!training) return out;

  out.fast->mean = at::empty({shape.out_channels}, at::kDouble);
  out.fast->variance = at::empty({shape.out_channels}, at::kDouble);
  moments.Finish(out.fast->mean.mutable_data_ptr<double>(), out.fast->variance.mutable_data_ptr<double>());
  if (!at::GradMode::is_enabled()) return out;
  out.fast->token = NewToken();
  const bool input_gradient = in->token.defined() && in->token.requires_grad();
  Record({in->token, leaf}, out.fast->token,
         [&layer, in, gradient = out.fast->gradient, leaf_scale, input_gradient, sizes = leaf.sizes().vec()](const at::Tensor&) -> std::vector<at::Tensor> {
           const at::Tensor& x = in->numbers;
           const at::Tensor grad = std::exchange(*gradient, {});
           TORCH_CHECK(grad.defined(), "sums got no gradient");
           const ConvolutionShape& shape = layer.kernels.shape();
           at::Tensor weight = at::empty({shape.out_channels, shape.in_channels, shape.kernel, shape.kernel}, at::kFloat);
           {
             at::Tensor floats = x;
             if (x.scalar_type() == at::kByte) {
               floats = at::empty(x.sizes(), FastFloat());
               ExpandCodes(x.const_data_ptr<uint8_t>(), x.numel(), Write(floats));
             }
             layer.kernels.WeightGradient(floats, grad, weight);
           }
           if (leaf_scale != 1) weight.div_(leaf_scale);  // dS/dleaf = dS/doperand / leaf_scale
           if (input_gradient) {
             at::Tensor grad_x = at::empty(x.sizes(), FastFloat());
             layer.kernels.InputGradient(grad, grad_x);
             in->parts->push_back({std::move(grad_x), 1});
           }
           return {at::Tensor(), weight.view(sizes)};
         });
  return out;
}

Features FastNormalize(const FastNorm& norm, const Sums& sums, const Features* shortcut, const FastNorm* shortcut_norm, const Sums* shortcut_sums,
                       const FastActivation& activation, bool training) {
  const std::shared_ptr<FastSums> s = sums.fast;
  const std::shared_ptr<FastSums> other = shortcut_sums != nullptr ? shortcut_sums->fast : nullptr;
  if (other != nullptr && other->sums.scalar_type() != s->sums.scalar_type()) {  // the kernels take two alike
    if (s->sums.scalar_type() == at::kShort) s->sums = s->sums.to(other->sums.scalar_type());
    other->sums = other->sums.to(s->sums.scalar_type());
  }
  const bool codes = activation.greatest_code > 0 && activation.greatest_code <= 255;
  const RowShape shape = RowsOf(s->sums);
  const bool record = training && at::GradMode::is_enabled();

  NormalizeArgs args;
  args.shape = shape;
  const ChannelAffines main = Fold(norm, sums, training);
  args.main = {Read(s->sums), main.alpha.data(), main.beta.data()};
  ChannelAffines second;
  if (other != nullptr) {
    second = Fold(*shortcut_norm, *shortcut_sums, training);
    args.shortcut_affine = {Read(other->sums), second.alpha.data(), second.beta.data()};
  } else if (shortcut != nullptr) {
    args.shortcut = Read(shortcut->fast->numbers);
    args.shortcut_scale = shortcut->scale;
  }
  args.nonlinearity = activation.relu ? Nonlinearity::kRelu : Nonlinearity::kClip;
  args.n = static_cast<float>(activation.greatest_code);
  at::Tensor numbers = at::empty(s->sums.sizes(), codes ? at::kByte : FastFloat());
  args.out = Write(numbers);
  at::Tensor mask;
  if (record) {
    mask = at::empty({MaskBytes(shape)}, at::kByte);
    args.mask = static_cast<uint16_t*>(mask.mutable_data_ptr());
  }
  if (!Normalize(args)) throw NotANumber("an activation after " + norm.name + " is not a number");

  Features out;
  out.scale = codes ? 1.0 / static_cast<double>(activation.greatest_code) : 1;
  out.greatest_code = codes ? activation.greatest_code : 0;
  out.fast = NewFeatures(std::move(numbers));
  if (!record) return out;

  const std::shared_ptr<FastFeatures> from = shortcut != nullptr && other == nullptr ? shortcut->fast : nullptr;
  const double shortcut_scale = shortcut != nullptr ? shortcut->scale : 1;
  std::vector<at::Tensor> inputs{s->token, norm.gamma, norm.beta};
  if (from != nullptr) inputs.push_back(from->token);
  if (other != nullptr) inputs.insert(inputs.end(), {other->token, shortcut_norm->gamma, shortcut_norm->beta});
  const double main_scale = sums.scale, other_scale = other != nullptr ? shortcut_sums->scale : 1;
  const double number_scale = codes ? static_cast<double>(activation.greatest_code) : 1;  // dL/dx = n dL/dcode
  const at::Tensor gamma = norm.gamma.detach(), other_gamma = other != nullptr ? shortcut_norm->gamma.detach() : at::Tensor();
  Record(inputs, out.fast->token, [=, received = out.fast->parts](const at::Tensor&) {
    std::vector<FeatureGradient> parts = AtMostTwo(std::exchange(*received, {}));
    TORCH_CHECK(!parts.empty(), "features got no gradient");
    const bool shortcuts = from != nullptr || other != nullptr;
    at::Tensor masked;
    if (shortcuts) masked = at::empty(s->sums.sizes(), FastFloat());

    NormGradientArgs sums_args;
    sums_args.shape = shape;
    for (size_t i = 0; i < parts.size(); ++i) sums_args.parts[i] = {Read(parts[i].gradient), static_cast<float>(parts[i].scale * number_scale)};
    sums_args.mask = static_cast<const uint16_t*>(mask.const_data_ptr());
    sums_args.sums = Read(s->sums);
    const std::vector<float> mean = AsFloats(s->mean), other_mean = other != nullptr ? AsFloats(other->mean) : std::vector<float>();
    sums_args.mean = mean.data();
    if (other != nullptr) {
      sums_args.other_sums = Read(other->sums);
      sums_args.other_mean = other_mean.data();
    }
    sums_args.masked = Write(masked);
    const auto channels = static_cast<size_t>(shape.channels);
    std::vector<double> grad_sum(channels), grad_dot(channels), other_dot(other != nullptr ? channels : 0);
    NormGradientSums(sums_args, grad_sum.data(), grad_dot.data(), other_dot.data());

    const auto apply = [&](const at::Tensor& stored, const NormGradient& factors, at::Tensor& grad_sums) {
      NormApplyArgs apply_args;
      apply_args.shape = shape;
      if (shortcuts) {
        apply_args.parts[0] = {Read(masked), 1};
      } else {
        for (size_t i = 0; i < parts.size(); ++i) apply_args.parts[i] = sums_args.parts[i];
        apply_args.mask = sums_args.mask;
      }
      apply_args.sums = Read(stored);
      apply_args.mean = factors.mean.data();
      apply_args.a = factors.a.data();
      apply_args.b = factors.b.data();
      apply_args.c = factors.c.data();
      apply_args.grad_sums = Write(grad_sums);
      NormGradientApply(apply_args);
    };
    const auto count = static_cast<double>(shape.rows);
    const NormGradient factors = GradientFactors(gamma, s->mean, s->variance, main_scale, count, grad_sum, grad_dot);
    // Without a shortcut the first part's memory is free to take the result.
    *s->gradient = shortcuts ? at::empty(s->sums.sizes(), FastFloat()) : parts[0].gradient;
    apply(s->sums, factors, *s->gradient);
    s->sums = at::Tensor();
    std::vector<at::Tensor> grads{at::Tensor(), factors.grad_gamma, factors.grad_beta};
    if (from != nullptr) {
      grads.emplace_back();
      if (from->token.defined()) from->parts->push_back({masked, static_cast<float>(shortcut_scale)});
    }
    if (other != nullptr) {
      const NormGradient second_factors = GradientFactors(other_gamma, other->mean, other->variance, other_scale, count, grad_sum, other_dot);
      *other->gradient = masked;
      apply(other->sums, second_factors, *other->gradient);
      other->sums = at::Tensor();
      grads.insert(grads.end(), {at::Tensor(), second_factors.grad_gamma, second_factors.grad_beta});
    }
    return grads;
  });
  return out;
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

}  // namespace bitstair::core
