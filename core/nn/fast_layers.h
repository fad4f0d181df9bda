// The layers of numerics "fast". Activations are channels-last, codes are bytes, sums are integers; one fused pass each way does batch norm, shortcut, clip and
// rounding (kernels/fused/fused_norm.h). The classes of nn/ call these where their Features or Sums carry a fast half; networks do not see the difference.
//
// Autograd keeps the order of the backward pass and the gradients of leaves (so that c10d's Reducer sees each as soon as it is there), but not the gradients
// between layers, which bytes cannot carry: a layer's output has an empty `token` in autograd's graph, and its gradient lies in `parts`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/kernels/convolution.h"
#include "core/nn/features.h"
#include "core/nn/network.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

// dL/d(the number that the features hold) = sum of scale * gradient.
struct FeatureGradient {
  at::Tensor gradient;  // of FastFloat(), shape of the features
  float scale = 1;
  // By the value before rounding, which shortcuts carry (shortcut_values: float): the same for all but a quantiser that learns from its rounding errors.
  bool unrounded = false;
};

struct FastFeatures {
  at::Tensor numbers;  // [N, H, W, C]: uint8 codes, or floats of FastFloat() or float32
  at::Tensor token;    // undefined for images and without gradients
  // An object of its own: the function that reads it in the backward pass lies behind the token, and must not own the token.
  std::shared_ptr<std::vector<FeatureGradient>> parts = std::make_shared<std::vector<FeatureGradient>>();
};

// dL/dS of a convolution, as what it follows from: the convolution's backward pass makes it for some images at a time.
struct SumsGradient {
  static constexpr int64_t kMaskWordBits = 16;

  std::vector<FeatureGradient> parts;  // g before the mask, one or two
  at::Tensor mask;                     // undefined: g passes everywhere
  at::Tensor sums;
  std::vector<float> mean, a, b, c;  // per channel: dL/dS = g a + (S - mean) b + c

  bool defined() const { return !parts.empty(); }
  // Chunks begin at multiples of so many images, because masks are words.
  static int64_t Multiple(int64_t elements_per_image);
  // out: [count, H, W, C], of FastFloat()
  void Make(int64_t first, int64_t count, at::Tensor& out) const;
};

struct FastSums {
  std::vector<int64_t> size;  // [N, H, W, C]
  // Training: of all images, int16 or int32 integers, FastFloat() or float32. The mean and (biased) variance of S over the batch are float64.
  at::Tensor sums;
  // Defined: the sums are float32, in two halves until a layer has read them: `sums` has the upper ones, as bfloat16, these, int16, are the lower ones
  // (kernels/float_halves.h). In one piece they would be the largest tensor of a step, and the heap would grow where it has no hole of that size.
  at::Tensor lower;
  at::Tensor mean, variance;
  at::Tensor token;
  std::shared_ptr<SumsGradient> gradient = std::make_shared<SumsGradient>();
  // Evaluation: computes the sums of `count` images, int32 or FastFloat(), count <= chunk.
  std::function<at::Tensor(int64_t first, int64_t count)> make;
  int64_t chunk = 1;
};

// How numerics "fast8" rounds the gradients of a layer.
struct GradientRounding {
  std::shared_ptr<const BatchPosition> position;  // null: gradients stay floats
  uint64_t seed = 0;
  uint32_t layer = 0;
};

// The state of one convolution or linear layer in numerics "fast".
struct FastConvolution {
  explicit FastConvolution(ConvolutionShape shape, GradientRounding gradient_rounding = {}, bool float32_forward = false)
      : kernels(shape), rounding(std::move(gradient_rounding)), float32(float32_forward) {}
  Convolution kernels;
  const GradientRounding rounding;
  // Float sums are float32 whatever FastFloat() is. For layers of full precision whose output is rounded to few levels: the rounding error of bfloat16 takes
  // many values across the border between two codes, and every layer behind sees other codes than a float32 computation does.
  const bool float32;
  bool wide = false;  // a sum did not fit int16 once: keep int32. Changes no result
};

// Images as the first layer takes them: [N, C, H, W] float32 -> the same channels-last. A layer converts what it needs: several networks may read them.
Features FastImages(const at::Tensor& images);

// operand: what the layer multiplies with, [O, I, k, k] or [O, I]; leaf gets the gradient by leaf_scale * operand; greatest: bound of |operand|, 0 for floats.
// Integer sums where both sides are codes of at most 8 bits, floats otherwise; of code - zero_point either way. training: at once, with moments; otherwise when
// FastNormalize asks.
Sums FastConvolve(FastConvolution& layer, const Features& features, const at::Tensor& operand, const at::Tensor& leaf, double leaf_scale, int64_t greatest,
                  bool training);

struct FastNorm {
  std::string name;
  at::Tensor gamma, beta;     // float32 leaves
  at::Tensor mean, variance;  // of y = scale S, float64: running statistics; not read in training
};

struct FastActivation {
  bool relu = false;
  int64_t greatest_code = 0;                                       // 0: no rounding
  std::shared_ptr<const ActivationQuantizer> quantizer = nullptr;  // null: no rounding, or the range is 1

  double range() const { return quantizer ? quantizer->range() : 1; }
  double scale() const { return quantizer ? quantizer->scale() : 1.0 / static_cast<double>(greatest_code); }
};

// activation(norm(sums) + shortcut). shortcut: null, features, or (shortcut_norm and shortcut_sums) a convolution with its own batch norm.
// values: if not null, takes clip(x, 0, range) of the same sums x without rounding, as float32 multiples of the range. Throws NotANumber.
// passed: if not null and gradients are recorded, takes how many inputs of the activation the gradient passes.
Features FastNormalize(const FastNorm& norm, const Sums& sums, const Features* shortcut, const FastNorm* shortcut_norm, const Sums* shortcut_sums,
                       const FastActivation& activation, bool training, Features* values = nullptr, int64_t* passed = nullptr);

// nn/residual_stream.h: the stream's numbers are float32 in any case. A batch norm's gradient by the stream goes to the stream's parts.
Features FastAddToStream(const Sums& sums, const Features* stream, bool training);
Sums FastStreamSums(const Features& stream, bool training);

Features FastMaxPool(const Features& features, int64_t size, int64_t stride, int64_t padding);
Features FastPaddedShortcut(const Features& features, int64_t channels, int64_t stride);
// [N, 1, 1, C H W] in PyTorch's order of elements.
Features FastFlatten(const Features& features);
// float32 [N, C], differentiable: mean over positions of the values.
at::Tensor FastAveragePool(const Features& features);
// The same of codes, added up over the positions.
at::Tensor FastSumsOfCodes(const Features& features);

}  // namespace bitstair::core
