// Tensors as the fused kernels take them. Private to the sources of nn/fast_layers.h.
#pragma once

#include <memory>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "core/kernels/float_halves.h"
#include "core/kernels/fused/fused_norm.h"
#include "core/nn/fast_layers.h"
#include "core/nn/tape.h"

namespace bitstair::core {

inline Stored StoredAs(c10::ScalarType type) {
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
inline ConstArray Read(const at::Tensor& t) {
  return t.defined() ? ConstArray{t.const_data_ptr(), StoredAs(t.scalar_type())} : ConstArray{};
}
inline MutableArray Write(at::Tensor& t) {
  return t.defined() ? MutableArray{t.mutable_data_ptr(), StoredAs(t.scalar_type())} : MutableArray{};
}
inline RowShape RowsOf(const at::Tensor& nhwc) {
  return {nhwc.numel() / nhwc.size(3), nhwc.size(3)};
}

// Float32 sums of `count` images that lie in halves.
inline at::Tensor JoinedSums(const FastSums& s, int64_t first, int64_t count) {
  const at::Tensor upper = s.sums.narrow(0, first, count), lower = s.lower.narrow(0, first, count);
  at::Tensor numbers = at::empty(upper.sizes(), at::kFloat);
  JoinFloats(static_cast<const Bfloat16*>(upper.const_data_ptr()), static_cast<const uint16_t*>(lower.const_data_ptr()), numbers.numel(),
             numbers.mutable_data_ptr<float>());
  return numbers;
}

// Sums of all images in one piece, for who reads them more than once.
inline void JoinSums(FastSums& s) {
  if (!s.lower.defined()) return;
  s.sums = JoinedSums(s, 0, s.sums.size(0));
  s.lower.reset();
}

// The parts as at most `most` (1 or 2): further ones are added to the first. What the caller gives is not changed; others may hold it too.
inline std::vector<FeatureGradient> AtMost(size_t most, std::vector<FeatureGradient> parts) {
  while (parts.size() > most) {
    const FeatureGradient& last = parts.back();
    const GradientPart two[2] = {{Read(parts[0].gradient), parts[0].scale}, {Read(last.gradient), last.scale}};
    at::Tensor sum = at::empty(last.gradient.sizes(), last.gradient.scalar_type());
    AddParts(two, sum.numel(), Write(sum));
    parts.pop_back();
    parts[0] = {sum, 1};
  }
  return parts;
}

// Features of these numbers, with a token where a graph is recorded.
inline std::shared_ptr<FastFeatures> NewFeatures(at::Tensor numbers) {
  auto fast = std::make_shared<FastFeatures>();
  fast->numbers = std::move(numbers);
  if (at::GradMode::is_enabled()) fast->token = NewToken();
  return fast;
}

}  // namespace bitstair::core
