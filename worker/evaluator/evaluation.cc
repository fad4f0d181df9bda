#include "worker/evaluator/evaluation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/checkpoint/safetensors.h"
#include "core/data/dataset.h"
#include "core/files/durable_file.h"
#include "core/import/fit_weights.h"
#include "core/import/weights_file.h"
#include "core/nn/network.h"
#include "core/nn/network_state.h"
#include "core/training/normalized_images.h"
#include "worker/named_folders.h"

namespace bitstair::evaluator {
namespace {

bool IsFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

// --data: a folder; NAME=PATH, as `bitstair run` takes it; or a name that needs no path.
absl::StatusOr<std::string> FolderOf(const std::string& data) {
  if (IsFolder(data)) return data;
  const std::string name = data.substr(0, data.find('='));
  const bool given = name.size() < data.size();
  const auto known = worker::NamedFolders(given ? std::vector<std::string>{data} : std::vector<std::string>());
  if (!known.ok()) return known.status();
  if (const auto found = known->find(name); found != known->end()) {
    if (IsFolder(found->second)) return found->second;
    return absl::NotFoundError(absl::StrCat("--data ", data, ": ", found->second, " is no folder"));
  }
  std::vector<std::string> names;
  for (const auto& entry : *known) names.push_back(entry.first);
  return absl::NotFoundError(absl::StrCat("--data ", data, ": no folder, and no data set \"", name,
                                          "\" here (there is: ", names.empty() ? "none" : absl::StrJoin(names, ", "), "); give --data ", name, "=PATH"));
}

absl::Status CheckChannels(const char* flag, const std::vector<float>& values, int channels, bool positive) {
  if (values.size() != static_cast<size_t>(channels)) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " has ", values.size(), values.size() == 1 ? " value" : " values", ", but the images have ", channels,
                                                   channels == 1 ? " channel" : " channels"));
  }
  const bool good = std::all_of(values.begin(), values.end(), [&](float v) { return std::isfinite(v) && (!positive || v > 0); });
  return good ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(flag, positive ? " must be above 0" : " must be finite"));
}

absl::StatusOr<std::unique_ptr<core::SampleSource>> OpenData(const EvaluationRequest& request, std::string* folder) {
  absl::StatusOr<std::string> found = FolderOf(request.data);
  if (!found.ok()) return found.status();
  *folder = *std::move(found);
  absl::StatusOr<std::unique_ptr<core::SampleSource>> data =
      core::OpenDataset(*folder, request.train_images ? core::Split::kTrain : core::Split::kTest, request.limit);
  if (!data.ok()) return data.status();
  for (const auto& [flag, given, own, positive] :
       {std::tuple{"--mean", &request.mean, &(*data)->mean, false}, std::tuple{"--std", &request.std, &(*data)->std, true}}) {
    if (given->empty()) continue;
    if (absl::Status status = CheckChannels(flag, *given, (*data)->shape().channels, positive); !status.ok()) return status;
    *own = *given;
  }
  return data;
}

// Fills in what the request leaves to the file.
absl::Status Complete(const EvaluationRequest& request, const core::WeightsFile& file, core::NetworkConfig* config) {
  if (config->network.empty() && file.is_checkpoint()) config->network = file.word("network");
  if (config->network.empty()) return absl::InvalidArgumentError("--network is required: the file is no checkpoint of bitstair's");
  for (const auto& [bits, name] : {std::pair{&config->weight_bits, "weight_bits"}, std::pair{&config->activation_bits, "activation_bits"}}) {
    if (*bits == 0 && !(file.is_checkpoint() && absl::SimpleAtoi(file.word(name), bits))) *bits = 32;
  }
  const bool quantized = config->weight_bits < 32 || config->activation_bits < 32;
  const bool clips = request.activation.empty() ? quantized : request.activation == "clip";
  const bool fast = request.numerics.empty() ? quantized : request.numerics == "fast";
  config->numerics = fast ? core::Numerics::kFast : core::Numerics::kReference;
  config->dtype = request.numerics == "float64" ? c10::ScalarType::Double : c10::ScalarType::Float;
  config->activation = clips ? core::ActivationFunction::kClip : core::ActivationFunction::kRelu;
  return absl::OkStatus();
}

absl::Status WriteLogits(core::Network& network, const core::SampleSource& data, int batch, const std::string& path) {
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < data.size(); begin += batch) {
    const absl::StatusOr<core::LabelledImages> images = core::ReadImages(data, begin, std::min(data.size(), begin + batch), network.config().dtype);
    if (!images.ok()) return images.status();
    parts.push_back(network.Forward(images->images, /*training=*/false).to(at::kFloat));
  }
  const absl::StatusOr<std::string> bytes = core::EncodeSafetensors({.metadata = {}, .tensors = {{"logits", at::cat(parts)}}});
  return bytes.ok() ? core::WriteFileDurably(path, *bytes) : bytes.status();
}

}  // namespace

absl::StatusOr<EvaluationReport> Evaluate(const EvaluationRequest& request) {
  EvaluationReport report;
  absl::StatusOr<std::unique_ptr<core::SampleSource>> data = OpenData(request, &report.data);
  if (!data.ok()) return data.status();
  const absl::StatusOr<core::WeightsFile> file = core::ReadWeightsFile(request.weights);
  if (!file.ok()) return file.status();
  report.network = request.network;
  if (absl::Status status = Complete(request, *file, &report.network); !status.ok()) return status;
  report.network.image_channels = (*data)->shape().channels;
  report.network.image_height = (*data)->shape().height;
  report.network.image_width = (*data)->shape().width;
  report.network.classes = (*data)->classes;
  report.network.pixels = core::RangeOfPixels((*data)->mean, (*data)->std);
  absl::StatusOr<std::unique_ptr<core::Network>> network = core::CreateNetwork(report.network);
  if (!network.ok()) return network.status();
  absl::StatusOr<core::FittedWeights> fitted =
      core::FitWeights(*file, **network, {.allow_missing = request.allow_missing, .allow_unexpected = request.allow_unexpected});
  if (!fitted.ok()) return absl::Status(fitted.status().code(), absl::StrCat(request.weights, ": ", fitted.status().message()));
  report.missing = std::move(fitted->missing);
  report.unexpected = std::move(fitted->unexpected);
  if (absl::Status status = core::NetworkFromTensors(fitted->tensors, **network); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(request.weights, ": ", status.message()));
  }
  const int batch = core::EvaluationBatchSize((*data)->shape());
  absl::StatusOr<core::EvaluationSums> sums = core::Evaluate(**network, **data, 0, (*data)->size(), batch);
  if (!sums.ok()) return sums.status();
  report.sums = *sums;
  if (!request.logits_file.empty()) {
    if (absl::Status status = WriteLogits(**network, **data, batch, request.logits_file); !status.ok()) return status;
  }
  return report;
}

}  // namespace bitstair::evaluator
