#include "core/nn/network.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/nn/alexnet.h"
#include "core/nn/convnet28.h"
#include "core/nn/layered_network.h"
#include "core/nn/preactivation_resnet.h"
#include "core/nn/resnet.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {
namespace {

struct NetworkFamily {
  const char* name;
  absl::StatusOr<std::unique_ptr<Network>> (*make)(const NetworkConfig& config, const QuantizerFamily& family);
};

// To add a network: one header, one source, one line here. Sorted.
constexpr NetworkFamily kNetworks[] = {
    {"alexnet", MakeAlexNet},
    {"alexnet_cifar", MakeAlexNet},
    {"convnet28", MakeConvNet28},
    {"preresnet20", MakePreactivationResNet},
    {"preresnet56", MakePreactivationResNet},
    {"resnet101", MakeResNet},
    {"resnet110", MakeResNet},
    {"resnet110_b", MakeResNet},
    {"resnet18", MakeResNet},
    {"resnet20", MakeResNet},
    {"resnet20_b", MakeResNet},
    {"resnet32", MakeResNet},
    {"resnet32_b", MakeResNet},
    {"resnet34", MakeResNet},
    {"resnet44", MakeResNet},
    {"resnet44_b", MakeResNet},
    {"resnet50", MakeResNet},
    {"resnet56", MakeResNet},
    {"resnet56_b", MakeResNet},
};

constexpr int kLeastChannels = 16;  // of any layer of any network

absl::Status CheckConfig(const NetworkConfig& config) {
  if (!IsLegalWidth(config.weight_bits)) {
    return absl::InvalidArgumentError(absl::StrCat("weight_bits ", config.weight_bits, " is none of 1..8, 16, 32"));
  }
  if (!IsLegalWidth(config.activation_bits)) {
    return absl::InvalidArgumentError(absl::StrCat("activation_bits ", config.activation_bits, " is none of 1..8, 16, 32"));
  }
  if (config.image_channels < 1 || config.classes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a network needs at least one image channel and one class, not ", config.image_channels, " and ", config.classes));
  }
  if (config.shortcut_conv_bits != 0 && config.shortcut_conv_bits != 8 && config.shortcut_conv_bits != 32) {
    return absl::InvalidArgumentError(absl::StrCat("shortcut_conv_bits ", config.shortcut_conv_bits, " is neither 8 nor 32"));
  }
  for (const auto& [pattern, bits] : config.layer_widths) {
    if (!IsLegalWidth(bits)) return absl::InvalidArgumentError(absl::StrCat("layer_widths of \"", pattern, "\" is ", bits, "; must be 1..8, 16 or 32"));
  }
  if (config.quantizes_first_last()) {
    const auto wrong = [](auto&&... parts) { return absl::InvalidArgumentError(absl::StrCat("quantize_first_last ", parts...)); };
    const PixelRange& pixels = config.pixels;
    if (!(std::isfinite(pixels.low) && std::isfinite(pixels.high) && pixels.low < pixels.high)) {
      return wrong("needs the range of the pixels, not ", pixels.low, " to ", pixels.high);
    }
    if (config.quantize_last_activation) return wrong("and quantize_last_activation exclude each other: the last activation has 8 bits");
    if (config.activation_bits == 32 && config.activation != ActivationFunction::kClip) return wrong("needs activations that clip");
  }
  if (config.channel_divisor < 1 || kLeastChannels % config.channel_divisor != 0) {
    return absl::InvalidArgumentError(absl::StrCat("channel_divisor ", config.channel_divisor, " does not divide ", kLeastChannels));
  }
  if (config.dtype != c10::ScalarType::Float && config.dtype != c10::ScalarType::Double) {
    return absl::InvalidArgumentError("networks compute in float32 or float64");
  }
  if (config.numerics != Numerics::kReference && config.dtype != c10::ScalarType::Float) {
    return absl::InvalidArgumentError("numerics \"fast\" takes float32 networks only");
  }
  return absl::OkStatus();
}

// What not every quantiser can do.
absl::Status CheckQuantizer(const NetworkConfig& config, const QuantizerFamily& family) {
  const auto wrong = [&](auto&&... parts) { return absl::InvalidArgumentError(absl::StrCat("quantizer \"", family.name, "\" ", parts...)); };
  std::vector<std::pair<std::string, int>> widths{{"weight_bits", config.weight_bits}, {"activation_bits", config.activation_bits}};
  for (const auto& [pattern, bits] : config.layer_widths) widths.emplace_back("layer_widths of \"" + pattern + "\"", bits);
  for (const auto& [name, bits] : widths) {
    if (family.learns && bits == 16) return wrong("takes widths up to 8 and 32; ", name, " is 16");
  }
  if (config.weight_bits < family.least_weight_bits)
    return wrong("needs weights of at least ", family.least_weight_bits, " bits; weight_bits is ", config.weight_bits);
  return absl::OkStatus();
}

absl::Status CheckPatterns(const Network& network) {
  const std::vector<std::string>& names = network.layer_names();
  for (const auto& entry : network.config().layer_widths) {
    const std::string& pattern = entry.first;
    if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return MatchesPattern(pattern, name); })) continue;
    return absl::InvalidArgumentError(absl::StrCat("layer_widths: \"", pattern, "\" matches no quantised layer or activation of network ",
                                                   network.config().network, ": ", absl::StrJoin(names, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> CreateNetwork(const NetworkConfig& config) {
  if (absl::Status status = CheckConfig(config); !status.ok()) return status;
  absl::StatusOr<QuantizerFamily> family = FindQuantizer(config.quantizer);
  if (!family.ok()) return family.status();
  if (absl::Status status = CheckQuantizer(config, *family); !status.ok()) return status;
  for (const NetworkFamily& network : kNetworks) {
    if (config.network != network.name) continue;
    absl::StatusOr<std::unique_ptr<Network>> made = network.make(config, *family);
    if (made.ok()) {
      if (absl::Status status = CheckPatterns(**made); !status.ok()) return status;
    }
    return made;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown network \"", config.network, "\"; known: ", absl::StrJoin(NetworkNames(), ", ")));
}

std::vector<std::string> NetworkNames() {
  std::vector<std::string> names;
  for (const NetworkFamily& network : kNetworks) names.emplace_back(network.name);
  return names;
}

}  // namespace bitstair::core
