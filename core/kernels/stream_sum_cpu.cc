#include <cmath>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/stream_sum.h"

namespace bitstair::core {
namespace {

constexpr int64_t kGrainElements = 32768;

// target_clones takes plain functions only, so each pair of element types has its own.
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_ADD(S, T)                                                                       \
  BITSTAIR_CPU_CLONES void Add(const S* s, T scale, const T* stream, int64_t n, T* out) {        \
    if (stream == nullptr) {                                                                     \
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(s[i]) * scale;                     \
    } else {                                                                                     \
      for (int64_t i = 0; i < n; ++i) out[i] = std::fma(static_cast<T>(s[i]), scale, stream[i]); \
    }                                                                                            \
  }
BITSTAIR_ADD(int16_t, float)
BITSTAIR_ADD(int32_t, float)
BITSTAIR_ADD(c10::BFloat16, float)
BITSTAIR_ADD(float, float)
BITSTAIR_ADD(double, float)
BITSTAIR_ADD(double, double)
#undef BITSTAIR_ADD
// NOLINTEND(bugprone-macro-parentheses)

template <typename S, typename T>
void AddAll(const at::Tensor& sums, double scale, const at::Tensor& stream, at::Tensor& out) {
  const S* s = sums.const_data_ptr<S>();
  const T* from = stream.defined() ? stream.const_data_ptr<T>() : nullptr;
  T* to = out.mutable_data_ptr<T>();
  at::parallel_for(0, out.numel(), kGrainElements, [&](int64_t begin, int64_t end) {
    Add(s + begin, static_cast<T>(scale), from == nullptr ? nullptr : from + begin, end - begin, to + begin);
  });
}

}  // namespace

void AddScaledSums(const at::Tensor& sums, double scale, const at::Tensor& stream, at::Tensor& out) {
  TORCH_CHECK(sums.is_contiguous() && out.is_contiguous() && sums.sizes() == out.sizes(), "sums ", sums.sizes(), " do not fit a stream of ", out.sizes());
  TORCH_CHECK(!stream.defined() || (stream.is_contiguous() && stream.sizes() == out.sizes() && stream.scalar_type() == out.scalar_type()), "a stream of ",
              stream.sizes(), " does not fit ", out.sizes());
  const c10::ScalarType type = sums.scalar_type();
  if (out.scalar_type() == at::kDouble) {
    TORCH_CHECK(type == at::kDouble, "sums of type ", type, " for a stream in float64");
    return AddAll<double, double>(sums, scale, stream, out);
  }
  TORCH_CHECK(out.scalar_type() == at::kFloat, "a stream of type ", out.scalar_type());
  switch (type) {
    case at::kShort:
      return AddAll<int16_t, float>(sums, scale, stream, out);
    case at::kInt:
      return AddAll<int32_t, float>(sums, scale, stream, out);
    case at::kBFloat16:
      return AddAll<c10::BFloat16, float>(sums, scale, stream, out);
    case at::kDouble:
      return AddAll<double, float>(sums, scale, stream, out);
    default:
      return AddAll<float, float>(sums, scale, stream, out);
  }
}

}  // namespace bitstair::core
