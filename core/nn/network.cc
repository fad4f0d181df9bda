#include "core/nn/network.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/nn/convnet28.h"
#include "core/nn/resnet.h"
#include "core/nn/resnet_imagenet.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {
namespace {

struct NetworkFamily {
  const char* name;
  absl::StatusOr<std::unique_ptr<Network>> (*make)(const NetworkConfig& config, const QuantizerFamily& family);
};

// To add a network: one header, one source, one line here.
constexpr NetworkFamily kNetworks[] = {
    {"convnet28", MakeConvNet28},
    {"resnet18", MakeResNet18},
    {"resnet20", MakeResNet20},
};

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
  if (config.dtype != c10::ScalarType::Float && config.dtype != c10::ScalarType::Double) {
    return absl::InvalidArgumentError("networks compute in float32 or float64");
  }
  if (config.numerics != Numerics::kReference && config.dtype != c10::ScalarType::Float) {
    return absl::InvalidArgumentError("numerics \"fast\" takes float32 networks only");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> CreateNetwork(const NetworkConfig& config) {
  if (absl::Status status = CheckConfig(config); !status.ok()) return status;
  absl::StatusOr<QuantizerFamily> family = FindQuantizer(config.quantizer);
  if (!family.ok()) return family.status();
  std::string known;
  for (const NetworkFamily& network : kNetworks) {
    if (config.network == network.name) return network.make(config, *family);
    absl::StrAppend(&known, known.empty() ? "" : ", ", network.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown network \"", config.network, "\"; known: ", known));
}

}  // namespace bitstair::core
