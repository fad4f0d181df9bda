#include "core/kernels/fused/fused_pool.h"

#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "core/kernels/fused/norm_kernels.h"
#include "core/kernels/step_clock.h"

namespace bitstair::core {
namespace {

void Check(const PoolShape& s) {
  TORCH_CHECK(s.size >= 1 && s.size <= 15 && s.stride >= 1 && s.padding >= 0 && s.padding < s.size && s.height + 2 * s.padding >= s.size &&
                  s.width + 2 * s.padding >= s.size,
              "max pool: window ", s.size, " stride ", s.stride, " padding ", s.padding, " over ", s.height, "x", s.width);
}

void PoolRow(const PoolShape& s, ConstArray x, int64_t image, int64_t oy, MutableArray pooled, uint8_t* taken, std::vector<PoolLink>& links) {
  for (int64_t ox = 0; ox < s.out_width(); ++ox) {
    links.clear();
    for (int64_t ky = 0; ky < s.size; ++ky) {
      const int64_t y = oy * s.stride + ky - s.padding;
      if (y < 0 || y >= s.height) continue;
      for (int64_t kx = 0; kx < s.size; ++kx) {
        const int64_t column = ox * s.stride + kx - s.padding;
        if (column < 0 || column >= s.width) continue;
        links.push_back({((image * s.height + y) * s.width + column) * s.channels, static_cast<uint8_t>(ky * s.size + kx)});
      }
    }
    const int64_t at = ((image * s.out_height() + oy) * s.out_width() + ox) * s.channels;
    Kernels().take_greatest(x, links.data(), static_cast<int64_t>(links.size()), s.channels, at, pooled, taken);
  }
}

void GradientRow(const PoolShape& s, ConstArray grad, const uint8_t* taken, int64_t image, int64_t y, MutableArray grad_x, std::vector<PoolLink>& links) {
  // Windows that hold (y, x): oy stride <= y + padding < oy stride + size.
  const auto first = [&](int64_t at) { return std::max<int64_t>(0, (at + s.padding - s.size + s.stride) / s.stride); };
  const auto last = [&](int64_t at, int64_t out) { return std::min((at + s.padding) / s.stride, out - 1); };
  for (int64_t x = 0; x < s.width; ++x) {
    links.clear();
    for (int64_t oy = first(y); oy <= last(y, s.out_height()); ++oy) {
      for (int64_t ox = first(x); ox <= last(x, s.out_width()); ++ox) {
        links.push_back({((image * s.out_height() + oy) * s.out_width() + ox) * s.channels,
                         static_cast<uint8_t>((y + s.padding - oy * s.stride) * s.size + (x + s.padding - ox * s.stride))});
      }
    }
    Kernels().sum_where_taken(grad, taken, links.data(), static_cast<int64_t>(links.size()), s.channels, ((image * s.height + y) * s.width + x) * s.channels,
                              grad_x);
  }
}

}  // namespace

void MaxPoolRows(const PoolShape& shape, ConstArray x, MutableArray pooled, uint8_t* taken) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(shape.images * shape.channels *
                        (shape.height * shape.width * static_cast<int64_t>(BytesOf(x.type)) +
                         shape.out_height() * shape.out_width() * static_cast<int64_t>(BytesOf(x.type) + 1)));
  Check(shape);
  at::parallel_for(0, shape.images * shape.out_height(), 4, [&](int64_t begin, int64_t end) {
    std::vector<PoolLink> links;
    for (int64_t row = begin; row < end; ++row) PoolRow(shape, x, row / shape.out_height(), row % shape.out_height(), pooled, taken, links);
  });
}

void MaxPoolRowsBackward(const PoolShape& shape, ConstArray grad_pooled, const uint8_t* taken, MutableArray grad_x) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(shape.images * shape.channels *
                        (shape.height * shape.width * static_cast<int64_t>(BytesOf(grad_x.type)) +
                         shape.out_height() * shape.out_width() * static_cast<int64_t>(BytesOf(grad_x.type) + 1)));
  Check(shape);
  at::parallel_for(0, shape.images * shape.height, 4, [&](int64_t begin, int64_t end) {
    std::vector<PoolLink> links;
    for (int64_t row = begin; row < end; ++row) GradientRow(shape, grad_pooled, taken, row / shape.height, row % shape.height, grad_x, links);
  });
}

}  // namespace bitstair::core
