// What a network is, before it exists.
#pragma once

#include <cstdint>
#include <string>

#include <c10/core/ScalarType.h>

namespace bitstair::core {

enum class ActivationFunction { kRelu, kClip };

struct NetworkConfig {
  std::string network;  // "convnet28", "resnet20"
  int image_channels = 0;
  int image_height = 0;
  int image_width = 0;
  int classes = 0;
  // 1..8, 16, or 32 (not quantised).
  int weight_bits = 32;
  int activation_bits = 32;
  // What activation_bits = 32 means: ReLU, or clip(x, 0, 1) without rounding. Quantised activations always clip.
  ActivationFunction activation = ActivationFunction::kRelu;
  std::string quantizer = "dorefa";
  bool detach_weight_max = false;
  bool quantize_last_activation = false;
  uint64_t seed = 1;
  // kFloat, or kDouble to run wholly in float64 for parity tests.
  c10::ScalarType dtype = c10::ScalarType::Float;
};

}  // namespace bitstair::core
