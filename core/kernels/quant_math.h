// Element-wise math of the numeric contract (DESIGN section 4), the same operations on host and device.
// Build with contraction off: where a fused multiply-add is meant, it is written std::fma. std::rint rounds ties to even (default rounding mode).
// NaN passes through every function here, so that it reaches the loss instead of turning into a code.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#if !defined(BITSTAIR_HOST_DEVICE)
#if defined(__CUDACC__)
#define BITSTAIR_HOST_DEVICE __host__ __device__
#else
#define BITSTAIR_HOST_DEVICE
#endif
#endif

namespace bitstair::core {

// n = 2^bits - 1, the greatest code.
constexpr int64_t GreatestCode(int bits) {
  return (int64_t{1} << bits) - 1;
}

// tanh(x) = e / (e + 2), e = exp(2|x|) - 1, from +, -, *, / and rint alone. Within 3 units in the last place of float64; float32 callers convert, call, and
// round once. e = 2^k p + (2^k - 1) with p = exp(r) - 1 by its Taylor polynomial of degree 14, |r| <= ln(2)/2 (truncation below 1e-18).
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline double Tanh(double x) {
  double a = x < 0 ? -x : x;
  a = a > 20.0 ? 20.0 : a;  // tanh is 1 to the last bit from 19.1 on
  const double y = a + a;
  const double k = std::rint(y * 1.4426950408889634);
  const double r = (y - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10;  // ln 2 in two parts: the first product is exact
  double p = 1.0 / 87178291200.0;                                                       // 1/14!
  p = p * r + 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r;
  // 2^k without a conversion: adding 1.5 * 2^52 leaves k in the low bits of the significand; k is at most 58.
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(k + 6755399441055744.0) + 1023) << 52);
  const double e = power * p + (power - 1.0);
  const double t = e / (e + 2.0);
  // A NaN's k makes `power` arbitrary, but p is NaN.
  return x < 0 ? -t : t;
}

// The same formula wholly in float32, with a polynomial of degree 7 (truncation below 2e-9): within 4 units in the last place. For gradients, which need no
// bit more, and for guesses; codes follow Tanh above.
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline float TanhFast(float x) {
  float a = x < 0 ? -x : x;
  a = a > 10.0f ? 10.0f : a;
  const float y = a + a;
  const float k = std::rint(y * 1.44269504f);
  const float r = std::fma(k, -1.42860682e-6f, std::fma(k, -0.693145751953125f, y));  // ln 2 in two parts
  float p = std::fma(1.0f / 5040.0f, r, 1.0f / 720.0f);
  p = std::fma(p, r, 1.0f / 120.0f);
  p = std::fma(p, r, 1.0f / 24.0f);
  p = std::fma(p, r, 1.0f / 6.0f);
  p = std::fma(p, r, 0.5f);
  p = std::fma(p, r, 1.0f);
  p = p * r;
  // As above; k is at most 29.
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(k + 12582912.0f) + 127) << 23);
  const float e = std::fma(power, p, power - 1.0f);
  const float t = e / (e + 2.0f);
  return x < 0 ? -t : t;
}
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline double TanhFast(double x) {
  return Tanh(x);
}

template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T TanhOf(T x) {
  return static_cast<T>(Tanh(static_cast<double>(x)));
}

// DoReFa weights: c = rint(n (t / (2M) + 1/2)), o = 2c - n. M = max|t| > 0; for M = 0 the caller passes t = 0, M = 1: c = rint(n/2).
template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T OddWeightCode(T t, T max_abs, T n) {
  const T c = std::rint(n * (t / (T{2} * max_abs) + T{0.5}));
  return T{2} * c - n;
}

template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T Clip01(T x) {
  return x < T{0} ? T{0} : (x > T{1} ? T{1} : x);
}

// DoReFa activations: rint(n clip(x, 0, 1)).
template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T ActivationCode(T x, T n) {
  return std::rint(n * Clip01(x));
}

// Pixels: rint(clip(x / step + zero_point, 0, 255)); the caller gives 1 / step, rounded to T once.
template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T PixelCode(T x, T steps_per_unit, T zero_point) {
  const T code = std::fma(x, steps_per_unit, zero_point);
  return std::rint(code < T{0} ? T{0} : (code > T{255} ? T{255} : code));
}

// The straight-through gradient passes on the closed interval.
template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline bool ClipPasses(T x) {
  return x >= T{0} && x <= T{1};
}

template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T Relu(T x) {
  return x < T{0} ? T{0} : x;
}

// The value of a code: scale * code, rounded to T once. With scale = 1/n this is the correctly rounded code/n in float32.
template <typename T>
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline T CodeValue(T code, double scale) {
  return static_cast<T>(static_cast<double>(code) * scale);
}

// Batch norm on sums S whose values are y = sum_scale * S: x = fma(S, alpha, beta), both computed in float64 and rounded to T once by the caller.
struct ChannelAffine {
  double alpha;
  double beta;
};
[[gnu::always_inline]] BITSTAIR_HOST_DEVICE inline ChannelAffine BatchNormAffine(double gamma, double beta, double mean, double variance, double epsilon,
                                                                                 double sum_scale) {
  const double slope = gamma / std::sqrt(variance + epsilon);
  return {slope * sum_scale, beta - slope * mean};
}

}  // namespace bitstair::core
