// The weight quantiser of DoReFa: DESIGN section 3, arXiv 1606.06160 section 2.3 (paper 1711.00205, equation 2), over blocks of a tensor.
//
//   t = tanh(w), M = max|t|, c = rint(n (t/(2M) + 1/2)), o = 2c - n: odd integers in [-n, n]; w_q = o/n. M = 0: c = rint(n/2).
//   dL/dw_i = (1 - t_i^2) (g_i / M + [ |t_i| = M ] sign(t_i) / ties * dL/dM),  dL/dM = -sum_j g_j t_j / M^2,  g = dL/dw_q (rounding is straight-through)
//
// T: float or double. Codes follow tanh as quant_math.h has it, exactly. The gradient of float takes a tanh of its own, within 4 units in the last place.
#pragma once

#include <cstdint>

namespace bitstair::core {

// max|w|, NaN if any element is.
template <typename T>
T MaxAbs(const T* w, int64_t size);

// M from max|w| of the whole tensor: tanh is monotone, also as rounded here.
template <typename T>
T MaxTanh(T max_abs);

// Code: T, int8_t (n <= 127) or int16_t. max_tanh: M; 0 counts as 1, which gives c = rint(n/2). A NaN becomes a NaN of T; integers must not be asked for then.
template <typename T, typename Code>
void DorefaCodes(const T* w, int64_t size, T max_tanh, T n, Code* odd_codes);

// t / M, which the codes round: values in [-1, 1].
template <typename T>
void DorefaValues(const T* w, int64_t size, T max_tanh, T* values);

// Of a block, and then of the tensor. `ties` counts elements with |t| = max.
struct DorefaSums {
  double max = 0, dot = 0, ties = 0;
  void Add(const DorefaSums& block);
};
// sum g t in float64 in a fixed order.
template <typename T>
DorefaSums SumDorefaGradient(const T* w, const T* grad_values, int64_t size);

// whole: of the tensor. detach_max drops dL/dM. M = 0: 0. grad_latent may be grad_values.
template <typename T>
void DorefaGradient(const T* w, const T* grad_values, int64_t size, const DorefaSums& whole, bool detach_max, T* grad_latent);

}  // namespace bitstair::core
