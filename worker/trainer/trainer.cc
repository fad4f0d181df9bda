#include "worker/trainer/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <utility>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/checkpoint/checkpoint.h"
#include "core/kernels/step_clock.h"
#include "core/training/evaluate.h"
#include "core/training/schedule.h"
#include "worker/trainer/stage_config.h"

namespace bitstair::trainer {
namespace {

constexpr double kCheckpointDeadline = 120;
constexpr int64_t kMaxSkippedLogged = 20;
// How a rank fared in a step or an evaluation, as ranks tell each other.
constexpr double kFine = 0;
constexpr double kFailed = 1;
constexpr double kBadData = 2;
constexpr size_t kFailureBytes = 8192;  // of a message that names a file

double SecondsSince(ProgressReport::Clock::time_point begin) {
  return std::chrono::duration<double>(ProgressReport::Clock::now() - begin).count();
}

// Greatest resident memory of this process so far, in bytes.
int64_t PeakMemory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{1024} * usage.ru_maxrss;
}

// Rows of all ranks, in rank order: those of all parts of a batch, in order, where each rank gives its parts'. own: as many rows, of as many numbers, on all
// ranks.
std::vector<std::vector<double>> Exchange(ProcessGroup& group, const std::vector<std::vector<double>>& own) {
  const size_t numbers = own.at(0).size();
  at::Tensor rows = at::empty({static_cast<int64_t>(own.size()), static_cast<int64_t>(numbers)}, at::kDouble);
  double* to = rows.mutable_data_ptr<double>();
  for (const std::vector<double>& row : own) to = std::copy(row.begin(), row.end(), to);
  std::vector<std::vector<double>> all;
  for (const at::Tensor& of_rank : group.AllGather(rows)) {
    const double* from = of_rank.const_data_ptr<double>();
    for (size_t i = 0; i < own.size(); ++i) all.emplace_back(from + i * numbers, from + (i + 1) * numbers);
  }
  return all;
}

// In order: the same sum on all ranks, whatever the algorithm underneath; over fixed shards, on any number of them.
double Sum(const std::vector<std::vector<double>>& rows, size_t index) {
  double sum = 0;
  for (const std::vector<double>& numbers : rows) sum += numbers[index];
  return sum;
}

std::vector<double> Column(const std::vector<std::vector<double>>& rows, size_t index) {
  std::vector<double> column;
  for (const std::vector<double>& numbers : rows) column.push_back(numbers[index]);
  return column;
}

}  // namespace

Trainer::Trainer(v1::StartTrainer start, WorkerChannel& channel) : start_(std::move(start)), channel_(channel), report_(channel, start_.rank() == 0) {}
Trainer::~Trainer() = default;

v1::TrainerResult Trainer::Run() {
  absl::Status status;
  v1::ExitCause cause = v1::EXIT_CAUSE_FAILED;
  try {
    status = Load();
    if (status.ok()) status = Join();
    if (status.ok()) status = Train();
    if (status.ok()) status = Leave();
    if (cause_ != v1::EXIT_CAUSE_UNSPECIFIED) cause = cause_;
  } catch (const c10::DistError& error) {
    cause = v1::EXIT_CAUSE_PEER_LOST;
    status = absl::UnavailableError(absl::StrCat(Where(), ": lost a peer: ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    status = absl::InternalError(absl::StrCat(Where(), ": ", error.what_without_backtrace()));
  } catch (const std::runtime_error& error) {
    // Gloo's own exceptions; in a gang of one there is no Gloo.
    if (start_.world_size() > 1) cause = v1::EXIT_CAUSE_PEER_LOST;
    status = absl::UnavailableError(absl::StrCat(Where(), start_.world_size() > 1 ? ": lost a peer: " : ": ", error.what()));
  } catch (const std::exception& error) {
    status = absl::InternalError(absl::StrCat(Where(), ": ", error.what()));
  }
  v1::TrainerResult result;
  if (status.ok()) {
    result.set_cause(stop_agreed_ ? v1::EXIT_CAUSE_STOPPED : v1::EXIT_CAUSE_FINISHED);
    result.set_message(stop_agreed_ ? absl::StrCat("stopped at ", Where()) : absl::StrCat("stage ", spec().name(), " is done"));
    spdlog::info("{}", result.message());
  } else {
    result.set_cause(absl::IsCancelled(status) ? v1::EXIT_CAUSE_STOPPED : cause);
    result.set_message(std::string(status.message()));
    spdlog::error("{}: {}", v1::ExitCause_Name(result.cause()), result.message());
  }
  return result;
}

absl::Status Trainer::Train() {
  while (position_.epoch < spec().epochs()) {
    if (absl::Status status = TrainEpoch(); !status.ok()) return status;
    if (stop_agreed_) return StopHere();
    if (absl::Status status = EndEpoch(); !status.ok()) return status;
    if (position_.epoch == spec().epochs()) break;
    const int every = spec().checkpoint().every_steps();
    if (spec().checkpoint().every_epoch() || (every > 0 && StepOfStage() % every == 0)) {
      if (absl::Status status = SaveCheckpoint(/*averaged=*/true, /*final=*/false); !status.ok()) return status;
    }
  }
  return SaveCheckpoint(/*averaged=*/true, /*final=*/true);
}

absl::Status Trainer::TrainEpoch() {
  const int every = spec().checkpoint().every_steps();
  if (is_rank0()) core::StartStepClock();
  loader_->StartEpoch(EpochWord(spec(), position_.epoch), position_.step);
  report_.BeginEpoch(position_.epoch, position_.step);
  while (position_.step < steps_per_epoch_) {
    report_.BeginStep();
    if (absl::Status status = TakeStep(); !status.ok()) return status;
    report_.EndStep();
    SendProgress();
    if (stop_agreed_) return absl::OkStatus();
    if (every > 0 && StepOfStage() % every == 0 && position_.step < steps_per_epoch_) {
      if (absl::Status status = SaveCheckpoint(/*averaged=*/false, /*final=*/false); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Trainer::RunParts(std::vector<StepOutcome>* done) {
  telemetry_->BeginStep(position_.step);
  const size_t parts = static_cast<size_t>(parts_.own_count());
  for (size_t part = 0; part < parts; ++part) {
    core::Batch batch;
    const bool has_batch = [&] {
      const core::StepTimer timer(core::StepPart::kData);
      return loader_->Next(&batch);
    }();
    if (!has_batch) return loader_->status().ok() ? absl::InternalError(absl::StrCat(Where(), ": the loader has no batch")) : loader_->status();
    LogSkipped(batch.skipped);
    if (part == 0 && spec().has_stochastic_precision()) ChooseLayers(batch);
    for (Net* net : TrainedNets()) {
      if (parts > 1) SetStatistics(net->statistics[part], *net->network);
    }
    telemetry_->BeginPart(part);
    absl::StatusOr<StepOutcome> outcome = ComputeGradients(batch, /*quantize=*/part == 0);
    if (!outcome.ok()) return outcome.status();
    telemetry_->EndPart(part, outcome->hints);
    for (Net* net : TrainedNets()) {
      if (parts > 1) net->statistics[part] = FlattenStatistics(*net->network);
    }
    done->push_back(*std::move(outcome));
  }
  return absl::OkStatus();
}

void Trainer::ChooseLayers(const core::Batch& batch) {
  const double share = core::QuantizedShareAt(StochasticPrecisionOptionsOf(spec()), StepOfStage(), spec().epochs() * steps_per_epoch_);
  for (Net& net : nets_) {
    net.network->set_rounded_units(core::ChooseRoundedUnits(spec().seed(), batch.position.epoch, batch.position.batch, net.network->units().size(), share));
  }
}

absl::StatusOr<Trainer::StepOutcome> Trainer::ComputeGradients(const core::Batch& batch, bool quantize) {
  if (mutual_step_ != nullptr) {
    const absl::StatusOr<core::MutualStepResult> result = mutual_step_->ComputeGradients(batch, quantize);
    if (!result.ok()) return result.status();
    StepOutcome outcome{{result->students[0], result->teacher}, result->divergence, {}};
    outcome.nets.insert(outcome.nets.end(), result->students.begin() + 1, result->students.end());
    return outcome;
  }
  if (guided_step_ != nullptr || split_step_ != nullptr) {
    const absl::StatusOr<core::GuidedStepResult> result =
        split_step_ != nullptr ? split_step_->ComputeGradients(batch, quantize) : guided_step_->ComputeGradients(batch, quantize);
    if (!result.ok()) return result.status();
    return StepOutcome{{result->low, result->full}, result->hint, result->hints};
  }
  const absl::StatusOr<core::StepResult> alone = step_->ComputeGradients(batch, quantize);
  if (!alone.ok()) return alone.status();
  return StepOutcome{{*alone}, 0, {}};
}

void Trainer::Update() {
  const double teacher_rate = HasTeacher(spec()) ? learning_rate_ * TeacherLearningRateFactorOf(spec()) : 0;
  if (mutual_step_ != nullptr) {
    mutual_step_->Update(learning_rate_, teacher_rate);
  } else if (split_step_ != nullptr) {
    split_step_->Update(set_.set == 0 ? learning_rate_ : teacher_rate);
  } else if (guided_step_ != nullptr) {
    guided_step_->Update(learning_rate_, teacher_rate);
  } else {
    step_->Update(learning_rate_);
  }
  telemetry_->EndStep();
}

absl::Status Trainer::TakeStep() {
  CrashForTests();
  learning_rate_ = core::LearningRateAt(ScheduleOf(spec()), spec().schedule_offset() + position_.epoch, position_.step, steps_per_epoch_);
  std::vector<StepOutcome> done;  // by part of this rank
  const absl::Status status = RunParts(&done);
  for (Net* net : TrainedNets()) {
    const core::StepTimer timer(core::StepPart::kAllReduce);
    status.ok() ? net->gradients->Average() : net->gradients->Abstain();
  }
  if (status.ok()) Update();

  // One small exchange per step: sums for the report, whether a rank was asked to stop, whether a rank failed. All ranks draw the same conclusions.
  if (!status.ok()) done.assign(static_cast<size_t>(parts_.own_count()), {std::vector<core::StepResult>(nets_.size()), 0, {}});
  const double images = static_cast<double>(spec().batch_size()) / parts_.count;
  const double stop = channel_.stop_requested() ? 1 : 0, failure = status.ok() ? kFine : loader_->status().ok() ? kFailed : kBadData;
  constexpr size_t first = 3;
  std::vector<std::vector<double>> told;
  for (const StepOutcome& part : done) {
    // Of a split pair both sets know how far their nets are apart; one of them tells.
    told.push_back({stop, failure, set_.set == 0 ? part.distance * images : 0});
    for (const core::StepResult& net : part.nets) told.back().insert(told.back().end(), {net.loss * images, static_cast<double>(net.correct)});
  }
  const std::vector<std::vector<double>> all = Exchange(*group_, told);
  if (Sum(all, 1) > 0) return FailTogether(status, Column(all, 1));
  const auto add = [&](size_t net, double* loss, int64_t* correct) {
    *loss += Sum(all, first + 2 * net);
    *correct += static_cast<int64_t>(Sum(all, first + 2 * net + 1));
  };
  add(0, &position_.loss_sum, &position_.correct);
  if (nets_.size() > 1) add(1, &position_.full_loss_sum, &position_.full_correct);
  for (size_t i = 2; i < nets_.size(); ++i) add(i, &position_.students[i - 2].loss, &position_.students[i - 2].correct);
  position_.hint_sum += Sum(all, 2);
  ++position_.step;
  stop_agreed_ = Sum(all, 0) > 0;
  return absl::OkStatus();
}

std::vector<at::Tensor> Trainer::GatherStatistics(size_t net) {
  const Net& own = nets_[split() ? static_cast<size_t>(set_.set) : net];
  const at::Tensor parts = at::stack(own.statistics.empty() ? std::vector<at::Tensor>{FlattenStatistics(*own.network)} : own.statistics);
  std::vector<at::Tensor> all;
  for (const at::Tensor& of_rank : group_->AllGather(parts)) {
    for (at::Tensor& of_part : of_rank.unbind(0)) all.push_back(std::move(of_part));
  }
  if (!split()) return all;
  // Both nets are one network, so their statistics have one size; each set gave those of its own.
  const auto first = all.begin() + static_cast<ptrdiff_t>(net) * parts_.count;
  return {first, first + parts_.count};
}

std::vector<Trainer::Net*> Trainer::TrainedNets() {
  if (split()) return {&nets_[static_cast<size_t>(set_.set)]};
  std::vector<Net*> all;
  for (Net& net : nets_) all.push_back(&net);
  return all;
}

std::string Trainer::TrainedDigest() const {
  const std::vector<StageNet> nets = StageNets();
  return ParametersDigest(split() ? std::vector<StageNet>{nets[static_cast<size_t>(set_.set)]} : nets);
}

absl::Status Trainer::AverageStatistics() {
  for (Net* trained : TrainedNets()) {
    Net& net = *trained;
    SetStatistics(MeanStatistics(GatherStatistics(static_cast<size_t>(trained - nets_.data()))), *net.network);
    if (spec().has_stochastic_precision() && net.prefix != kFullPrefix) {
      net.network->set_rounded_units({});
      if (absl::Status status = ReestimateStatistics(*train_, *net.network); !status.ok()) return Fail(v1::EXIT_CAUSE_BAD_DATA, std::move(status));
    }
    for (at::Tensor& of_part : net.statistics) of_part = FlattenStatistics(*net.network);
  }
  return absl::OkStatus();
}

absl::Status Trainer::EndEpoch() {
  const core::StepTimes step_times = is_rank0() ? core::StopStepClock() : core::StepTimes();
  report_.Evaluating();
  if (absl::Status status = AverageStatistics(); !status.ok()) return status;

  const auto begin = ProgressReport::Clock::now();
  const absl::StatusOr<std::vector<TestResult>> evaluated = EvaluateAll();
  if (!evaluated.ok()) return evaluated.status();
  const std::vector<TestResult>& tests = *evaluated;
  const double evaluation_seconds = SecondsSince(begin), trained = static_cast<double>(steps_per_epoch_) * spec().batch_size();
  report_.EndEvaluation(evaluation_seconds);

  v1::EpochResult result;
  result.set_epoch(position_.epoch + 1);
  result.set_train_loss(position_.loss_sum / trained);
  result.set_train_top1(100 * static_cast<double>(position_.correct) / trained);
  result.set_test_loss(tests[0].loss);
  result.set_test_top1(tests[0].top1);
  result.set_test_top5(tests[0].top5);
  result.set_learning_rate(learning_rate_);
  result.set_seconds(report_.training_seconds() + evaluation_seconds);
  result.set_images_per_second(report_.images_per_second());
  result.set_data_wait_seconds(loader_->wait_seconds());
  result.set_peak_memory_bytes(PeakMemory());
  for (int part = 0; is_rank0() && part < core::kStepParts; ++part) {
    (*result.mutable_step_seconds())[core::NameOf(static_cast<core::StepPart>(part))] = step_times.seconds[part];
  }
  // Both nets read the same test images.
  result.set_skipped_images(tests[0].skipped + static_cast<int64_t>(Sum(Exchange(*group_, {{set_.set == 0 ? static_cast<double>(skipped_) : 0}}), 0)));
  if (result.skipped_images() > 0 && is_rank0()) spdlog::warn("{}: {} images could not be read", Where(), result.skipped_images());
  const std::vector<std::vector<double>> of_parts = Exchange(*group_, TelemetrySums());
  std::vector<double> sums;
  for (size_t i = 0; i < of_parts[0].size(); ++i) sums.push_back(Sum(of_parts, i));
  telemetry_->Add(sums, &result);
  const std::string others = AddOtherNets(tests, &result);
  spdlog::info("stage {} epoch {} of {}: loss {:.4f}, train top-1 {:.2f} %, test top-1 {:.2f} %{}, {:.0f} images/s, all-reduce bytes {}, parameters sha256 {}",
               spec().name(), result.epoch(), spec().epochs(), result.train_loss(), result.train_top1(), result.test_top1(), others, result.images_per_second(),
               bytes_sent(), TrainedDigest());
  if (is_rank0()) {
    SendProgress(/*now=*/true);
    v1::FromTrainer message;
    *message.mutable_epoch() = result;
    channel_.Send(message);
  }
  position_ = {.epoch = position_.epoch + 1, .students = std::vector<core::Checkpoint::NetSums>(position_.students.size())};
  telemetry_->Forget();
  skipped_ = 0;
  return absl::OkStatus();
}

std::vector<std::vector<double>> Trainer::TelemetrySums() const {
  std::vector<std::vector<double>> own;
  for (int part = 0; part < parts_.own_count(); ++part) own.push_back(telemetry_->Sums(static_cast<size_t>(part)));
  return own;
}

// The test images are cut into the same parts as a batch.
absl::Status Trainer::Evaluate(core::Network& network, std::vector<std::vector<double>>* rows) {
  absl::Status status;
  std::vector<std::vector<double>> own;
  for (int part = parts_.own.begin; part < parts_.own.end; ++part) {
    const int64_t first = test_->size() * part / parts_.count, last = test_->size() * (part + 1) / parts_.count;
    const absl::StatusOr<core::EvaluationSums> read = core::Evaluate(network, *test_, first, last, core::EvaluationBatchSize(test_->shape()), [this](int64_t) {
      report_.Evaluating();
      SendProgress();
    });
    if (status.ok()) status = read.status();
    const core::EvaluationSums sums = read.ok() ? *read : core::EvaluationSums{};
    own.push_back({sums.loss, static_cast<double>(sums.top1), static_cast<double>(sums.top5), static_cast<double>(sums.images),
                   static_cast<double>(sums.skipped), read.ok() ? kFine : kBadData});
  }
  const std::vector<std::vector<double>> all = Exchange(*group_, own);
  if (Sum(all, 5) > 0) return FailTogether(status, Column(all, 5));
  rows->insert(rows->end(), all.begin(), all.end());
  return absl::OkStatus();
}

// The sets of a split pair evaluate their nets at the same time.
absl::StatusOr<std::vector<Trainer::TestResult>> Trainer::EvaluateAll() {
  std::vector<std::vector<double>> rows;
  for (Net* net : TrainedNets()) {
    if (absl::Status status = Evaluate(*net->network, &rows); !status.ok()) return status;
  }
  std::vector<TestResult> tests;
  for (size_t i = 0; i < nets_.size(); ++i) {
    const auto first = rows.begin() + static_cast<ptrdiff_t>(i) * parts_.count;
    const absl::StatusOr<TestResult> test = TestResultOf({first, first + parts_.count});
    if (!test.ok()) return test.status();
    tests.push_back(*test);
  }
  return tests;
}

absl::StatusOr<Trainer::TestResult> Trainer::TestResultOf(const std::vector<std::vector<double>>& all) {
  const double images = Sum(all, 3);
  if (images == 0) return Fail(v1::EXIT_CAUSE_BAD_DATA, absl::DataLossError(absl::StrCat(start_.data_path(), ": no test image can be read")));
  return TestResult{Sum(all, 0) / images, 100 * Sum(all, 1) / images, 100 * Sum(all, 2) / images, static_cast<int64_t>(Sum(all, 4))};
}

// Of the training images of this epoch.
v1::TeacherResult Trainer::TeacherSoFar() const {
  const double images = static_cast<double>(position_.step) * spec().batch_size();
  v1::TeacherResult teacher;
  teacher.set_train_loss(position_.full_loss_sum / images);
  teacher.set_train_top1(100 * static_cast<double>(position_.full_correct) / images);
  if (spec().has_guided()) teacher.set_hint(position_.hint_sum / images);
  if (spec().has_distillation()) teacher.set_divergence(position_.hint_sum / images);
  return teacher;
}

std::string Trainer::AddOtherNets(const std::vector<TestResult>& tests, v1::EpochResult* result) const {
  if (!HasTeacher(spec())) return "";
  v1::TeacherResult* teacher = result->mutable_teacher();
  *teacher = TeacherSoFar();
  teacher->set_test_loss(tests[1].loss);
  teacher->set_test_top1(tests[1].top1);
  teacher->set_test_top5(tests[1].top5);
  std::string text = absl::StrFormat(", full-precision net %.2f %%, ", tests[1].top1);
  absl::StrAppend(&text, spec().has_guided() ? absl::StrFormat("hint %.5f", teacher->hint()) : absl::StrFormat("divergence %.5f", teacher->divergence()));
  const double images = static_cast<double>(position_.step) * spec().batch_size();
  for (size_t i = 2; i < nets_.size(); ++i) {
    const core::NetworkConfig& config = nets_[i].network->config();
    v1::StudentResult* student = result->add_students();
    student->set_name(absl::StrCat("W", config.weight_bits, "A", config.activation_bits));
    student->set_train_loss(position_.students[i - 2].loss / images);
    student->set_train_top1(100 * static_cast<double>(position_.students[i - 2].correct) / images);
    student->set_test_loss(tests[i].loss);
    student->set_test_top1(tests[i].top1);
    student->set_test_top5(tests[i].top5);
    absl::StrAppend(&text, absl::StrFormat(", %s %.2f %%", student->name(), student->test_top1()));
  }
  return text;
}

int64_t Trainer::bytes_sent() const {
  int64_t bytes = 0;
  for (const Net& net : nets_) bytes += net.gradients != nullptr ? net.gradients->bytes_sent() : 0;
  return bytes + (exchange_ != nullptr ? exchange_->bytes_sent() : 0);
}

// Reads training state, changes none of it.
absl::Status Trainer::SaveCheckpoint(bool averaged, bool final) {
  report_.Phase("checkpoint", kCheckpointDeadline);
  const auto begin = ProgressReport::Clock::now();
  core::Checkpoint checkpoint = MakeCheckpoint(start_, position_, final);
  if (split()) BringFullNetToRank0();
  const std::vector<StageNet> nets = StageNets();
  for (size_t i = 0; i < nets.size(); ++i) AddNet(nets[i], GatherStatistics(i), averaged, &checkpoint);
  AddTeacherStart(teacher_start_, &checkpoint);
  if (position_.step > 0) {
    std::vector<std::vector<double>> sums = Exchange(*group_, TelemetrySums());
    // Of a split pair each set's rows have zeros where the other's have numbers.
    for (size_t part = static_cast<size_t>(parts_.count); part < sums.size(); ++part) {
      for (size_t i = 0; i < sums[part].size(); ++i) sums[part % static_cast<size_t>(parts_.count)][i] += sums[part][i];
    }
    sums.resize(static_cast<size_t>(parts_.count));
    AddTelemetry(sums, &checkpoint);
  }
  if (is_rank0()) {
    const absl::StatusOr<core::SavedCheckpoint> saved = core::SaveCheckpoint(start_.checkpoint_dir(), checkpoint, NumericProfile(start_));
    if (!saved.ok()) return absl::Status(saved.status().code(), absl::StrCat(Where(), ": cannot save a checkpoint: ", saved.status().message()));
    v1::FromTrainer message;
    message.mutable_checkpoint()->set_path(saved->path);
    message.mutable_checkpoint()->set_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    v1::Checkpoint* told = message.mutable_checkpoint()->mutable_checkpoint();
    told->set_sha256(saved->sha256);
    told->set_size_bytes(saved->size_bytes);
    told->set_epoch(position_.epoch);
    told->set_step(position_.step);
    told->set_final(final);
    told->set_generation(start_.attempt().generation());
    channel_.Send(message);
    spdlog::info("{}: {}checkpoint {}", Where(), final ? "final " : "", saved->sha256);
  }
  // The others wait here, in this phase and not in a step's short one, until the file is safe.
  group_->Barrier();
  return absl::OkStatus();
}

void Trainer::BringFullNetToRank0() {
  const int sender = set_.size;
  if (!is_rank0() && start_.rank() != sender) return;
  const at::NoGradGuard no_grad;
  Net& full = nets_[1];
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < full.network->parameters().size(); ++i) {
    tensors.push_back(full.network->parameters()[i].latent.detach());
    tensors.push_back(full.sgd->momentum()[i]);
  }
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors) flat.push_back(tensor.reshape({-1}));
  std::vector<at::Tensor> message{at::cat(flat)};
  if (!is_rank0()) {
    group_->group()->send(message, 0, /*tag=*/0)->wait();
    return;
  }
  group_->group()->recv(message, sender, /*tag=*/0)->wait();
  int64_t at = 0;
  for (at::Tensor& tensor : tensors) {
    tensor.copy_(message[0].narrow(0, at, tensor.numel()).view(tensor.sizes()));
    at += tensor.numel();
  }
}

absl::Status Trainer::StopHere() {
  spdlog::info("{}: stopping as asked", Where());
  return SaveCheckpoint(/*averaged=*/false, /*final=*/false);
}

absl::Status Trainer::Leave() {
  if (store_ != nullptr) store_->Leave(start_.rank(), start_.world_size());
  return absl::OkStatus();
}

void Trainer::SendProgress(bool now) {
  const double images = static_cast<double>(position_.step) * spec().batch_size();
  if (images <= 0) return;
  const v1::TeacherResult teacher = HasTeacher(spec()) ? TeacherSoFar() : v1::TeacherResult();
  report_.Progress(position_.loss_sum / images, 100 * static_cast<double>(position_.correct) / images, HasTeacher(spec()) ? &teacher : nullptr, bytes_sent(),
                   now);
}

absl::Status Trainer::Fail(v1::ExitCause cause, absl::Status status) {
  if (cause_ == v1::EXIT_CAUSE_UNSPECIFIED) cause_ = cause;
  return status;
}

std::string Trainer::Where() const {
  if (position_.epoch == spec().epochs()) return absl::StrCat("stage ", spec().name(), " after epoch ", position_.epoch);
  return absl::StrCat("stage ", spec().name(), " epoch ", position_.epoch + 1, " step ", position_.step);
}

// The worker ends a gang as soon as one rank leaves, so whoever is first must have the whole story.
absl::Status Trainer::FailTogether(const absl::Status& own, const std::vector<double>& failures) {
  const auto worst = std::max_element(failures.begin(), failures.end());
  std::string text(own.message());
  if (text.size() > kFailureBytes) {
    size_t end = kFailureBytes;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside of a character
    text.resize(end);
  }
  text.resize(kFailureBytes, '\0');
  at::Tensor bytes = at::empty({static_cast<int64_t>(kFailureBytes)}, at::kByte);
  std::copy(text.begin(), text.end(), static_cast<char*>(bytes.mutable_data_ptr()));
  const std::vector<at::Tensor> all = group_->AllGather(bytes);
  const auto rank = (worst - failures.begin()) / parts_.own_count();
  const char* begin = static_cast<const char*>(all[static_cast<size_t>(rank)].const_data_ptr());
  const std::string message(begin, std::find(begin, begin + kFailureBytes, '\0'));
  return Fail(*worst == kBadData ? v1::EXIT_CAUSE_BAD_DATA : v1::EXIT_CAUSE_FAILED, absl::InternalError(absl::StrCat(Where(), ", rank ", rank, ": ", message)));
}

void Trainer::LogSkipped(const std::vector<std::string>& reasons) {
  skipped_ += static_cast<int64_t>(reasons.size());
  for (const std::string& reason : reasons) {
    if (skipped_logged_ == kMaxSkippedLogged) return;
    spdlog::warn("{}: skipped an image: {}{}", Where(), reason, ++skipped_logged_ == kMaxSkippedLogged ? "; further ones are only counted" : "");
  }
}

void Trainer::CrashForTests() const {
  const char* wish = std::getenv("BITSTAIR_TEST_CRASH");
  if (wish == nullptr) return;
  const std::vector<std::string> parts = absl::StrSplit(wish, ':');
  if (parts.size() != 4 || parts[0] != spec().name()) return;
  const std::string here[] = {absl::StrCat(start_.rank()), absl::StrCat(StepOfStage()), absl::StrCat(start_.attempt().generation())};
  for (size_t i = 0; i < 3; ++i) {
    if (parts[i + 1] != "*" && parts[i + 1] != here[i]) return;
  }
  spdlog::warn("{}: BITSTAIR_TEST_CRASH", Where());
  raise(SIGKILL);
}

}  // namespace bitstair::trainer
