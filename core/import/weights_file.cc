#include "core/import/weights_file.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"
#include "core/import/torch_file.h"

namespace bitstair::core {
namespace {

constexpr char kWrapper[] = "module.";

void StripWrapper(std::map<std::string, at::Tensor>* tensors) {
  const auto wrapped = [](const auto& entry) { return absl::StartsWith(entry.first, kWrapper); };
  if (tensors->empty() || !std::all_of(tensors->begin(), tensors->end(), wrapped)) return;
  std::map<std::string, at::Tensor> stripped;
  for (auto& [name, tensor] : *tensors) stripped.emplace(name.substr(sizeof(kWrapper) - 1), std::move(tensor));
  *tensors = std::move(stripped);
}

}  // namespace

std::string WeightsFile::word(const std::string& name) const {
  const auto found = metadata.find(name);
  return found == metadata.end() ? std::string() : found->second;
}

bool WeightsFile::is_checkpoint() const {
  return word("format") == kCheckpointFormat;
}

absl::StatusOr<WeightsFile> ReadWeightsFile(const std::string& path, const std::string& expected_sha256) {
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  if (!expected_sha256.empty()) {
    const std::string sha256 = Sha256Hex(*bytes);
    if (sha256 != expected_sha256) return absl::DataLossError(absl::StrCat(path, " has changed: its SHA-256 is ", sha256, ", not ", expected_sha256));
  }
  if (IsTorchFile(*bytes)) {
    absl::StatusOr<std::map<std::string, at::Tensor>> tensors = DecodeTorchFile(*bytes, path);
    if (!tensors.ok()) return tensors.status();
    WeightsFile weights{.tensors = *std::move(tensors), .metadata = {}};
    StripWrapper(&weights.tensors);
    return weights;
  }
  // After the header's length comes a JSON object.
  if (bytes->size() > 8 && (*bytes)[8] != '{') return absl::InvalidArgumentError(absl::StrCat(path, ": is neither a safetensors nor a PyTorch file"));
  absl::StatusOr<SafetensorsFile> file = DecodeSafetensors(*bytes, path);
  if (!file.ok()) return file.status();
  WeightsFile weights{.tensors = std::move(file->tensors), .metadata = std::move(file->metadata)};
  StripWrapper(&weights.tensors);
  return weights;
}

}  // namespace bitstair::core
