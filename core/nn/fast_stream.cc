// The residual stream of nn/fast_layers.h.
#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/stream_sum.h"
#include "core/nn/fast_arrays.h"

namespace bitstair::core {

Features FastAddToStream(const Sums& sums, const Features* stream, bool training) {
  const std::shared_ptr<FastSums> s = sums.fast;
  const std::shared_ptr<FastFeatures> from = stream != nullptr ? stream->fast : nullptr;
  at::Tensor numbers = at::empty(s->size, at::kFloat);
  JoinSums(*s);
  // In training the sums of all images are there; in evaluation a chunk's are made, used and forgotten.
  const int64_t images = s->size[0], step = training ? std::max<int64_t>(1, images) : s->chunk;
  for (int64_t first = 0; first < images; first += step) {
    const int64_t count = std::min(step, images - first);
    at::Tensor to = numbers.narrow(0, first, count);
    AddScaledSums(training ? s->sums : s->make(first, count), sums.scale, from ? from->numbers.narrow(0, first, count) : at::Tensor(), to);
  }
  Features out;
  out.fast = NewFeatures(std::move(numbers));
  if (!training || !at::GradMode::is_enabled()) return out;

  std::vector<at::Tensor> inputs{s->token};
  if (from) inputs.push_back(from->token);
  Record(inputs, out.fast->token, [s, from, scale = static_cast<float>(sums.scale), received = out.fast->parts](const at::Tensor&) {
    const FeatureGradient gradient = AtMost(1, std::exchange(*received, {})).at(0);
    SumsGradient& of_sums = *s->gradient;
    const auto channels = static_cast<size_t>(s->size[3]);
    of_sums.parts = {gradient};
    of_sums.a.assign(channels, scale);
    of_sums.mean.assign(channels, 0);
    of_sums.b.assign(channels, 0);
    of_sums.c.assign(channels, 0);
    of_sums.sums = std::exchange(s->sums, {});
    if (from && from->token.defined()) from->parts->push_back(gradient);
    return std::vector<at::Tensor>(from ? 2 : 1);
  });
  return out;
}

Sums FastStreamSums(const Features& stream, bool training) {
  const std::shared_ptr<FastFeatures> in = stream.fast;
  Sums out;
  out.fast = std::make_shared<FastSums>();
  out.fast->size = in->numbers.sizes().vec();
  if (!training) {
    out.fast->chunk = std::max<int64_t>(1, in->numbers.size(0));
    out.fast->make = [numbers = in->numbers](int64_t first, int64_t count) { return numbers.narrow(0, first, count); };
    return out;
  }
  out.fast->sums = in->numbers;
  const RowShape shape = RowsOf(in->numbers);
  ChannelMoments moments(shape.channels);
  moments.Add(Read(in->numbers), 0, shape, {});
  out.fast->mean = at::empty({shape.channels}, at::kDouble);
  out.fast->variance = at::empty({shape.channels}, at::kDouble);
  moments.Finish(out.fast->mean.mutable_data_ptr<double>(), out.fast->variance.mutable_data_ptr<double>());
  if (!at::GradMode::is_enabled()) return out;

  out.fast->token = NewToken();
  Record({in->token}, out.fast->token, [in, pending = out.fast->gradient](const at::Tensor&) -> std::vector<at::Tensor> {
    const SumsGradient gradient = std::exchange(*pending, {});
    TORCH_CHECK(gradient.defined(), "the stream's batch norm got no gradient");
    at::Tensor grad = at::empty(in->numbers.sizes(), FastFloat());
    gradient.Make(0, grad.size(0), grad);
    in->parts->push_back({std::move(grad), 1});
    return {at::Tensor()};
  });
  return out;
}

}  // namespace bitstair::core
