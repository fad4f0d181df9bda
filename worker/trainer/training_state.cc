#include "worker/trainer/training_state.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/digest/sha256.h"
#include "core/kernels/convolution.h"
#include "core/nn/network_state.h"
#include "core/quant/quantizer.h"
#include "core/training/calibrate.h"
#include "core/version/numerics_version.h"
#include "worker/trainer/stage_config.h"

namespace bitstair::trainer {
namespace {

constexpr int64_t kCalibrationImages = 2048;
constexpr int kCalibrationBatch = 128;

constexpr char kStartPrefix[] = "full/start/";

std::string MomentumName(const std::string& prefix, const std::string& parameter) {
  return absl::StrCat(prefix, "momentum/", parameter);
}
// Of a part's own tensors.
std::string PartPrefix(const core::Checkpoint& checkpoint, const std::string& prefix, int part) {
  return absl::StrCat(prefix, checkpoint.shards > 0 ? "shard" : "rank", part, "/");
}

std::string TelemetryName(const core::Checkpoint& checkpoint, int part) {
  return PartPrefix(checkpoint, "", part) + "telemetry";
}

// A network's own tensors in a checkpoint: neither momentum nor a rank's copies.
NamedTensors NetworkTensors(const core::Checkpoint& checkpoint, const std::string& prefix) {
  NamedTensors tensors;
  for (auto at = checkpoint.tensors.lower_bound(prefix); at != checkpoint.tensors.end() && absl::StartsWith(at->first, prefix); ++at) {
    const std::string name = at->first.substr(prefix.size());
    if (!absl::StrContains(name, '/')) tensors.emplace(name, at->second);
  }
  return tensors;
}

// all: that of learned scalars too, else theirs stays 0.
absl::Status CopyMomentum(const core::Checkpoint& checkpoint, const std::string& prefix, core::Network& network, core::Sgd& sgd, bool all) {
  for (size_t i = 0; i < network.parameters().size(); ++i) {
    if (!all && network.parameters()[i].scalar != core::Scalar::kNone) continue;
    const std::string name = MomentumName(prefix, network.parameters()[i].name);
    const auto found = checkpoint.tensors.find(name);
    at::Tensor& momentum = sgd.momentum()[i];
    if (found == checkpoint.tensors.end() || found->second.sizes() != momentum.sizes()) {
      return absl::InvalidArgumentError(absl::StrCat("the checkpoint has no fitting tensor ", name));
    }
    momentum.copy_(found->second);
  }
  return absl::OkStatus();
}

// What a learned scalar of a stage with parent_bits becomes at `bits`. A clip keeps its range. Steps go with 1/sqrt(greatest code), as LSQ starts them from the
// mean magnitude: where steps are fine, ranges grow to many times what is used, and coarse steps over such a range train badly (docs/quantizers.md). The
// logits' scale stays: last weights have values up to 1 at any width.
double ScaleOf(core::Scalar scalar, int parent_bits, int bits) {
  const auto greatest = [](int width) { return static_cast<double>((int64_t{1} << width) - 1); };
  if (scalar == core::Scalar::kStep) return std::sqrt(greatest(parent_bits) / greatest(bits));
  if (scalar == core::Scalar::kWeightStep) return std::sqrt(greatest(parent_bits - 1) / greatest(bits - 1));
  return 1;
}

// The network's tensors from those of a parent. Learned scalars that the parent lacks start from the weights, and where their activations' ranges are [0, 1].
absl::Status TakeOver(NamedTensors tensors, const core::Checkpoint& parent, core::Network& network) {
  bool start_logit_scale = false;
  for (const core::Parameter& p : network.parameters()) {
    if (p.scalar == core::Scalar::kNone) continue;
    const auto found = tensors.find(p.name);
    if (found == tensors.end()) {
      start_logit_scale = start_logit_scale || p.scalar == core::Scalar::kLogitScale;
      tensors.emplace(p.name, p.latent.detach().clone());
      continue;
    }
    const bool weight = p.scalar == core::Scalar::kWeightStep;
    const double scale =
        ScaleOf(p.scalar, weight ? parent.weight_bits : parent.activation_bits, weight ? network.config().weight_bits : network.config().activation_bits);
    found->second = found->second * scale;
  }
  if (const absl::Status status = core::NetworkFromTensors(tensors, network); !status.ok()) return status;
  bool started = false;
  for (const core::Parameter& p : network.parameters()) {
    if (p.quantizer == nullptr || !p.quantizer->learned().value.defined()) continue;
    if (parent.tensors.contains(absl::StrCat(p.name, "_", p.quantizer->learned().name))) continue;
    p.quantizer->StartLearning(p.latent);
    started = true;
  }
  if (started) network.QuantizeWeights();
  if (start_logit_scale) network.StartLogitScale();
  return absl::OkStatus();
}

absl::string_view BytesOf(const at::Tensor& contiguous) {
  return {static_cast<const char*>(contiguous.const_data_ptr()), contiguous.nbytes()};
}

}  // namespace

at::Tensor FlattenStatistics(core::Network& network) {
  std::vector<at::Tensor> parts;
  for (const core::Buffer& buffer : network.buffers()) parts.push_back(buffer.value.to(at::kDouble).reshape({-1}));
  return parts.empty() ? at::zeros({0}, at::kDouble) : at::cat(parts);
}

void SetStatistics(const at::Tensor& flat, core::Network& network) {
  int64_t at = 0;
  for (core::Buffer& buffer : network.buffers()) {
    const int64_t size = buffer.value.numel();
    buffer.value.copy_(flat.slice(0, at, at + size).view(buffer.value.sizes()));
    at += size;
  }
}

at::Tensor MeanStatistics(const std::vector<at::Tensor>& of_parts) {
  at::Tensor sum = of_parts.at(0).clone();
  for (size_t part = 1; part < of_parts.size(); ++part) sum += of_parts[part];
  return sum / static_cast<double>(of_parts.size());
}

core::Checkpoint MakeCheckpoint(const v1::StartTrainer& start, const Position& position, bool final) {
  core::Checkpoint checkpoint;
  checkpoint.stage_key = start.stage_key();
  // Not what a job calls it: the same training has the same bytes under any name.
  checkpoint.stage_name = absl::StrCat("W", start.spec().weight_bits(), "A", start.spec().activation_bits());
  checkpoint.weight_bits = start.spec().weight_bits();
  checkpoint.activation_bits = start.spec().activation_bits();
  checkpoint.network = start.spec().network();
  checkpoint.epoch = position.epoch;
  checkpoint.step = position.step;
  checkpoint.final = final;
  checkpoint.world_size = SetOf(start).size;
  if (PartsOf(start).fixed) checkpoint.shards = start.spec().shards();
  checkpoint.epoch_loss_sum = position.loss_sum;
  checkpoint.epoch_correct = position.correct;
  if (HasTeacher(start.spec())) checkpoint.pair = {position.full_loss_sum, position.full_correct, position.hint_sum};
  checkpoint.students = position.students;
  return checkpoint;
}

void AddNet(const StageNet& net, const std::vector<at::Tensor>& statistics, bool averaged, core::Checkpoint* checkpoint) {
  for (size_t i = 0; i < net.network->parameters().size(); ++i) {
    const core::Parameter& parameter = net.network->parameters()[i];
    checkpoint->tensors[net.prefix + parameter.name] = parameter.latent.detach();
    checkpoint->tensors[MomentumName(net.prefix, parameter.name)] = net.sgd->momentum()[i];
  }
  for (size_t part = 0; part < statistics.size(); ++part) {
    int64_t at = 0;
    for (const core::Buffer& buffer : net.network->buffers()) {
      const at::Tensor value = statistics[part].slice(0, at, at + buffer.value.numel()).view(buffer.value.sizes());
      checkpoint->tensors[PartPrefix(*checkpoint, net.prefix, static_cast<int>(part)) + buffer.name] = value;
      if (averaged && part == 0) checkpoint->tensors[net.prefix + buffer.name] = value;
      at += buffer.value.numel();
    }
  }
}

absl::Status Resume(const core::Checkpoint& checkpoint, const v1::StartTrainer& start, const std::vector<StageNet>& nets, Position* position) {
  if (checkpoint.stage_key != start.stage_key()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint is of stage ", checkpoint.stage_name, " with key ", checkpoint.stage_key, ", not ", start.stage_key()));
  }
  const BatchParts parts = PartsOf(start);
  if ((checkpoint.shards > 0) != parts.fixed || (parts.fixed ? checkpoint.shards : checkpoint.world_size) != parts.count) {
    const auto words = [](bool fixed, int count) { return absl::StrCat(count, fixed ? " fixed shards" : " ranks"); };
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint is of ",
                                                   words(checkpoint.shards > 0, checkpoint.shards > 0 ? checkpoint.shards : checkpoint.world_size), ", not ",
                                                   words(parts.fixed, parts.count)));
  }
  if (checkpoint.epoch > start.spec().epochs() || (checkpoint.epoch == start.spec().epochs() && checkpoint.step > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint lies beyond the stage's ", start.spec().epochs(), " epochs"));
  }
  for (const StageNet& net : nets) {
    NamedTensors tensors = NetworkTensors(checkpoint, net.prefix);
    for (const core::Buffer& buffer : net.network->buffers()) {
      const std::string name = PartPrefix(checkpoint, net.prefix, parts.own.begin) + buffer.name;
      const auto own = checkpoint.tensors.find(name);
      if (own == checkpoint.tensors.end()) return absl::InvalidArgumentError(absl::StrCat("the checkpoint has no tensor ", name));
      tensors[buffer.name] = own->second;
    }
    if (const absl::Status status = core::NetworkFromTensors(tensors, *net.network); !status.ok()) return status;
    if (const absl::Status status = CopyMomentum(checkpoint, net.prefix, *net.network, *net.sgd, /*all=*/true); !status.ok()) return status;
  }
  const core::Checkpoint::PairSums pair = checkpoint.pair.value_or(core::Checkpoint::PairSums{});
  *position = {.epoch = checkpoint.epoch,
               .step = checkpoint.step,
               .loss_sum = checkpoint.epoch_loss_sum,
               .correct = checkpoint.epoch_correct,
               .full_loss_sum = pair.loss,
               .full_correct = pair.correct,
               .hint_sum = pair.hint,
               .students = checkpoint.students};
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> StatisticsOfPart(const core::Checkpoint& checkpoint, const StageNet& net, int part) {
  std::vector<at::Tensor> flat;
  for (const core::Buffer& buffer : net.network->buffers()) {
    const std::string name = PartPrefix(checkpoint, net.prefix, part) + buffer.name;
    const auto found = checkpoint.tensors.find(name);
    if (found == checkpoint.tensors.end() || found->second.sizes() != buffer.value.sizes()) {
      return absl::InvalidArgumentError(absl::StrCat("the checkpoint has no fitting tensor ", name));
    }
    flat.push_back(found->second.to(at::kDouble).reshape({-1}));
  }
  return flat.empty() ? at::zeros({0}, at::kDouble) : at::cat(flat);
}

absl::Status StartFromParent(const core::Checkpoint& parent, const v1::StageSpec& spec, const core::SampleSource& train, core::Network& network,
                             core::Sgd& sgd) {
  if (!parent.final) return absl::InvalidArgumentError(absl::StrCat("the checkpoint of parent ", parent.stage_name, " is not its final one"));
  if (parent.network != spec.network()) return absl::InvalidArgumentError(absl::StrCat("the parent is a ", parent.network, ", not a ", spec.network()));
  if (spec.calibration() == v1::ACTIVATION_CALIBRATION_PERCENTILE) {
    absl::StatusOr<std::unique_ptr<core::Network>> relu = core::CreateNetwork(ParentReluConfigOf(spec, train));
    if (!relu.ok()) return relu.status();
    if (const absl::Status status = core::NetworkFromTensors(NetworkTensors(parent, ""), **relu); !status.ok()) return status;
    if (const absl::Status status = core::CalibrateActivations(**relu, train, kCalibrationImages, spec.calibration_percentile()); !status.ok()) return status;
    if (const absl::Status status = TakeOver(core::NetworkToTensors(**relu), parent, network); !status.ok()) return status;
    if (const absl::Status status = core::ReestimateBatchNorm(network, train, kCalibrationImages, kCalibrationBatch); !status.ok()) return status;
  } else if (const absl::Status status = TakeOver(NetworkTensors(parent, ""), parent, network); !status.ok()) {
    return status;
  }
  return spec.carry_momentum() ? CopyMomentum(parent, "", network, sgd, /*all=*/false) : absl::OkStatus();
}

std::string StudentPrefix(int further) {
  return absl::StrCat("student", further + 2, "/");
}

absl::Status StartStudent(const core::Checkpoint& parent, const v1::StageSpec& spec, const core::SampleSource& train, int further, core::Network& network,
                          core::Sgd& sgd) {
  if (parent.weight_bits == 32 && parent.activation_bits == 32) return StartFromParent(parent, spec, train, network, sgd);
  const std::string prefix = StudentPrefix(further);
  const absl::Status status = core::NetworkFromTensors(NetworkTensors(parent, prefix), network);
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(prefix, ": ", status.message()));
  return spec.carry_momentum() ? CopyMomentum(parent, prefix, network, sgd, /*all=*/false) : absl::OkStatus();
}

absl::Status ReestimateStatistics(const core::SampleSource& train, core::Network& network) {
  return core::ReestimateBatchNorm(network, train, kCalibrationImages, kCalibrationBatch);
}

absl::Status StartTeacher(const core::Checkpoint& parent, const v1::StageSpec& spec, const core::SampleSource& train, core::Network& network, core::Sgd& sgd) {
  if (!parent.pair.has_value()) {
    if (parent.weight_bits == 32 && parent.activation_bits == 32) return StartFromParent(parent, spec, train, network, sgd);
    return absl::InvalidArgumentError(
        absl::StrCat("the parent ", parent.stage_name, " is neither a full-precision stage nor one with a full-precision net beside it"));
  }
  const bool reset = TeacherStartOf(spec) == v1::TEACHER_START_RESET;
  const absl::Status status = core::NetworkFromTensors(NetworkTensors(parent, reset ? kStartPrefix : kFullPrefix), network);
  if (!status.ok() || reset || !spec.carry_momentum()) return status;
  return CopyMomentum(parent, kFullPrefix, network, sgd, /*all=*/false);
}

void AddTeacherStart(const NamedTensors& teacher_start, core::Checkpoint* checkpoint) {
  for (const auto& [name, tensor] : teacher_start) checkpoint->tensors[kStartPrefix + name] = tensor;
}

NamedTensors TeacherStart(const core::Checkpoint& checkpoint) {
  return NetworkTensors(checkpoint, kStartPrefix);
}

void AddTelemetry(const std::vector<std::vector<double>>& of_parts, core::Checkpoint* checkpoint) {
  for (size_t part = 0; part < of_parts.size(); ++part) {
    checkpoint->tensors[TelemetryName(*checkpoint, static_cast<int>(part))] = at::tensor(of_parts[part], at::kDouble);
  }
}

std::optional<std::vector<double>> TelemetryOf(const core::Checkpoint& checkpoint, int part) {
  const auto found = checkpoint.tensors.find(TelemetryName(checkpoint, part));
  if (found == checkpoint.tensors.end()) return std::nullopt;
  const at::Tensor numbers = found->second.to(at::kDouble).contiguous();
  return std::vector<double>(numbers.const_data_ptr<double>(), numbers.const_data_ptr<double>() + numbers.numel());
}

std::string ParametersDigest(const std::vector<StageNet>& nets) {
  core::Sha256 hash;
  for (const StageNet& net : nets) {
    for (size_t i = 0; i < net.network->parameters().size(); ++i) {
      const core::Parameter& parameter = net.network->parameters()[i];
      hash.Update(net.prefix + parameter.name);
      hash.Update(BytesOf(parameter.latent.detach().contiguous()));
      hash.Update(BytesOf(net.sgd->momentum()[i].contiguous()));
    }
  }
  return hash.HexDigest();
}

std::string NumericProfile(const v1::StartTrainer& start) {
  return absl::StrCat("cpu-", at::get_cpu_capability(), "-", c10::toString(core::FastFloat()), "-threads", at::get_num_threads(),
                      PartsOf(start).fixed ? "-shards" : "-ranks", PartsOf(start).count, "-libtorch", TORCH_VERSION, "-numerics", core::kNumericsVersion);
}

}  // namespace bitstair::trainer
