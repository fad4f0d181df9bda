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

// Inputs that window `out` of a line (a row or a column of the image) looks at, `step` elements apart.
void LinksOfWindow(const PoolShape& s, int64_t out, int64_t length, int64_t step, uint8_t place_step, std::vector<PoolLink>& links) {
  for (int64_t k = 0; k < s.size; ++k) {
    const int64_t at = out * s.stride + k - s.padding;
    if (at >= 0 && at < length) links.push_back({at * step, static_cast<uint8_t>(k * place_step)});
  }
}

// Windows of a line of `outputs` that look at input `in`: out stride <= in + padding < out stride + size.
void LinksOfInput(const PoolShape& s, int64_t in, int64_t outputs, int64_t step, uint8_t place_step, std::vector<PoolLink>& links) {
  const int64_t last = std::min((in + s.padding) / s.stride, outputs - 1);
  for (int64_t out = std::max<int64_t>(0, (in + s.padding - s.size + s.stride) / s.stride); out <= last; ++out) {
    links.push_back({out * step, static_cast<uint8_t>((in + s.padding - out * s.stride) * place_step)});
  }
}

// The links of all columns, which every row shares.
struct Columns {
  std::vector<PoolLink> links;
  std::vector<int32_t> begin{0};

  // add(column, links): adds a column's
  template <typename F>
  Columns(int64_t width, F&& add) {
    for (int64_t x = 0; x < width; ++x) {
      add(x, links);
      begin.push_back(static_cast<int32_t>(links.size()));
    }
  }
  PoolLinks With(const std::vector<PoolLink>& rows, int64_t channels) const {
    return {rows.data(), static_cast<int64_t>(rows.size()), links.data(), begin.data(), static_cast<int64_t>(begin.size()) - 1, channels};
  }
};

}  // namespace

void MaxPoolRows(const PoolShape& shape, ConstArray x, MutableArray pooled, uint8_t* taken) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(shape.images * shape.channels *
                        (shape.height * shape.width * static_cast<int64_t>(BytesOf(x.type)) +
                         shape.out_height() * shape.out_width() * static_cast<int64_t>(BytesOf(x.type) + 1)));
  Check(shape);
  const Columns columns(shape.out_width(), [&](int64_t ox, auto& links) { LinksOfWindow(shape, ox, shape.width, shape.channels, 1, links); });
  const int64_t row_step = shape.width * shape.channels, out_row = shape.out_width() * shape.channels;
  at::parallel_for(0, shape.images * shape.out_height(), 4, [&](int64_t begin, int64_t end) {
    std::vector<PoolLink> rows;
    for (int64_t row = begin; row < end; ++row) {
      rows.clear();
      LinksOfWindow(shape, row % shape.out_height(), shape.height, row_step, static_cast<uint8_t>(shape.size), rows);
      for (PoolLink& link : rows) link.at += row / shape.out_height() * shape.height * row_step;
      Kernels().take_greatest(x, columns.With(rows, shape.channels), row * out_row, pooled, taken);
    }
  });
}

void MaxPoolRowsBackward(const PoolShape& shape, ConstArray grad_pooled, const uint8_t* taken, MutableArray grad_x) {
  const StepTimer timer(StepPart::kElementwise);
  CountElementwiseBytes(shape.images * shape.channels *
                        (shape.height * shape.width * static_cast<int64_t>(BytesOf(grad_x.type)) +
                         shape.out_height() * shape.out_width() * static_cast<int64_t>(BytesOf(grad_x.type) + 1)));
  Check(shape);
  const Columns columns(shape.width, [&](int64_t x, auto& links) { LinksOfInput(shape, x, shape.out_width(), shape.channels, 1, links); });
  const int64_t row_step = shape.out_width() * shape.channels, in_row = shape.width * shape.channels;
  at::parallel_for(0, shape.images * shape.height, 4, [&](int64_t begin, int64_t end) {
    std::vector<PoolLink> rows;
    for (int64_t row = begin; row < end; ++row) {
      rows.clear();
      LinksOfInput(shape, row % shape.height, shape.out_height(), row_step, static_cast<uint8_t>(shape.size), rows);
      for (PoolLink& link : rows) link.at += row / shape.height * shape.out_height() * row_step;
      Kernels().sum_where_taken(grad_pooled, taken, columns.With(rows, shape.channels), row * in_row, grad_x);
    }
  });
}

}  // namespace bitstair::core
