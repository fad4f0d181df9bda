// FastConvolve of nn/fast_layers.h: a batch goes through in chunks of images that stay in the cache, forward with the moments, backward with dL/dS.
#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/gradient_codes.h"
#include "core/nn/fast_arrays.h"

namespace bitstair::core {
namespace {

constexpr int64_t kGreatestByte = 255;

// Bytes of what a chunk makes: they should still be in the cache when the next pass over the chunk takes them.
constexpr int64_t kForwardCacheBytes = int64_t{1} << 20;
constexpr int64_t kBackwardCacheBytes = int64_t{1} << 20;

// Images of a chunk, by shape alone. A multiple of `multiple`.
int64_t ImagesPerChunk(int64_t images, int64_t bytes_per_image, int64_t cache_bytes, int64_t multiple) {
  const int64_t fit = cache_bytes / std::max<int64_t>(1, bytes_per_image) / multiple * multiple;
  return std::clamp(fit, std::min(multiple, std::max<int64_t>(1, images)), std::max<int64_t>(1, images));
}

// f(first image, count)
template <typename F>
void ForChunks(int64_t images, int64_t step, F&& f) {
  for (int64_t first = 0; first < images; first += step) f(first, std::min(step, images - first));
}

// `count` images of x as floats: x itself, or codes expanded into `buffer`, which is made when needed.
at::Tensor Floats(const at::Tensor& x, int64_t first, int64_t count, int64_t step, at::Tensor& buffer) {
  const at::Tensor part = x.narrow(0, first, count);
  if (x.scalar_type() != at::kByte) return part;
  if (!buffer.defined()) buffer = at::empty({step, x.size(1), x.size(2), x.size(3)}, FastFloat());
  at::Tensor floats = buffer.narrow(0, 0, count);
  ExpandCodes(part.const_data_ptr<uint8_t>(), part.numel(), Write(floats));
  return floats;
}

// One convolution forward.
struct Forward {
  FastConvolution* layer;
  at::Tensor x;
  int64_t greatest_activation;
  bool integers;
  std::vector<int64_t> size;  // of the sums, [N, OH, OW, O]
  int64_t step;
  at::Tensor buffer = {};

  Forward(FastConvolution& convolution, const Features& features, int64_t greatest)
      : layer(&convolution),
        x(features.fast->numbers),
        greatest_activation(features.greatest_code),
        integers(x.scalar_type() == at::kByte && greatest > 0 && greatest <= kGreatestByte) {
    const ConvolutionShape& shape = layer->kernels.shape();
    size = {x.size(0), shape.Out(x.size(1)), shape.Out(x.size(2)), shape.out_channels};
    step = ImagesPerChunk(x.size(0), size[1] * size[2] * size[3] * 4, kForwardCacheBytes, 1);
  }

  c10::ScalarType type() const { return integers ? at::kInt : FastFloat(); }
  at::Tensor Empty(int64_t images, c10::ScalarType of) const { return at::empty({images, size[1], size[2], size[3]}, of); }

  // Sums of some images, at most `step`. out: of type()
  void Make(int64_t first, int64_t count, at::Tensor& out) {
    if (integers) {
      layer->kernels.SumCodes(x.narrow(0, first, count), greatest_activation, out);
    } else {
      layer->kernels.Forward(Floats(x, first, count, step, buffer), out);
    }
  }

  // Sums of all images with their moments, stored as `stored`. False if that is int16 and one does not fit.
  bool MakeAll(c10::ScalarType stored, int64_t bound, at::Tensor& sums, ChannelMoments& moments) {
    sums = Empty(size[0], stored);
    moments = ChannelMoments(size[3]);
    at::Tensor wide_buffer;
    if (stored == at::kShort) wide_buffer = Empty(step, at::kInt);
    bool fits = true;
    ForChunks(size[0], step, [&](int64_t first, int64_t count) {
      if (!fits) return;
      at::Tensor out = sums.narrow(0, first, count);
      at::Tensor wide = stored == at::kShort ? wide_buffer.narrow(0, 0, count) : out;
      Make(first, count, wide);
      fits = moments.Add(Read(wide), bound, RowsOf(wide), stored == at::kShort ? Write(out) : MutableArray{});
    });
    return fits;
  }
};

// Some images' dL/dS as int8.
struct RoundedGradient {
  const GradientRounding& rounding;
  at::Tensor codes = {};
  std::vector<float> scales = {};

  // first: number of the first image in the rank's batch.
  const at::Tensor& Round(const at::Tensor& grad, int64_t first) {
    codes = at::empty(grad.sizes(), at::kChar);
    scales.resize(static_cast<size_t>(grad.size(0)));
    const BatchPosition& at = *rounding.position;
    QuantizeGradients(Read(grad), grad.size(0), grad.numel() / grad.size(0),
                      {rounding.seed, rounding.layer, at.epoch, static_cast<uint32_t>(at.batch), at.first_image}, first, codes.mutable_data_ptr<int8_t>(),
                      scales.data());
    return codes;
  }
};

}  // namespace

Sums FastConvolve(FastConvolution& layer, const Features& features, const at::Tensor& operand, const at::Tensor& leaf, double leaf_scale, int64_t greatest,
                  bool training) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  Forward forward(layer, features, greatest);
  layer.kernels.SetWeights(operand, greatest);

  Sums out;
  out.scale = features.scale * leaf_scale;
  out.bound = forward.integers ? SumBound(operand.numel() / operand.size(0), features.greatest_code, greatest) : 0;
  TORCH_CHECK(out.bound < int64_t{1} << 31, "sums of ", operand.sizes(), " weights up to ", greatest, " and activations up to ", features.greatest_code,
              " do not fit 32 bits");
  out.fast = std::make_shared<FastSums>();
  out.fast->size = forward.size;
  out.fast->chunk = forward.step;
  if (!training) {
    out.fast->make = [forward](int64_t first, int64_t count) mutable {
      at::Tensor sums = forward.Empty(count, forward.type());
      forward.Make(first, count, sums);
      return sums;
    };
    return out;
  }

  const ConvolutionShape& shape = layer.kernels.shape();
  ChannelMoments moments(shape.out_channels);
  bool fits = false;
  if (forward.integers && !layer.wide) {
    fits = forward.MakeAll(at::kShort, out.bound, out.fast->sums, moments);
    layer.wide = !fits;
  }
  if (!fits) forward.MakeAll(forward.type(), out.bound, out.fast->sums, moments);
  layer.kernels.DropPackedCodes();  // the weights change before the next batch
  out.fast->mean = at::empty({shape.out_channels}, at::kDouble);
  out.fast->variance = at::empty({shape.out_channels}, at::kDouble);
  moments.Finish(out.fast->mean.mutable_data_ptr<double>(), out.fast->variance.mutable_data_ptr<double>());
  if (!at::GradMode::is_enabled()) return out;

  out.fast->token = NewToken();
  const bool input_gradient = in->token.defined() && in->token.requires_grad();
  Record({in->token, leaf}, out.fast->token,
         [&layer, in, pending = out.fast->gradient, leaf_scale, greatest, input_gradient, size = out.fast->size,
          sizes = leaf.sizes().vec()](const at::Tensor&) -> std::vector<at::Tensor> {
           const at::Tensor& x = in->numbers;
           const SumsGradient gradient = std::exchange(*pending, {});
           TORCH_CHECK(gradient.defined(), "sums got no gradient");
           const int64_t out_elements = size[1] * size[2] * size[3], in_elements = x.numel() / std::max<int64_t>(1, x.size(0));
           const int64_t step = ImagesPerChunk(size[0], 2 * std::max(out_elements, in_elements), kBackwardCacheBytes, SumsGradient::Multiple(out_elements));
           at::Tensor grad_x, expanded, buffer = at::empty({step, size[1], size[2], size[3]}, FastFloat());
           if (input_gradient) grad_x = at::empty(x.sizes(), FastFloat());
           const bool int8 = layer.rounding.position != nullptr && greatest > 0 && greatest <= 127 && IntegerSumsAreExact(255, greatest);
           RoundedGradient rounded{layer.rounding};
           layer.kernels.BeginBackward();
           ForChunks(size[0], step, [&](int64_t first, int64_t count) {
             at::Tensor grad = buffer.narrow(0, 0, count);
             gradient.Make(first, count, grad);
             layer.kernels.AddWeightGradient(Floats(x, first, count, step, expanded), grad);
             if (!input_gradient) return;
             at::Tensor part = grad_x.narrow(0, first, count);
             if (int8) {
               layer.kernels.InputGradientOfCodes(rounded.Round(grad, first), part);
               ScaleImages(Write(part), count, in_elements, rounded.scales.data());
             } else {
               layer.kernels.InputGradient(grad, part);
             }
           });
           if (input_gradient) in->parts->push_back({std::move(grad_x), 1});
           // dS/dleaf = dS/doperand / leaf_scale
           return {at::Tensor(), layer.kernels.TakeWeightGradient(1 / leaf_scale).view(sizes)};
         });
  return out;
}

}  // namespace bitstair::core
