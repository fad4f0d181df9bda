// The part of Trainer before the first step: data, nets, their first state, the rendezvous, and what takes a step.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/checkpoint.h"
#include "core/data/dataset.h"
#include "core/kernels/convolution.h"
#include "core/kernels/fused/fused_norm.h"
#include "core/nn/network_state.h"
#include "worker/trainer/initial_weights.h"
#include "worker/trainer/stage_config.h"
#include "worker/trainer/trainer.h"

namespace bitstair::trainer {
namespace {

constexpr double kLoadDeadline = 120;
constexpr std::chrono::seconds kPeersLoadTimeout{120};
constexpr double kRendezvousDeadline = 35;  // a little more than kRendezvousTimeout, which has the better message

// How the network computes on this processor.
std::string NumericsName(const core::NetworkConfig& config) {
  if (config.numerics == core::Numerics::kReference) return "reference";
  return absl::StrCat("fast (gradients in ", core::FastFloat() == at::kFloat ? "float32" : "bfloat16", ", 8-bit sums ",
                      core::IntegerSumsAreExact(255, 127) ? "whole" : "in two halves", ", lanes ", core::LanesName(), ")");
}

}  // namespace

absl::Status Trainer::Load() {
  if (absl::Status status = CheckStart(start_); !status.ok()) return status;
  parts_ = PartsOf(start_);
  set_ = SetOf(start_);
  report_.Phase("load", kLoadDeadline);
  if (start_.slot().kind() == v1::SLOT_KIND_GPU) {
    if (absl::Status status = LoadGpuBackend(start_.slot().index()); !status.ok()) return status;
  }
  at::set_num_threads(std::max(1, start_.slot().threads()));

  if (absl::Status status = LoadData(); !status.ok()) return Fail(v1::EXIT_CAUSE_BAD_DATA, std::move(status));
  loader_ = std::make_unique<core::BatchLoader>(*train_, LoaderOptionsOf(start_));
  steps_per_epoch_ = loader_->batches_per_epoch();
  if (steps_per_epoch_ == 0) {
    return Fail(v1::EXIT_CAUSE_BAD_DATA,
                absl::InvalidArgumentError(absl::StrCat("batch_size ", spec().batch_size(), " is more than the ", train_->size(), " training images")));
  }
  report_.SetStage(spec().epochs(), steps_per_epoch_, spec().batch_size(), test_->size());

  if (absl::Status status = LoadNets(); !status.ok()) return status;
  if (absl::Status status = LoadState(); !status.ok()) return status;
  for (Net& net : nets_) {
    if (parts_.own_count() > 1)
      net.statistics.resize(static_cast<size_t>(parts_.own_count()), FlattenStatistics(*net.network));  // those that no checkpoint gave
  }
  return absl::OkStatus();
}

absl::Status Trainer::LoadNets() {
  std::vector<std::pair<std::string, core::NetworkConfig>> configs{{"", NetworkConfigOf(spec(), *train_)}};
  if (HasTeacher(spec())) configs.emplace_back(kFullPrefix, TeacherConfigOf(spec(), *train_));
  for (int i = 0; i < spec().distillation().students_size(); ++i) configs.emplace_back(StudentPrefix(i), StudentConfigOf(spec(), i, *train_));
  for (const auto& [prefix, config] : configs) {
    absl::StatusOr<std::unique_ptr<core::Network>> network = core::CreateNetwork(config);
    if (!network.ok()) return network.status();
    auto sgd = std::make_unique<core::Sgd>((*network)->parameters(), SgdOptionsOf(spec()));
    nets_.push_back({prefix, *std::move(network), std::move(sgd), nullptr, nullptr, {}});
  }
  position_.students.resize(spec().distillation().students_size());
  // What a recipe may have wrong is found before the data is worked on.
  std::vector<std::string> hint_points;
  if (spec().has_guided()) {
    const absl::StatusOr<std::vector<size_t>> chosen = core::ChooseHintPoints(*nets_[0].network, GuidedOptionsOf(spec()).hint_points);
    if (!chosen.ok()) return chosen.status();
    for (const size_t point : *chosen) hint_points.push_back(nets_[0].network->hint_points()[point].name);
  }
  telemetry_ = std::make_unique<LayerTelemetry>(StageNets(), std::move(hint_points), static_cast<size_t>(parts_.own_count()),
                                                split() ? std::optional<size_t>(set_.set) : std::nullopt);
  return absl::OkStatus();
}

std::vector<StageNet> Trainer::StageNets() const {
  std::vector<StageNet> nets;
  for (const Net& net : nets_) nets.push_back({net.network.get(), net.sgd.get(), net.prefix});
  return nets;
}

absl::Status Trainer::LoadData() {
  const v1::DataSpec& data = spec().data();
  for (const core::Split split : {core::Split::kTrain, core::Split::kTest}) {
    const bool train = split == core::Split::kTrain;
    absl::StatusOr<std::unique_ptr<core::SampleSource>> opened =
        core::OpenDataset(start_.data_path(), split, train ? data.train_limit() : data.test_limit(), data.held_back());
    if (!opened.ok()) return opened.status();
    (*opened)->skip_unreadable = data.unreadable_images() == v1::UNREADABLE_IMAGES_SKIP;
    (train ? train_ : test_) = *std::move(opened);
  }
  if (!(train_->shape() == test_->shape()) || train_->classes != test_->classes) {
    return absl::DataLossError(absl::StrCat(start_.data_path(), ": training and test images differ in size or in their number of classes (", train_->classes,
                                            " and ", test_->classes, ")"));
  }
  for (size_t i = 0; i < train_->class_names.size(); ++i) {
    if (train_->class_names[i] == test_->class_names[i]) continue;
    return absl::DataLossError(absl::StrCat(start_.data_path(), ": class ", i, " is ", train_->class_names[i], " in the training images and ",
                                            test_->class_names[i], " in the test images"));
  }
  return absl::OkStatus();
}

absl::Status Trainer::LoadState() {
  const bool imported = start_.resume_path().empty() && spec().has_initial_weights();
  const std::string& path = imported ? start_.weights_path() : start_.resume_path().empty() ? start_.parent_path() : start_.resume_path();
  if (path.empty()) return absl::OkStatus();  // weights from the seed
  const absl::StatusOr<core::Checkpoint> checkpoint = imported ? ImportInitialWeights(path, spec(), *train_) : core::LoadCheckpoint(path);
  // Another try reads the same file of a user's.
  if (!checkpoint.ok()) return Fail(imported ? v1::EXIT_CAUSE_BAD_DATA : v1::EXIT_CAUSE_BAD_CHECKPOINT, checkpoint.status());
  absl::Status status;
  if (!start_.resume_path().empty()) {
    status = Resume(*checkpoint, start_, StageNets(), &position_);
    if (status.ok() && position_.students.size() != static_cast<size_t>(spec().distillation().students_size())) {
      status = absl::InvalidArgumentError(absl::StrCat("the checkpoint has ", position_.students.size(), " further students"));
    }
    if (status.ok()) status = ResumeParts(*checkpoint);
    if (status.ok() && position_.step > steps_per_epoch_) status = absl::InvalidArgumentError(absl::StrCat("step ", position_.step, " of ", steps_per_epoch_));
  } else {
    if (spec().calibration() == v1::ACTIVATION_CALIBRATION_PERCENTILE) report_.Phase("calibrate", kLoadDeadline);
    status = StartFromParent(*checkpoint, spec(), *train_, *nets_[0].network, *nets_[0].sgd);
    if (status.ok() && HasTeacher(spec())) status = StartTeacher(*checkpoint, spec(), *train_, *nets_[1].network, *nets_[1].sgd);
    for (size_t i = 2; status.ok() && i < nets_.size(); ++i) {
      status = StartStudent(*checkpoint, spec(), *train_, static_cast<int>(i) - 2, *nets_[i].network, *nets_[i].sgd);
    }
  }
  if (status.ok() && HasTeacher(spec()) && TeacherStartOf(spec()) == v1::TEACHER_START_RESET) {
    teacher_start_ = TeacherStart(*checkpoint);
    if (teacher_start_.empty()) teacher_start_ = core::NetworkToTensors(*nets_[1].network);  // the chain's first pair
  }
  if (status.ok()) return status;
  // The checkpoint has been read: what is damaged is an image that calibration looks at.
  if (absl::IsDataLoss(status)) return Fail(v1::EXIT_CAUSE_BAD_DATA, std::move(status));
  return Fail(v1::EXIT_CAUSE_BAD_CHECKPOINT, absl::Status(status.code(), absl::StrCat(path, ": ", status.message())));
}

absl::Status Trainer::ResumeParts(const core::Checkpoint& checkpoint) {
  const std::vector<StageNet> nets = StageNets();
  for (int part = parts_.own.begin; part < parts_.own.end; ++part) {
    const auto index = static_cast<size_t>(part - parts_.own.begin);
    if (const auto sums = TelemetryOf(checkpoint, part); sums.has_value()) {
      if (absl::Status status = telemetry_->Restore(index, *sums); !status.ok()) return status;
    }
    for (size_t i = 0; parts_.own_count() > 1 && i < nets.size(); ++i) {
      absl::StatusOr<at::Tensor> statistics = StatisticsOfPart(checkpoint, nets[i], part);
      if (!statistics.ok()) return statistics.status();
      nets_[i].statistics.push_back(*std::move(statistics));
    }
  }
  return absl::OkStatus();
}

absl::Status Trainer::Join() {
  if (start_.world_size() == 1) {
    group_ = std::make_unique<ProcessGroup>();
  } else {
    report_.Phase("load", kLoadDeadline);  // of the peers
    const std::string scope = RendezvousStore::Scope(start_.attempt().stage(), start_.attempt().generation(), start_.rendezvous_token());
    absl::StatusOr<std::unique_ptr<RendezvousStore>> store = absl::UnknownError("");
    if (is_rank0()) {
      store = RendezvousStore::Host(start_.data_address(), scope);
      if (!store.ok()) return store.status();
      v1::FromTrainer ready;
      *ready.mutable_rendezvous_ready()->mutable_attempt() = start_.attempt();
      ready.mutable_rendezvous_ready()->set_address((*store)->address());
      channel_.Send(ready);
    } else {
      const absl::StatusOr<v1::Rendezvous> rendezvous = channel_.WaitForRendezvous(kPeersLoadTimeout);
      if (absl::IsDeadlineExceeded(rendezvous.status())) return Fail(v1::EXIT_CAUSE_PEER_LOST, rendezvous.status());
      if (!rendezvous.ok()) return rendezvous.status();
      store = RendezvousStore::Connect(rendezvous->address(), scope);
      if (!store.ok()) return store.status();
    }
    store_ = *std::move(store);
    store_->AwaitAll(start_.rank(), start_.world_size(), kPeersLoadTimeout);
    report_.Phase("rendezvous", kRendezvousDeadline);
    const std::optional<int> gpu = start_.slot().kind() == v1::SLOT_KIND_GPU ? std::optional<int>(start_.slot().index()) : std::nullopt;
    group_ = std::make_unique<ProcessGroup>(store_->store(), start_.rank(), start_.world_size(), start_.data_address(), gpu);
  }
  if (absl::Status status = MakeStep(); !status.ok()) return status;

  const std::string digest = ParametersDigest(StageNets());
  at::Tensor own = at::empty({static_cast<int64_t>(digest.size())}, at::kByte);
  std::copy(digest.begin(), digest.end(), static_cast<char*>(own.mutable_data_ptr()));
  const std::vector<at::Tensor> all = group_->AllGather(own);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].equal(own)) return absl::InternalError(absl::StrCat(Where(), ": rank ", rank, " starts from other parameters than rank ", start_.rank()));
  }
  spdlog::info("{}: rank {} of {}{}, {} threads, numerics {}, starts from {}, parameters sha256 {}", Where(), start_.rank(), start_.world_size(),
               parts_.fixed ? absl::StrCat(", shards ", parts_.own.begin, " to ", parts_.own.end - 1, " of ", parts_.count) : "", at::get_num_threads(),
               NumericsName(nets_[0].network->config()),
               !start_.resume_path().empty()   ? "a checkpoint of its own"
               : !start_.parent_path().empty() ? "its parent"
               : spec().has_initial_weights()  ? "initial weights"
                                               : "the seed",
               digest);
  return absl::OkStatus();
}

// The parts of a step that need the gang.
absl::Status Trainer::MakeStep() {
  const auto join = [this](const std::string& prefix, int rank, int size) {
    if (size == 1) return std::make_unique<ProcessGroup>();
    return std::make_unique<ProcessGroup>(c10::make_intrusive<c10d::PrefixStore>(prefix, store_->store()), rank, size, start_.data_address(), group_->gpu());
  };
  for (Net* trained : TrainedNets()) {
    Net& net = *trained;
    if (split() || (!net.prefix.empty() && start_.world_size() > 1)) net.group = join(absl::StrCat(split() ? "set/" : "", net.prefix), set_.rank, set_.size);
    ProcessGroup& group = net.group != nullptr ? *net.group : *group_;
    net.gradients =
        parts_.fixed ? MakeFixedShardsAllreduce(net.network->parameters(), parts_.count, group) : MakeGradientAllreduce(net.network->parameters(), group);
  }
  const auto member = [](const Net& net) { return core::PairMember{net.network.get(), net.sgd.get(), net.gradients.get()}; };
  if (spec().has_distillation()) {
    std::vector<core::PairMember> students{member(nets_[0])};
    for (size_t i = 2; i < nets_.size(); ++i) students.push_back(member(nets_[i]));
    absl::StatusOr<std::unique_ptr<core::MutualStep>> step = core::MutualStep::Create(std::move(students), member(nets_[1]), DistillationOptionsOf(spec()));
    if (!step.ok()) return step.status();
    mutual_step_ = *std::move(step);
    return absl::OkStatus();
  }
  if (!spec().has_guided()) {
    step_ = std::make_unique<core::TrainStep>(nets_[0].network.get(), nets_[0].sgd.get(), nets_[0].gradients.get());
    return absl::OkStatus();
  }
  if (split()) {
    const size_t points = core::ChooseHintPoints(*nets_[0].network, GuidedOptionsOf(spec()).hint_points)->size();
    const bool fixed_sizes = !spec().has_stochastic_precision();
    feature_group_ = join("features/", start_.rank(), start_.world_size());
    if (group_->gpu().has_value()) feature_group_back_ = join("features/back/", start_.rank(), start_.world_size());
    exchange_ = std::make_unique<PairExchange>(*feature_group_, feature_group_back_ != nullptr ? *feature_group_back_ : *feature_group_,
                                               (start_.rank() + set_.size) % start_.world_size(), points, fixed_sizes);
    absl::StatusOr<std::unique_ptr<core::SplitGuidedStep>> step =
        core::SplitGuidedStep::Create(member(*TrainedNets()[0]), set_.set == 0 ? core::PairSide::kLow : core::PairSide::kFull, nets_[0].network->config(),
                                      nets_[1].network->config(), GuidedOptionsOf(spec()), fixed_sizes, exchange_.get());
    if (!step.ok()) return step.status();
    split_step_ = *std::move(step);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<core::GuidedStep>> step = core::GuidedStep::Create(member(nets_[0]), member(nets_[1]), GuidedOptionsOf(spec()));
  if (!step.ok()) return step.status();
  guided_step_ = *std::move(step);
  return absl::OkStatus();
}

}  // namespace bitstair::trainer
