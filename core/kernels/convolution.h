// Convolutions of numerics "fast", on oneDNN: integer sums of codes forward, float gradients. Channels-last activations, PyTorch's weights.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// Dilation 1, one group.
struct ConvolutionShape {
  int64_t in_channels = 0, out_channels = 0;
  int64_t kernel = 1, stride = 1, padding = 0;

  int64_t Out(int64_t in) const { return (in + 2 * padding - kernel) / stride + 1; }
};

// The type of floats in numerics "fast": activations of full-precision layers, and gradients. bfloat16 where the processor multiplies it faster than float32
// (AMX, or AMD with AVX512_BF16), float32 elsewhere: Intel's VDPBF16PS without AMX has half the rate of two float32 multiply-adds (docs/adr/0005). A property
// of the processor, not a measurement: resumed runs must choose alike.
c10::ScalarType FastFloat();
// For tests: kFloat, kBFloat16, or kHalf for the processor's own again. False where oneDNN cannot. Not while networks exist.
bool SetFastFloat(c10::ScalarType type);

// Whether this processor sums products of codes up to these magnitudes exactly: a convolution of all-maximum operands of equal sign, run once per pair.
// Without VNNI, pairs of products are added in int16 and saturate.
bool IntegerSumsAreExact(int64_t greatest_activation, int64_t greatest_weight);

// The sum of some chunks' weight gradients, in an order of elements that only its convolution knows.
struct WeightGradientSum {
  at::Tensor data;
  bool alone = false;  // summed on one thread
};

// One layer's convolution. Primitives are made on first use per image size and kept. Outside of a parallel region a call uses the whole of LibTorch's OpenMP
// pool, one call at a time; inside of one it stays on its thread, and calls on other images may run beside it.
class Convolution {
 public:
  explicit Convolution(ConvolutionShape shape);
  ~Convolution();
  Convolution(Convolution&&) noexcept;

  const ConvolutionShape& shape() const;

  // operand: [O, I, k, k]: integers of any type, greatest = their bound: up to 127 any, 128 for
  // -128..127, up to 255 odd ones only; or float32 weights, greatest = 0. Keeps a reference; packs
  // when needed. Not inside of a parallel region.
  void SetWeights(const at::Tensor& operand, int64_t greatest);

  // S = conv(codes, weight codes), exact. codes: uint8 [N, H, W, I], values up to greatest_activation; sums: int32 [N, OH, OW, O]. Both contiguous. Routes: as
  // they are; 8-bit weights as o = 2h + 1, sum(a) in an extra channel; where IntegerSumsAreExact says no, codes in two halves of 4 bits.
  void SumCodes(const at::Tensor& codes, int64_t greatest_activation, at::Tensor& sums);

  // Frees what SumCodes packed; the next SumCodes packs anew. Not inside of a parallel region.
  void DropPackedCodes();

  // Floats: x [N, H, W, I], y [N, OH, OW, O], both of FastFloat() or both float32; weights are rounded to the same type.
  void Forward(const at::Tensor& x, at::Tensor& y);

  // The backward pass goes chunk by chunk of the batch, so that a chunk's arrays stay in the cache: BeginBackward, then per chunk InputGradient (dL/dx from
  // dL/dy) and AddWeightGradient (of x and dL/dy, to a sum that starts empty), then TakeWeightGradient: scale times the sums, added in their order, float32
  // [O, I, k, k]; all of them were summed inside of parallel regions, or none. Arrays as in Forward. Begin and Take: not inside of a parallel region.
  void BeginBackward();
  void InputGradient(const at::Tensor& grad_y, at::Tensor& grad_x);
  // dL/dx / scale from int8 codes of dL/dy, with weight codes up to 127: exact sums, rounded once to FastFloat().
  void InputGradientOfCodes(const at::Tensor& codes, at::Tensor& grad_x);
  // x may also be uint8 codes where TakesCodes says so.
  bool WeightGradientTakesCodes() const;
  void AddWeightGradient(const at::Tensor& x, const at::Tensor& grad_y, WeightGradientSum& sum);
  at::Tensor TakeWeightGradient(std::vector<WeightGradientSum> sums, double scale);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitstair::core
