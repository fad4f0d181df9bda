// FastConvolve of nn/fast_layers.h: a batch goes through in chunks of images that stay in the cache, forward with the moments, backward with dL/dS.
#include <algorithm>
#include <atomic>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/float_halves.h"
#include "core/kernels/gradient_codes.h"
#include "core/kernels/step_clock.h"
#include "core/nn/fast_arrays.h"

namespace bitstair::core {
namespace {

constexpr int64_t kGreatestByte = 255;

// Bytes of what a chunk makes: they should still be in the cache when the next pass over the chunk takes them. Of one thread, or of the pool together.
constexpr int64_t kThreadCacheBytes = int64_t{1} << 18;
constexpr int64_t kPoolCacheBytes = int64_t{1} << 20;
// Groups of images that threads take one by one, each with a weight gradient of its own as long as that is small.
constexpr int64_t kGroups = 8;
constexpr int64_t kGreatestGroupedWeights = int64_t{1} << 18;

// How a batch is cut, by shape alone. Each group of images is worked off chunk by chunk: on one thread, or, if there is only one, on the whole pool.
struct Cut {
  int64_t images;
  int64_t multiple;  // chunks begin at multiples of so many images
  int64_t groups;
  int64_t step;  // images of a chunk

  Cut(int64_t images_of_batch, int64_t weights, int64_t bytes_per_image, int64_t multiple_of) : images(images_of_batch), multiple(multiple_of) {
    groups = weights <= kGreatestGroupedWeights ? std::clamp<int64_t>(units(), 1, kGroups) : 1;
    const int64_t cache_bytes = groups > 1 ? kThreadCacheBytes : kPoolCacheBytes;
    const int64_t fit = cache_bytes / std::max<int64_t>(1, bytes_per_image) / multiple * multiple;
    step = std::clamp(fit, std::min(multiple, std::max<int64_t>(1, images)), std::max<int64_t>(1, images));
  }

  int64_t units() const { return (images + multiple - 1) / multiple; }
  int64_t Begin(int64_t group) const { return std::min(images, units() * group / groups * multiple); }

  // f(group, first image, count); groups side by side, the chunks of one in their order.
  template <typename F>
  void ForChunks(F&& f) const {
    const auto group = [&](int64_t g) {
      for (int64_t first = Begin(g); first < Begin(g + 1); first += step) f(g, first, std::min(step, Begin(g + 1) - first));
    };
    if (groups == 1) {
      group(0);
      return;
    }
    at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) group(g);
    });
  }
};

// `count` images of x as floats of this type: x itself, or converted (codes less their zero point) into `buffer`, which is made when needed.
at::Tensor Floats(const at::Tensor& x, int64_t first, int64_t count, int64_t step, int64_t zero_point, c10::ScalarType type, at::Tensor& buffer) {
  const at::Tensor part = x.narrow(0, first, count);
  if (x.scalar_type() == type) return part;
  if (!buffer.defined()) buffer = at::empty({step, x.size(1), x.size(2), x.size(3)}, type);
  at::Tensor floats = buffer.narrow(0, 0, count);
  if (x.scalar_type() == at::kByte) {
    ExpandCodes(part.const_data_ptr<uint8_t>(), part.numel(), Write(floats));
    if (zero_point != 0) floats.sub_(zero_point);  // exact: both are integers up to 255
  } else {
    floats.copy_(part);
  }
  return floats;
}

// Puts the sums of the images from `first` on into their halves.
void Split(const at::Tensor& numbers, FastSums& to, int64_t first) {
  at::Tensor upper = to.sums.narrow(0, first, numbers.size(0)), lower = to.lower.narrow(0, first, numbers.size(0));
  SplitFloats(numbers.const_data_ptr<float>(), numbers.numel(), static_cast<Bfloat16*>(upper.mutable_data_ptr()),
              static_cast<uint16_t*>(lower.mutable_data_ptr()));
}

// One convolution forward.
struct Forward {
  FastConvolution* layer;
  at::Tensor x;
  int64_t greatest_activation, zero_point;
  bool integers;
  at::Tensor zero_sums;       // [O] int32, what the zero point adds to each integer sum; undefined: nothing
  std::vector<int64_t> size;  // of the sums, [N, OH, OW, O]
  Cut cut;

  Forward(FastConvolution& convolution, const Features& features, const at::Tensor& operand, int64_t greatest)
      : layer(&convolution),
        x(features.fast->numbers),
        greatest_activation(features.greatest_code),
        zero_point(features.zero_point),
        integers(x.scalar_type() == at::kByte && greatest > 0 && greatest <= kGreatestByte),
        size(SizeOfSums(convolution.kernels.shape(), x)),
        cut(x.size(0), operand.numel(), size[1] * size[2] * size[3] * 4, 1) {
    if (integers && zero_point != 0) zero_sums = operand.detach().to(at::kInt).flatten(1).sum(1, false, at::kInt).mul_(zero_point);
  }

  static std::vector<int64_t> SizeOfSums(const ConvolutionShape& shape, const at::Tensor& x) {
    return {x.size(0), shape.Out(x.size(1)), shape.Out(x.size(2)), shape.out_channels};
  }

  c10::ScalarType type() const { return integers ? at::kInt : layer->float32 ? at::kFloat : FastFloat(); }
  at::Tensor Empty(int64_t images, c10::ScalarType of) const { return at::empty({images, size[1], size[2], size[3]}, of); }

  // Sums of some images, at most cut.step. out: of type(). buffer: see Floats; one per thread.
  void Make(int64_t first, int64_t count, at::Tensor& out, at::Tensor& buffer) const {
    if (integers) {
      layer->kernels.SumCodes(x.narrow(0, first, count), greatest_activation, out);
      if (zero_sums.defined()) out.sub_(zero_sums);
    } else {
      layer->kernels.Forward(Floats(x, first, count, cut.step, zero_point, type(), buffer), out);
    }
  }

  // Sums of all images with their moments, stored as `stored`, float32 in halves where `to` keeps bfloat16. False if that is int16 and one does not fit.
  bool MakeAll(c10::ScalarType stored, int64_t bound, FastSums& to, ChannelMoments& moments) const {
    const StepTimer timer(StepPart::kConvForward);
    const bool halves = stored == at::kFloat && FastFloat() == at::kBFloat16;
    to.sums = Empty(size[0], halves ? at::kBFloat16 : stored);
    if (halves) to.lower = Empty(size[0], at::kShort);
    struct Group {
      ChannelMoments moments;
      at::Tensor wide, expanded;
    };
    std::vector<Group> groups(static_cast<size_t>(cut.groups), {ChannelMoments(size[3]), {}, {}});
    std::atomic<bool> fits{true};
    cut.ForChunks([&](int64_t g, int64_t first, int64_t count) {
      if (!fits.load(std::memory_order_relaxed)) return;
      Group& group = groups[g];
      at::Tensor out = to.sums.narrow(0, first, count);
      if (stored != at::kShort && !halves) {
        Make(first, count, out, group.expanded);
        group.moments.Add(Read(out), bound, RowsOf(out), {});
        return;
      }
      if (!group.wide.defined()) group.wide = Empty(std::min(cut.step, size[0]), type());
      at::Tensor wide = group.wide.narrow(0, 0, count);
      Make(first, count, wide, group.expanded);
      if (!group.moments.Add(Read(wide), bound, RowsOf(wide), halves ? MutableArray{} : Write(out))) fits = false;
      if (halves) Split(wide, to, first);
    });
    moments = ChannelMoments(size[3]);
    for (const Group& group : groups) moments.Add(group.moments);
    return fits;
  }
};

// Some images' dL/dS as int8.
struct RoundedGradient {
  const GradientRounding* rounding;
  at::Tensor codes = {};
  std::vector<float> scales = {};

  // first: number of the first image in the rank's batch.
  const at::Tensor& Round(const at::Tensor& grad, int64_t first) {
    codes = at::empty(grad.sizes(), at::kChar);
    scales.resize(static_cast<size_t>(grad.size(0)));
    const BatchPosition& at = *rounding->position;
    QuantizeGradients(Read(grad), grad.size(0), grad.numel() / grad.size(0),
                      {rounding->seed, rounding->layer, at.epoch, static_cast<uint32_t>(at.batch), at.first_image}, first, codes.mutable_data_ptr<int8_t>(),
                      scales.data());
    return codes;
  }
};

}  // namespace

Sums FastConvolve(FastConvolution& layer, const Features& features, const at::Tensor& operand, const at::Tensor& leaf, double leaf_scale, int64_t greatest,
                  bool training) {
  const std::shared_ptr<FastFeatures> in = features.fast;
  const Forward forward(layer, features, operand, greatest);
  layer.kernels.SetWeights(operand, greatest);

  Sums out;
  out.scale = features.scale * leaf_scale;
  out.bound = forward.integers ? SumBound(operand.numel() / operand.size(0), features.greatest_code, greatest) : 0;
  TORCH_CHECK(out.bound < int64_t{1} << 31, "sums of ", operand.sizes(), " weights up to ", greatest, " and activations up to ", features.greatest_code,
              " do not fit 32 bits");
  out.fast = std::make_shared<FastSums>();
  out.fast->size = forward.size;
  out.fast->chunk = forward.cut.step;
  if (!training) {
    out.fast->make = [forward](int64_t first, int64_t count) {
      at::Tensor sums = forward.Empty(count, forward.type()), buffer;
      forward.Make(first, count, sums, buffer);
      return sums;
    };
    return out;
  }

  const ConvolutionShape& shape = layer.kernels.shape();
  ChannelMoments moments(shape.out_channels);
  bool fits = false;
  if (forward.integers && !layer.wide) {
    fits = forward.MakeAll(at::kShort, out.bound, *out.fast, moments);
    layer.wide = !fits;
  }
  if (!fits) forward.MakeAll(forward.type(), out.bound, *out.fast, moments);
  layer.kernels.DropPackedCodes();  // the weights change before the next batch
  out.fast->mean = at::empty({shape.out_channels}, at::kDouble);
  out.fast->variance = at::empty({shape.out_channels}, at::kDouble);
  moments.Finish(out.fast->mean.mutable_data_ptr<double>(), out.fast->variance.mutable_data_ptr<double>());
  if (!at::GradMode::is_enabled()) return out;

  out.fast->token = NewToken();
  const bool input_gradient = in->token.defined() && in->token.requires_grad();
  Record({in->token, leaf}, out.fast->token,
         [&layer, in, pending = out.fast->gradient, leaf_scale, greatest, input_gradient, zero_point = features.zero_point, weights = operand.numel(),
          size = out.fast->size, sizes = leaf.sizes().vec()](const at::Tensor&) -> std::vector<at::Tensor> {
           const at::Tensor& x = in->numbers;
           const SumsGradient gradient = std::exchange(*pending, {});
           TORCH_CHECK(gradient.defined(), "sums got no gradient");
           const StepTimer timer(StepPart::kConvBackward);
           const int64_t out_elements = size[1] * size[2] * size[3], in_elements = x.numel() / std::max<int64_t>(1, x.size(0));
           const Cut cut(size[0], weights, 2 * std::max(out_elements, in_elements), SumsGradient::Multiple(out_elements));
           at::Tensor grad_x;
           if (input_gradient) grad_x = at::empty(x.sizes(), FastFloat());
           const bool int8 = layer.rounding.position != nullptr && greatest > 0 && greatest <= 127 && IntegerSumsAreExact(255, greatest);
           struct Group {
             RoundedGradient rounded;
             at::Tensor buffer = {}, expanded = {};
           };
           std::vector<Group> groups(static_cast<size_t>(cut.groups), {RoundedGradient{&layer.rounding}});
           std::vector<WeightGradientSum> sums(groups.size());
           layer.kernels.BeginBackward();
           cut.ForChunks([&](int64_t g, int64_t first, int64_t count) {
             Group& group = groups[g];
             if (!group.buffer.defined()) group.buffer = at::empty({cut.step, size[1], size[2], size[3]}, FastFloat());
             at::Tensor grad = group.buffer.narrow(0, 0, count);
             gradient.Make(first, count, grad);
             const bool as_codes = x.scalar_type() == at::kByte && zero_point == 0 && layer.kernels.WeightGradientTakesCodes();
             const at::Tensor inputs = as_codes ? x.narrow(0, first, count) : Floats(x, first, count, cut.step, zero_point, FastFloat(), group.expanded);
             layer.kernels.AddWeightGradient(inputs, grad, sums[g]);
             if (!input_gradient) return;
             at::Tensor part = grad_x.narrow(0, first, count);
             if (int8) {
               layer.kernels.InputGradientOfCodes(group.rounded.Round(grad, first), part);
               ScaleImages(Write(part), count, in_elements, group.rounded.scales.data());
             } else {
               layer.kernels.InputGradient(grad, part);
             }
           });
           if (input_gradient) in->parts->push_back({std::move(grad_x), 1});
           // dS/dleaf = dS/doperand / leaf_scale
           return {at::Tensor(), layer.kernels.TakeWeightGradient(std::move(sums), 1 / leaf_scale).view(sizes)};
         });
  return out;
}

}  // namespace bitstair::core
