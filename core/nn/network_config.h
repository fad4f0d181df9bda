// What a network is, before it exists.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <c10/core/ScalarType.h>

#include "core/kernels/pixel_codes.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

enum class ActivationFunction { kRelu, kClip };

// kReference: DESIGN section 4, plain float tensors in autograd. kFast: integers and fused kernels (nn/fast_layers.h), float32 networks only. The codes of each
// layer are equal for equal input codes, weights and statistics. kFast8: as kFast, but gradients by a layer's input are int8 convolutions where its weights
// have at most 7 bits (kernels/gradient_codes.h).
enum class Numerics { kReference, kFast, kFast8 };

// What an identity or padded shortcut carries: the codes that convolutions read, or clip(x, 0, 1) of the same sum before rounding.
enum class ShortcutValues { kCodes, kFloat };

struct NetworkConfig {
  std::string network;  // one of NetworkNames()
  int image_channels = 0;
  int image_height = 0;
  int image_width = 0;
  int classes = 0;
  // All layers have 1/divisor of their channels. For tests: the same layers in the same order, but cheap.
  int channel_divisor = 1;
  // 1..8, 16, or 32 (not quantised).
  int weight_bits = 32;
  int activation_bits = 32;
  // What activation_bits = 32 means: ReLU, or clip(x, 0, 1) without rounding. Quantised activations always clip.
  ActivationFunction activation = ActivationFunction::kRelu;
  std::string quantizer = "dorefa";
  bool detach_weight_max = false;
  bool quantize_last_activation = false;
  WeightNorm weight_norm = WeightNorm::kMax;
  ShortcutValues shortcut_values = ShortcutValues::kCodes;
  // Width of convolution shortcuts' weights where weights are quantised: 8, 32, or 0 for weight_bits.
  int shortcut_conv_bits = 0;
  // Pattern -> width of the layers and activations it matches (layer_names() of nn/network.h), where weights (activations) are quantised at all. '*' stands for
  // any characters; of several patterns the longest counts.
  std::map<std::string, int> layer_widths;
  // Where weights are quantised at all, the first convolution and the last linear layer are, too, at weight_bits: 8-bit pixel codes into the one (`pixels` is
  // their range), 8-bit activation codes into the other (8 bits also where activation_bits is 32), and one learned scalar on the logits.
  bool quantize_first_last = false;
  PixelRange pixels;
  uint64_t seed = 1;
  Numerics numerics = Numerics::kReference;
  // kFloat, or kDouble to run wholly in float64 for parity tests.
  c10::ScalarType dtype = c10::ScalarType::Float;

  bool quantizes_first_last() const { return quantize_first_last && weight_bits != 32; }
};

}  // namespace bitstair::core
