// Runs the real bitstair-trainer with this test as its worker.
#include "worker/trainer/trainer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "bitstair/v1/trainer.pb.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/digest/sha256.h"
#include "core/random/philox.h"
#include "tests/core/data/picture_folder.h"
#include "worker/trainer_frames.h"

namespace bitstair::trainer {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kDeadline{60};

// A trainer process and the worker's end of its socket.
class Process {
 public:
  Process(const std::string& log, const std::string& crash = "") : log_(log) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fd_ = pair[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair[1], 7);
    posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    std::vector<std::string> environment{"OMP_NUM_THREADS=1"};
    if (!crash.empty()) environment.push_back("BITSTAIR_TEST_CRASH=" + crash);
    for (char** at = environ; *at != nullptr; ++at) environment.emplace_back(*at);
    std::vector<char*> env;
    for (std::string& entry : environment) env.push_back(entry.data());
    env.push_back(nullptr);
    char* const arguments[] = {const_cast<char*>("bitstair-trainer"), const_cast<char*>("--socket-fd"), const_cast<char*>("7"), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, BITSTAIR_TRAINER, &actions, nullptr, arguments, env.data()), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pair[1]);
  }

  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    if (fd_ >= 0) close(fd_);
  }

  void Send(const v1::ToTrainer& message) { SendBytes(worker::EncodeTrainerFrame(message)); }
  void SendBytes(const std::string& bytes) { EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size())); }
  void CloseSocket() {
    close(fd_);
    fd_ = -1;
  }

  // Reads what has come, at most `wait` long. False at the socket's end.
  bool Read(std::chrono::milliseconds wait, std::vector<v1::FromTrainer>* messages) {
    pollfd at{fd_, POLLIN, 0};
    if (poll(&at, 1, static_cast<int>(wait.count())) <= 0) return true;
    char buffer[4096];
    const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
    if (got <= 0) return false;
    decoder_.Append(absl::string_view(buffer, static_cast<size_t>(got)));
    for (v1::FromTrainer message;;) {
      const absl::StatusOr<bool> more = decoder_.Next(&message);
      EXPECT_TRUE(more.ok()) << more.status();
      if (!more.ok() || !*more) return true;
      messages->push_back(message);
    }
  }

  // The exit status, or minus the signal; -1000 if it lives on after the deadline.
  int Wait(Clock::duration deadline = kDeadline) {
    const auto end = Clock::now() + deadline;
    while (Clock::now() < end) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      }
      poll(nullptr, 0, 10);
    }
    return -1000;
  }

  std::string Log() const {
    std::ostringstream text;
    text << std::ifstream(log_).rdbuf();
    return text.str();
  }

 private:
  const std::string log_;
  pid_t pid_ = -1;
  int fd_ = -1;
  worker::TrainerFrameDecoder decoder_;
};

// What a gang said until it was gone.
struct Outcome {
  std::vector<v1::TrainerResult> results;  // by rank; without a cause: none came
  std::vector<int> exits;                  // by rank
  std::vector<std::string> logs;           // by rank
  std::vector<v1::TrainerCheckpoint> checkpoints;
  std::vector<v1::EpochResult> epochs;
  std::vector<std::string> phases;  // of rank 0
  int64_t all_reduce_bytes = 0;
  int beats = 0;
};

class TrainerTest : public ::testing::Test {
 protected:
  static constexpr int kTrainImages = 192, kTestImages = 50, kBatch = 32, kSteps = kTrainImages / kBatch;

  TrainerTest() : folder_(absl::StrCat(::testing::TempDir(), "/trainer_", getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/data");
    WriteImages("train", kTrainImages);
    WriteImages("t10k", kTestImages);
  }
  ~TrainerTest() override { std::filesystem::remove_all(folder_); }

  // Ten classes, each with its own bright stripe, under noise.
  void WriteImages(const std::string& split, uint32_t count) {
    const auto number = [](uint32_t v) {
      return std::string{static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)};
    };
    std::string images = number(0x803) + number(count) + number(28) + number(28), labels = number(0x801) + number(count);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t label = i % 10;
      labels.push_back(static_cast<char>(label));
      for (uint32_t p = 0; p < 784; ++p) {
        const uint32_t noise = core::Philox4x32(split.size(), {99, i, p, 0})[0] % 120;
        images.push_back(static_cast<char>(noise + (p / 28 / 3 == label ? 130 : 0)));
      }
    }
    std::ofstream(folder_ + "/data/" + split + "-images-idx3-ubyte", std::ios::binary) << images;
    std::ofstream(folder_ + "/data/" + split + "-labels-idx1-ubyte", std::ios::binary) << labels;
  }

  v1::StartTrainer Start(int ranks, int weight_bits = 4, int activation_bits = 4) {
    v1::StartTrainer start;
    v1::StageSpec& spec = *start.mutable_spec();
    spec.set_name(absl::StrCat("W", weight_bits, "A", activation_bits));
    spec.set_weight_bits(weight_bits);
    spec.set_activation_bits(activation_bits);
    spec.set_epochs(2);
    spec.set_schedule_epochs(2);
    spec.set_learning_rate(0.02);
    spec.set_learning_rate_schedule(v1::LEARNING_RATE_SCHEDULE_COSINE);
    spec.set_momentum(0.9);
    spec.set_nesterov(true);
    spec.set_weight_decay(1e-4);
    spec.set_decay_batch_norm(true);
    spec.set_network("convnet28");
    spec.set_activation(v1::ACTIVATION_FUNCTION_CLIP);
    spec.set_calibration(v1::ACTIVATION_CALIBRATION_NONE);
    spec.set_calibration_percentile(99.9);
    spec.set_quantizer("dorefa");
    spec.set_numerics(v1::NUMERICS_REFERENCE);
    spec.set_seed(5);
    spec.set_ranks(ranks);
    spec.set_batch_size(kBatch);
    spec.mutable_data()->set_augmentation(v1::AUGMENTATION_CROP_FLIP);
    spec.mutable_checkpoint()->set_every_epoch(true);
    start.set_stage_key(core::Sha256Hex(spec.name()));
    start.mutable_attempt()->set_stage("jobs/j/stages/s");
    start.mutable_attempt()->set_generation(1);
    start.set_world_size(ranks);
    start.set_rendezvous_token("token");
    start.set_data_address("127.0.0.1");
    start.mutable_slot()->set_kind(v1::SLOT_KIND_CPU);
    start.mutable_slot()->set_threads(1);
    start.set_data_path(folder_ + "/data");
    start.set_checkpoint_dir(folder_);
    return start;
  }

  // Runs a gang until all its processes are gone. `watch` sees each message and may ask for a stop through the processes.
  using Gang = std::vector<std::unique_ptr<Process>>;
  Outcome Run(const v1::StartTrainer& start, const std::function<void(Gang&, const v1::FromTrainer&)>& watch = nullptr, const std::string& crash = "") {
    const int ranks = start.world_size();
    Gang gang;
    Outcome outcome;
    for (int rank = 0; rank < ranks; ++rank) {
      gang.push_back(std::make_unique<Process>(absl::StrCat(folder_, "/log", runs_++), crash));
      v1::ToTrainer message;
      *message.mutable_start() = start;
      message.mutable_start()->set_rank(rank);
      gang.back()->Send(message);
    }
    outcome.results.resize(static_cast<size_t>(ranks));
    std::vector<bool> open(static_cast<size_t>(ranks), true);
    const auto end = Clock::now() + kDeadline;
    while (std::count(open.begin(), open.end(), true) > 0 && Clock::now() < end) {
      for (int rank = 0; rank < ranks; ++rank) {
        std::vector<v1::FromTrainer> messages;
        if (open[rank]) open[rank] = gang[rank]->Read(std::chrono::milliseconds(10), &messages);
        for (const v1::FromTrainer& message : messages) {
          Note(rank, message, gang, &outcome);
          if (watch) watch(gang, message);
        }
      }
    }
    for (const std::unique_ptr<Process>& process : gang) {
      outcome.exits.push_back(process->Wait(std::chrono::seconds(5)));
      outcome.logs.push_back(process->Log());
    }
    return outcome;
  }

  void Note(int rank, const v1::FromTrainer& message, Gang& gang, Outcome* outcome) {
    if (message.has_beat()) ++outcome->beats;
    if (message.has_result()) outcome->results[rank] = message.result();
    if (message.has_checkpoint()) outcome->checkpoints.push_back(message.checkpoint());
    if (message.has_epoch()) outcome->epochs.push_back(message.epoch());
    if (message.has_progress()) outcome->all_reduce_bytes = message.progress().all_reduce_bytes();
    if (rank == 0 && message.has_phase()) outcome->phases.push_back(message.phase().phase());
    if (message.has_rendezvous_ready()) {
      v1::ToTrainer forward;
      *forward.mutable_rendezvous()->mutable_attempt() = message.rendezvous_ready().attempt();
      forward.mutable_rendezvous()->set_address(message.rendezvous_ready().address());
      for (size_t peer = 1; peer < gang.size(); ++peer) gang[peer]->Send(forward);
    }
  }

  static std::string Problems(const Outcome& outcome) {
    std::string text;
    for (size_t rank = 0; rank < outcome.exits.size(); ++rank) absl::StrAppend(&text, "rank ", rank, " exit ", outcome.exits[rank], "\n", outcome.logs[rank]);
    return text;
  }

  // The final checkpoint of a run that must finish.
  static v1::TrainerCheckpoint Final(const Outcome& outcome) {
    for (const v1::TrainerResult& result : outcome.results) EXPECT_EQ(result.cause(), v1::EXIT_CAUSE_FINISHED) << Problems(outcome);
    for (const int status : outcome.exits) EXPECT_EQ(status, 0) << Problems(outcome);
    if (outcome.checkpoints.empty() || !outcome.checkpoints.back().checkpoint().final()) {
      ADD_FAILURE() << "no final checkpoint\n" << Problems(outcome);
      return {};
    }
    return outcome.checkpoints.back();
  }

  // The same for a guided pair with a parent.
  v1::StartTrainer GuidedStart(int ranks, int weight_bits, int activation_bits, const std::string& parent) {
    v1::StartTrainer start = Start(ranks, weight_bits, activation_bits);
    start.mutable_spec()->set_parent("parent");
    start.set_parent_path(parent);
    start.mutable_spec()->mutable_guided()->set_lambda(30);
    start.mutable_spec()->mutable_guided()->set_teacher_learning_rate_factor(0.2);
    start.mutable_spec()->mutable_guided()->set_teacher(v1::TEACHER_START_CARRY);
    return start;
  }

  // The final checkpoint of a full-precision stage, from which pairs start.
  std::string FullPrecisionParent(int ranks) {
    v1::StartTrainer start = Start(ranks, 32, 32);
    start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU);
    return Final(Run(start)).path();
  }

  static core::Checkpoint Load(const std::string& path) {
    absl::StatusOr<core::Checkpoint> checkpoint = core::LoadCheckpoint(path);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? *std::move(checkpoint) : core::Checkpoint();
  }

  static std::string LastDigest(const std::string& log) {
    const size_t at = log.rfind("parameters sha256 ");
    return at == std::string::npos ? "" : log.substr(at + 18, 64);
  }

  const std::string folder_;
  int runs_ = 0;
};

TEST_F(TrainerTest, OneRankTrainsAStageToItsEnd) {
  const Outcome outcome = Run(Start(1));
  const v1::TrainerCheckpoint final = Final(outcome);
  EXPECT_EQ(core::Sha256OfFile(final.path())->sha256, final.checkpoint().sha256());
  EXPECT_EQ(core::Sha256OfFile(final.path())->size_bytes, final.checkpoint().size_bytes());
  EXPECT_EQ(final.checkpoint().epoch(), 2);
  EXPECT_EQ(final.checkpoint().generation(), 1);
  ASSERT_EQ(outcome.checkpoints.size(), 2u);
  EXPECT_FALSE(outcome.checkpoints[0].checkpoint().final());
  EXPECT_EQ(outcome.checkpoints[0].checkpoint().epoch(), 1);
  ASSERT_EQ(outcome.epochs.size(), 2u);
  EXPECT_EQ(outcome.epochs[1].epoch(), 2);
  EXPECT_LT(outcome.epochs[1].train_loss(), outcome.epochs[0].train_loss());
  EXPECT_GT(outcome.epochs[1].images_per_second(), 0);
  EXPECT_THAT(outcome.phases, ::testing::IsSupersetOf({std::string("load"), std::string("train"), std::string("evaluate"), std::string("checkpoint")}));
  EXPECT_EQ(outcome.all_reduce_bytes, 0);

  const absl::StatusOr<core::Checkpoint> checkpoint = core::LoadCheckpoint(final.path(), final.checkpoint().sha256());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->final);
  EXPECT_EQ(checkpoint->stage_name, "W4A4");
}

TEST_F(TrainerTest, LearnedStepsStartFromTheWeightsAndCarryOver) {
  v1::StartTrainer start = Start(1, 4, 4);
  start.mutable_spec()->set_quantizer("lsq");
  start.mutable_spec()->set_epochs(1);
  start.mutable_spec()->set_parent("W32A32");
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  start.mutable_spec()->set_learning_rate(1e-9);  // so that the steps can be told
  start.mutable_spec()->set_weight_decay(0);
  start.set_parent_path(FullPrecisionParent(1));
  const std::string four = Final(Run(start)).path();
  const auto scalar = [](const core::Checkpoint& checkpoint, const std::string& name) { return checkpoint.tensors.at(name).item<double>(); };
  const core::Checkpoint at_four = Load(four);
  EXPECT_NEAR(scalar(at_four, "conv2.weight_step"), 2 * at_four.tensors.at("conv2.weight").abs().mean().item<double>() / std::sqrt(7), 1e-6);
  EXPECT_NEAR(scalar(at_four, "relu2.step"), 1.0 / 15, 1e-6) << "the calibration makes ranges [0, 1]";

  v1::StartTrainer next = Start(1, 2, 2);
  *next.mutable_spec() = start.spec();
  next.mutable_spec()->set_name("W2A2");
  next.mutable_spec()->set_weight_bits(2);
  next.mutable_spec()->set_activation_bits(2);
  next.mutable_spec()->set_parent("W4A4");
  next.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_NONE);
  next.mutable_spec()->set_carry_momentum(true);
  next.set_parent_path(four);
  const core::Checkpoint at_two = Load(Final(Run(next)).path());
  EXPECT_NEAR(scalar(at_two, "conv2.weight_step"), scalar(at_four, "conv2.weight_step") * std::sqrt(7), 1e-5);
  EXPECT_NEAR(scalar(at_two, "relu2.step"), 1.0 / 3, 1e-5);
}

TEST_F(TrainerTest, InitialWeightsStartAStageAsAFullPrecisionParentDoes) {
  const std::string parent = FullPrecisionParent(1);
  v1::StartTrainer start = GuidedStart(1, 4, 4, parent);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const Outcome from_parent = Run(start);
  start.mutable_spec()->clear_parent();
  start.clear_parent_path();
  start.set_weights_path(parent);
  start.mutable_spec()->mutable_initial_weights()->set_path(parent);
  start.mutable_spec()->set_initial_weights_digest(core::Sha256OfFile(parent)->sha256);
  EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), Final(from_parent).checkpoint().sha256()) << "our own checkpoint, both nets of the pair";

  // As another program would write them: the names of a wrapped network, statistics in float32, counters.
  core::SafetensorsFile foreign;
  for (const auto& [name, tensor] : Load(parent).tensors) {
    if (name.find('/') == std::string::npos) foreign.tensors.emplace("module." + name, tensor.to(at::kFloat));
  }
  foreign.tensors.emplace("module.bn1.num_batches_tracked", at::full({}, 7, at::kLong));
  const auto write = [&] {
    const std::string bytes = *core::EncodeSafetensors(foreign);
    std::ofstream(folder_ + "/foreign", std::ios::binary) << bytes;
    start.set_weights_path(folder_ + "/foreign");
    start.mutable_spec()->set_initial_weights_digest(core::Sha256Hex(bytes));
  };
  write();
  const core::Checkpoint ours = Load(Final(from_parent).path()), theirs = Load(Final(Run(start)).path());
  const at::Tensor weight = theirs.tensors.at("conv2.weight");
  EXPECT_TRUE(weight.allclose(ours.tensors.at("conv2.weight"), 1e-3, 1e-4)) << "only the statistics' rounding tells them apart";

  const auto refused = [&](const std::string& message) {
    write();
    const Outcome outcome = Run(start);
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA) << "no other try would help";
    EXPECT_THAT(outcome.results[0].message(), AllOf(HasSubstr("initial weights " + folder_ + "/foreign: "), HasSubstr(message)));
    EXPECT_TRUE(outcome.epochs.empty());
  };
  const at::Tensor kept = foreign.tensors.at("module.fc1.weight");
  foreign.tensors["module.fc1.weight"] = at::zeros({1, 2}, at::kFloat);
  refused("fc1.weight has shape [1, 2] instead of [");
  foreign.tensors.erase("module.fc1.weight");
  foreign.tensors["module.other"] = kept;
  refused("missing: fc1.weight; unexpected: other");
  start.mutable_spec()->mutable_initial_weights()->set_allow_missing(true);
  start.mutable_spec()->mutable_initial_weights()->set_allow_unexpected(true);
  const Outcome allowed = Run(start);
  Final(allowed);
  EXPECT_THAT(allowed.logs[0], AllOf(HasSubstr("missing, kept from the seed: fc1.weight"), HasSubstr("unexpected, passed over: other")));

  start.mutable_spec()->set_initial_weights_digest(core::Sha256Hex("another file"));
  EXPECT_THAT(Run(start).results[0].message(), HasSubstr("has changed: its SHA-256 is"));
  // A quantised checkpoint of our own clips already.
  start.set_weights_path(Final(from_parent).path());
  start.mutable_spec()->set_initial_weights_digest(Final(from_parent).checkpoint().sha256());
  EXPECT_THAT(Run(start).results[0].message(), HasSubstr("set pretrain_activation: clip"));
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_NONE);
  Final(Run(start));
}

TEST_F(TrainerTest, CheckpointsChangeNothing) {
  v1::StartTrainer start = Start(2);
  const Outcome each_epoch = Run(start);
  const std::string want = Final(each_epoch).checkpoint().sha256();
  EXPECT_EQ(LastDigest(each_epoch.logs[0]), LastDigest(each_epoch.logs[1]));
  EXPECT_EQ(LastDigest(each_epoch.logs[0]).size(), 64u);
  EXPECT_GT(each_epoch.all_reduce_bytes, 0);
  for (const int every : {0, 1, 7}) {
    start.mutable_spec()->mutable_checkpoint()->set_every_epoch(every != 0);
    start.mutable_spec()->mutable_checkpoint()->set_every_steps(every);
    const Outcome outcome = Run(start);
    EXPECT_EQ(Final(outcome).checkpoint().sha256(), want) << every;
    EXPECT_EQ(outcome.checkpoints.size(), every == 0 ? 1u : every == 1 ? 2u * kSteps : 3u);
  }
}

TEST_F(TrainerTest, AStoppedGangResumesBitForBit) {
  v1::StartTrainer start = Start(2);
  const Outcome undisturbed = Run(start);
  const std::string want = Final(undisturbed).checkpoint().sha256();

  // One rank alone is asked, while steps are being done: all stop after the same step.
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const Outcome stopped = Run(start, [](Gang& gang, const v1::FromTrainer& message) {
    v1::ToTrainer stop;
    stop.mutable_stop();
    if (message.has_checkpoint() && message.checkpoint().checkpoint().step() == 2) gang[1]->Send(stop);
  });
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(stopped.results[rank].cause(), v1::EXIT_CAUSE_STOPPED) << Problems(stopped);
    EXPECT_EQ(stopped.exits[rank], 0);
  }
  ASSERT_FALSE(stopped.checkpoints.empty());
  const v1::TrainerCheckpoint last = stopped.checkpoints.back();
  EXPECT_FALSE(last.checkpoint().final());
  EXPECT_GT(last.checkpoint().step(), 2);

  start.set_resume_path(last.path());
  start.mutable_attempt()->set_generation(2);
  const Outcome resumed = Run(start);
  EXPECT_EQ(Final(resumed).checkpoint().sha256(), want);
  // Also what is reported of the epoch that was cut in two.
  EXPECT_EQ(resumed.epochs.front().train_loss(), undisturbed.epochs[2 - resumed.epochs.size()].train_loss());
  EXPECT_EQ(resumed.epochs.back().test_loss(), undisturbed.epochs.back().test_loss());

  // From its own final checkpoint there is nothing left to do but say so.
  start.set_resume_path(Final(resumed).path());
  EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), want);
}

TEST_F(TrainerTest, AKilledRankEndsItsGangAndTheNextGenerationGoesOn) {
  v1::StartTrainer start = Start(2);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const std::string want = Final(Run(start)).checkpoint().sha256();
  const auto begin = Clock::now();
  const Outcome broken = Run(start, nullptr, "W4A4:1:9:1");
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
  EXPECT_EQ(broken.exits[1], -SIGKILL);
  EXPECT_EQ(broken.results[0].cause(), v1::EXIT_CAUSE_PEER_LOST) << Problems(broken);
  EXPECT_EQ(broken.exits[0], 1);
  EXPECT_THAT(broken.results[0].message(), HasSubstr("stage W4A4 epoch 2 step 3"));
  start.set_resume_path(broken.checkpoints.back().path());
  start.mutable_attempt()->set_generation(2);
  EXPECT_EQ(broken.checkpoints.back().checkpoint().step(), 2);
  EXPECT_EQ(Final(Run(start, nullptr, "W4A4:1:9:1")).checkpoint().sha256(), want) << "the crash is wished for in generation 1 only";
}

TEST_F(TrainerTest, AChainOfStagesFromReluToFourBits) {
  v1::StartTrainer start = Start(2, 32, 32);
  start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU);
  std::string parent = Final(Run(start)).path();
  for (const int activation_bits : {32, 4}) {
    start = Start(2, 4, activation_bits);
    start.mutable_spec()->set_parent("parent");
    start.mutable_spec()->set_calibration(activation_bits == 32 ? v1::ACTIVATION_CALIBRATION_PERCENTILE : v1::ACTIVATION_CALIBRATION_NONE);
    start.mutable_spec()->set_carry_momentum(activation_bits == 4);
    start.set_parent_path(parent);
    const Outcome outcome = Run(start);
    parent = Final(outcome).path();
    EXPECT_GT(outcome.epochs.back().test_top1(), 30) << "ten classes that a line tells apart";
  }
}

// Full precision, then two pair stages, the second of which finds both nets in the first's checkpoint, is killed at a step and goes on.
TEST_F(TrainerTest, AChainOfGuidedPairsResumesBitForBit) {
  const std::string full = FullPrecisionParent(2);
  for (const v1::TeacherStart teacher : {v1::TEACHER_START_CARRY, v1::TEACHER_START_RESET}) {
    SCOPED_TRACE(v1::TeacherStart_Name(teacher));
    v1::StartTrainer start = GuidedStart(2, 4, 32, full);
    start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
    start.mutable_spec()->mutable_guided()->set_teacher(teacher);
    const v1::TrainerCheckpoint first = Final(Run(start));

    start = GuidedStart(2, 4, 4, first.path());
    start.mutable_spec()->set_carry_momentum(true);
    start.mutable_spec()->mutable_guided()->set_teacher(teacher);
    const Outcome undisturbed = Run(start);
    const v1::TrainerCheckpoint want = Final(undisturbed);
    EXPECT_EQ(LastDigest(undisturbed.logs[0]), LastDigest(undisturbed.logs[1]));
    EXPECT_GT(undisturbed.epochs.back().test_top1(), 30);
    EXPECT_GT(undisturbed.epochs.back().teacher().test_top1(), 30);
    EXPECT_GT(undisturbed.epochs.back().teacher().hint(), 0);
    EXPECT_GT(undisturbed.epochs.back().teacher().train_loss(), 0);

    start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
    const Outcome broken = Run(start, nullptr, "W4A4:1:9:1");
    EXPECT_EQ(broken.exits[1], -SIGKILL);
    EXPECT_EQ(broken.results[0].cause(), v1::EXIT_CAUSE_PEER_LOST) << Problems(broken);
    EXPECT_EQ(broken.checkpoints.back().checkpoint().step(), 2);
    start.set_resume_path(broken.checkpoints.back().path());
    start.mutable_attempt()->set_generation(2);
    const Outcome resumed = Run(start, nullptr, "W4A4:1:9:1");
    EXPECT_EQ(Final(resumed).checkpoint().sha256(), want.checkpoint().sha256());
    // Also what is reported of the epoch that was cut in two.
    EXPECT_EQ(resumed.epochs.back().teacher().SerializeAsString(), undisturbed.epochs.back().teacher().SerializeAsString());

    const core::Checkpoint before = Load(first.path()), after = Load(want.path());
    for (const char* name : {"full/conv2.weight", "full/momentum/conv2.weight", "full/rank1/bn1.running_mean", "full/bn1.running_mean"}) {
      ASSERT_TRUE(after.tensors.contains(name)) << name;
      EXPECT_FALSE(after.tensors.at(name).equal(before.tensors.at(name))) << name;
    }
    EXPECT_EQ(after.tensors.contains("full/start/conv2.weight"), teacher == v1::TEACHER_START_RESET);
    if (teacher != v1::TEACHER_START_RESET) continue;
    for (const char* name : {"full/start/conv2.weight", "full/start/bn1.weight", "full/start/bn1.running_mean"}) {
      EXPECT_TRUE(after.tensors.at(name).equal(before.tensors.at(name))) << name;
    }
  }
}

// A teacher and two students, and layers that are quantised by chance, through two stages and a killed rank.
TEST_F(TrainerTest, AChainOfDistillationsWithStochasticPrecisionResumesBitForBit) {
  const auto distilling = [&](int activation_bits, const std::string& parent) {
    v1::StartTrainer start = GuidedStart(2, 4, activation_bits, parent);
    start.mutable_spec()->clear_guided();
    v1::DistillationSpec& options = *start.mutable_spec()->mutable_distillation();
    options.set_temperature(2);
    options.set_student_weight(0.5);
    options.set_teacher_weight(0.5);
    options.set_teacher_learning_rate_factor(0.2);
    options.set_teacher(v1::TEACHER_START_CARRY);
    options.add_students(2);
    start.mutable_spec()->mutable_stochastic_precision()->set_start_share(0.5);
    start.mutable_spec()->mutable_stochastic_precision()->set_full_share_at(0.8);
    return start;
  };
  v1::StartTrainer start = distilling(32, FullPrecisionParent(2));
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const v1::TrainerCheckpoint first = Final(Run(start));

  start = distilling(4, first.path());
  start.mutable_spec()->set_carry_momentum(true);
  const Outcome undisturbed = Run(start);
  const v1::TrainerCheckpoint want = Final(undisturbed);
  ASSERT_FALSE(undisturbed.epochs.empty()) << Problems(undisturbed);
  EXPECT_EQ(LastDigest(undisturbed.logs[0]), LastDigest(undisturbed.logs[1]));
  const v1::EpochResult& last = undisturbed.epochs.back();
  EXPECT_GT(last.test_top1(), 30);
  EXPECT_GT(last.teacher().test_top1(), 30);
  EXPECT_GT(last.teacher().divergence(), 0);
  ASSERT_EQ(last.students_size(), 1);
  EXPECT_EQ(last.students(0).name(), "W2A2");
  EXPECT_GT(last.students(0).test_top1(), 15);
  EXPECT_GT(last.students(0).train_loss(), 0);

  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  const Outcome broken = Run(start, nullptr, "W4A4:1:9:1");
  EXPECT_EQ(broken.exits[1], -SIGKILL);
  ASSERT_FALSE(broken.checkpoints.empty()) << Problems(broken);
  start.set_resume_path(broken.checkpoints.back().path());
  start.mutable_attempt()->set_generation(2);
  const Outcome resumed = Run(start, nullptr, "W4A4:1:9:1");
  EXPECT_EQ(Final(resumed).checkpoint().sha256(), want.checkpoint().sha256());
  EXPECT_EQ(resumed.epochs.back().teacher().SerializeAsString(), last.teacher().SerializeAsString());
  EXPECT_EQ(resumed.epochs.back().students(0).SerializeAsString(), last.students(0).SerializeAsString());
  ASSERT_EQ(resumed.epochs.back().layers_size(), last.layers_size());
  for (int i = 0; i < last.layers_size(); ++i) {
    EXPECT_EQ(resumed.epochs.back().layers(i).SerializeAsString(), last.layers(i).SerializeAsString());
  }
  const core::Checkpoint before = Load(first.path()), after = Load(want.path());
  for (const char* name : {"full/conv2.weight", "student2/conv2.weight", "student2/momentum/conv2.weight", "student2/bn1.running_mean"}) {
    ASSERT_TRUE(after.tensors.contains(name)) << name;
    EXPECT_FALSE(after.tensors.at(name).equal(before.tensors.at(name))) << name;
  }
}

// Every layer is quantised at every step where the share begins at 1: the same weights as without; only the statistics are estimated anew.
TEST_F(TrainerTest, StochasticPrecisionWithAFullShareTrainsTheSameWeights) {
  v1::StartTrainer start = Start(1);
  const Outcome plain = Run(start);
  start.mutable_spec()->mutable_stochastic_precision()->set_start_share(1);
  start.mutable_spec()->mutable_stochastic_precision()->set_full_share_at(1);
  const Outcome full = Run(start);
  start.mutable_spec()->mutable_stochastic_precision()->set_start_share(0);
  const Outcome other = Run(start);
  const core::Checkpoint want = Load(Final(plain).path()), have = Load(Final(full).path()), changed = Load(Final(other).path());
  for (const char* name : {"conv1.weight", "conv2.weight", "fc1.weight", "bn3.weight", "fc2.bias"}) {
    EXPECT_TRUE(have.tensors.at(name).equal(want.tensors.at(name))) << name;
    EXPECT_FALSE(changed.tensors.at(name).equal(want.tensors.at(name))) << name;
  }
  EXPECT_FALSE(have.tensors.at("bn1.running_mean").equal(want.tensors.at("bn1.running_mean")));
}

// What is told of the layers does not depend on the numerics where it follows from codes, nor on the number of ranks where it is a sum.
TEST_F(TrainerTest, AnEpochTellsOfItsLayers) {
  const std::string full = FullPrecisionParent(2);
  v1::StartTrainer start = GuidedStart(2, 4, 4, full);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  const Outcome outcome = Run(start);
  ASSERT_EQ(outcome.epochs.size(), 2U) << Problems(outcome);
  for (const v1::EpochResult& epoch : outcome.epochs) {
    int clips = 0, levels = 0, gradients = 0, hints = 0, of_full = 0;
    for (const v1::LayerTelemetry& layer : epoch.layers()) {
      SCOPED_TRACE(layer.ShortDebugString());
      of_full += layer.net() == "full" ? 1 : 0;
      if (layer.has_clipped_share()) {
        ++clips;
        EXPECT_GE(layer.clipped_share(), 0);
        EXPECT_LT(layer.clipped_share(), 1);
      }
      if (layer.levels_size() > 0) {
        ++levels;
        ASSERT_EQ(layer.levels_size(), layer.level_shares_size());
        EXPECT_LE(layer.levels_size(), 16);
        float sum = 0;
        for (const float share : layer.level_shares()) sum += share;
        EXPECT_NEAR(sum, 1, 1e-5);
        for (const int code : layer.levels()) EXPECT_TRUE(code % 2 != 0 && code >= -15 && code <= 15) << code;
      }
      if (layer.has_gradient_norm()) {
        ++gradients;
        EXPECT_GT(layer.gradient_norm(), 0);
      }
      if (layer.has_hint_distance()) {
        ++hints;
        EXPECT_EQ(layer.net(), "");
        EXPECT_GT(layer.hint_distance(), 0);
      }
    }
    EXPECT_EQ(clips, 8) << "four activations of each net";
    EXPECT_EQ(levels, 3);
    EXPECT_EQ(gradients, 10) << "five layers of each net";
    EXPECT_EQ(hints, 2);
    EXPECT_EQ(of_full, 9);
  }
}

// With lambda 0 the pair's low-precision net is the net alone, bit for bit, on two ranks too.
TEST_F(TrainerTest, AGuidedPairWithoutAHintTrainsTheNetAlone) {
  const std::string full = FullPrecisionParent(2);
  v1::StartTrainer start = GuidedStart(2, 4, 4, full);
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  start.mutable_spec()->mutable_guided()->set_lambda(0);
  const Outcome pair = Run(start);
  start.mutable_spec()->clear_guided();
  const Outcome alone = Run(start);
  const core::Checkpoint with = Load(Final(pair).path()), without = Load(Final(alone).path());
  for (const auto& [name, tensor] : without.tensors) EXPECT_TRUE(with.tensors.at(name).equal(tensor)) << name;
  EXPECT_EQ(pair.epochs.back().test_loss(), alone.epochs.back().test_loss());
  EXPECT_FALSE(alone.epochs.back().has_teacher());
  EXPECT_GT(pair.all_reduce_bytes, alone.all_reduce_bytes) << "the full-precision net's gradients travel, too";
}

TEST_F(TrainerTest, AGuidedPairThatCannotBeIsRefused) {
  const std::string full = FullPrecisionParent(1);
  v1::StartTrainer start = GuidedStart(1, 4, 4, full);
  start.mutable_spec()->mutable_guided()->add_hint_points("layer3");
  Outcome outcome = Run(start);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("network convnet28 has no hint point \"layer3\"; known: conv1, conv2, conv3, fc1"));

  // A parent of few bits that is no pair has no full-precision net.
  v1::StartTrainer parent = Start(1);
  const std::string low = Final(Run(parent)).path();
  outcome = Run(GuidedStart(1, 2, 2, low));
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("the parent W4A4 is neither a full-precision stage nor one with a full-precision net beside it"));
}

TEST_F(TrainerTest, ALossOfAPairThatIsNotFiniteNamesTheNet) {
  v1::StartTrainer start = GuidedStart(2, 4, 4, FullPrecisionParent(2));
  start.mutable_spec()->mutable_guided()->set_teacher_learning_rate_factor(1e32);
  const Outcome outcome = Run(start);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(outcome.results[rank].cause(), v1::EXIT_CAUSE_FAILED) << Problems(outcome);
    EXPECT_THAT(outcome.results[rank].message(), AllOf(HasSubstr("stage W4A4 epoch 1 step "), HasSubstr("full-precision net: ")));
  }
}

TEST_F(TrainerTest, BadDataIsNamed) {
  std::filesystem::resize_file(folder_ + "/data/t10k-images-idx3-ubyte", 1000);
  const Outcome outcome = Run(Start(1));
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("t10k-images-idx3-ubyte: byte "));
  EXPECT_EQ(outcome.exits[0], 1);
}

// An image folder of two classes: 8 training pictures and 4 test pictures of different sizes.
class PictureTrainerTest : public TrainerTest {
 protected:
  PictureTrainerTest() : pictures_("trainer_pictures") {
    for (int i = 0; i < 12; ++i) {
      pictures_.Write(absl::StrCat(i < 8 ? "train/" : "val/", i % 2 == 0 ? "n01" : "n02", "/", i, ".JPEG"), core::EncodeJpeg(240 + 20 * i, 300 - 10 * i));
    }
  }
  v1::StartTrainer Start(int ranks, int weight_bits = 4, int activation_bits = 4) {
    v1::StartTrainer start = TrainerTest::Start(ranks, weight_bits, activation_bits);
    start.mutable_spec()->set_network("resnet18");
    start.mutable_spec()->set_numerics(v1::NUMERICS_FAST);
    start.mutable_spec()->set_batch_size(4);
    start.set_data_path(pictures_.path());
    return start;
  }
  // In the middle of its data.
  void Truncate(const std::string& file) { std::filesystem::resize_file(pictures_.path(file), 2000); }

  core::PictureFolder pictures_;
};

TEST_F(PictureTrainerTest, AStoppedGangResumesBitForBit) {
  v1::StartTrainer start = Start(2);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(1);
  const Outcome undisturbed = Run(start);
  const std::string want = Final(undisturbed).checkpoint().sha256();
  ASSERT_EQ(undisturbed.epochs.size(), 2u);
  EXPECT_EQ(undisturbed.epochs[0].skipped_images(), 0);
  const auto middle = std::find_if(undisturbed.checkpoints.begin(), undisturbed.checkpoints.end(),
                                   [](const v1::TrainerCheckpoint& c) { return c.checkpoint().epoch() == 0 && c.checkpoint().step() == 1; });
  ASSERT_NE(middle, undisturbed.checkpoints.end());
  start.set_resume_path(middle->path());
  start.mutable_attempt()->set_generation(2);
  start.mutable_slot()->set_threads(1);
  EXPECT_EQ(Final(Run(start)).checkpoint().sha256(), want);
}

TEST_F(PictureTrainerTest, AnUnreadableTrainingPictureIsNamedAndEndsTheGang) {
  Truncate("train/n02/5.JPEG");
  const Outcome outcome = Run(Start(2));
  // All ranks have taken part in the step, and each tells the whole story.
  for (const v1::TrainerResult& result : outcome.results) {
    EXPECT_EQ(result.cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
    EXPECT_THAT(result.message(), HasSubstr(": " + pictures_.path("train/n02/5.JPEG") + ": byte 2000: the JPEG data is truncated"));
    EXPECT_EQ(result.message(), outcome.results[0].message());
  }
}

TEST_F(PictureTrainerTest, AnUnreadableTestPictureIsNamed) {
  Truncate("val/n01/8.JPEG");
  const Outcome outcome = Run(Start(2));
  for (const v1::TrainerResult& result : outcome.results) {
    EXPECT_EQ(result.cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
    EXPECT_THAT(result.message(), HasSubstr("rank 1: " + pictures_.path("val/n01/8.JPEG")));
  }
}

TEST_F(PictureTrainerTest, UnreadablePicturesAreSkippedAndCountedIfTheRecipeSaysSo) {
  Truncate("train/n02/5.JPEG");
  Truncate("val/n01/8.JPEG");
  v1::StartTrainer start = Start(2);
  start.mutable_spec()->mutable_data()->set_unreadable_images(v1::UNREADABLE_IMAGES_SKIP);
  const Outcome outcome = Run(start);
  Final(outcome);
  ASSERT_EQ(outcome.epochs.size(), 2u);
  for (const v1::EpochResult& epoch : outcome.epochs) EXPECT_EQ(epoch.skipped_images(), 2);
  EXPECT_THAT(outcome.logs[0] + outcome.logs[1], HasSubstr("skipped an image: " + pictures_.path("train/n02/5.JPEG")));
}

TEST_F(PictureTrainerTest, FaultsOfTheFoldersAreNamed) {
  const auto message = [&] {
    const Outcome outcome = Run(Start(1));
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
    return outcome.results[0].message();
  };
  pictures_.Write("val/n03/1.JPEG", core::EncodeJpeg(30, 30));
  EXPECT_THAT(message(), HasSubstr("number of classes (2 and 3)"));
  std::filesystem::remove_all(pictures_.path("val/n02"));
  EXPECT_THAT(message(), HasSubstr("class 1 is n02 in the training images and n03 in the test images"));
  std::filesystem::create_directory(pictures_.path("train/n03"));
  EXPECT_THAT(message(), HasSubstr("class folder " + pictures_.path("train/n03") + " has no images"));
  std::filesystem::remove_all(pictures_.path("train"));
  std::filesystem::create_directory(pictures_.path("train"));
  EXPECT_THAT(message(), HasSubstr(pictures_.path("train") + " has no class folders"));
}

TEST_F(PictureTrainerTest, APictureThatCalibrationCannotReadIsAFaultOfTheDataAndNotOfTheCheckpoint) {
  v1::StartTrainer start = Start(1, 32, 32);
  start.mutable_spec()->set_activation(v1::ACTIVATION_FUNCTION_RELU);
  start.mutable_spec()->set_epochs(1);
  const std::string parent = Final(Run(start)).path();
  Truncate("train/n02/5.JPEG");
  start = Start(1);
  start.mutable_spec()->set_parent("parent");
  start.mutable_spec()->set_calibration(v1::ACTIVATION_CALIBRATION_PERCENTILE);
  start.set_parent_path(parent);
  const Outcome outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_DATA) << Problems(outcome);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("train/n02/5.JPEG"));
}

TEST_F(TrainerTest, BadCheckpointsAreNamed) {
  v1::StartTrainer start = Start(1);
  std::ofstream(folder_ + "/broken.safetensors") << "nonsense";
  start.set_resume_path(folder_ + "/broken.safetensors");
  Outcome outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("broken.safetensors: byte 0"));

  // A checkpoint of another stage, and one that lacks a tensor.
  core::Checkpoint other;
  other.stage_key = "other";
  other.stage_name = "W2A2";
  other.network = "convnet28";
  other.final = true;
  start.set_resume_path(core::SaveCheckpoint(folder_, other, "cpu")->path);
  outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("the checkpoint is of stage W2A2"));
  start.set_parent_path(start.resume_path());
  start.clear_resume_path();
  outcome = Run(start);
  EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(outcome.results[0].message(), HasSubstr("is missing"));
}

TEST_F(TrainerTest, ALossThatIsNotFiniteFailsAllRanksAtTheStep) {
  v1::StartTrainer start = Start(2, 32, 32);
  start.mutable_spec()->set_learning_rate(1e30);
  const Outcome outcome = Run(start);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(outcome.results[rank].cause(), v1::EXIT_CAUSE_FAILED) << Problems(outcome);
    EXPECT_THAT(outcome.results[rank].message(), HasSubstr("stage W32A32 epoch 1 step "));
    EXPECT_EQ(outcome.exits[rank], 1);
  }
}

TEST_F(TrainerTest, StartMessagesThatMakeNoSenseFail) {
  for (const auto& spoil : std::vector<std::function<void(v1::StartTrainer&)>>{
           [](v1::StartTrainer& s) { s.mutable_spec()->set_weight_bits(9); }, [](v1::StartTrainer& s) { s.mutable_spec()->set_network("alexnet"); },
           [](v1::StartTrainer& s) { s.mutable_spec()->set_epochs(0); },
           [](v1::StartTrainer& s) { s.mutable_slot()->set_kind(v1::SLOT_KIND_GPU), s.mutable_slot()->set_index(99); }}) {
    v1::StartTrainer start = Start(1);
    spoil(start);
    const Outcome outcome = Run(start);
    EXPECT_EQ(outcome.results[0].cause(), v1::EXIT_CAUSE_FAILED);
    EXPECT_NE(outcome.results[0].message(), "");
    EXPECT_EQ(outcome.exits[0], 1);
  }
}

TEST_F(TrainerTest, LeavesWithinASecondOfItsWorker) {
  v1::StartTrainer start = Start(1);
  start.mutable_spec()->set_epochs(1000);
  start.mutable_spec()->set_schedule_epochs(1000);
  for (const bool garbage : {false, true}) {
    Process process(folder_ + "/log");
    v1::ToTrainer message;
    *message.mutable_start() = start;
    process.Send(message);
    std::vector<v1::FromTrainer> messages;
    const auto trains = [&] { return std::any_of(messages.begin(), messages.end(), [](const v1::FromTrainer& m) { return m.has_progress(); }); };
    for (const auto end = Clock::now() + kDeadline; !trains() && Clock::now() < end;) ASSERT_TRUE(process.Read(std::chrono::milliseconds(50), &messages));
    ASSERT_TRUE(trains());
    const auto closed = Clock::now();
    if (garbage) {
      process.SendBytes(std::string(64, '\xff'));
    } else {
      process.CloseSocket();
    }
    EXPECT_EQ(process.Wait(), kExitWorkerGone) << process.Log();
    EXPECT_LT(Clock::now() - closed, std::chrono::milliseconds(1500));
  }
}

TEST_F(TrainerTest, AStopBeforeTheStartIsObeyed) {
  Process process(folder_ + "/log");
  v1::ToTrainer stop;
  stop.mutable_stop();
  process.Send(stop);
  EXPECT_EQ(process.Wait(), 0) << process.Log();
}

}  // namespace
}  // namespace bitstair::trainer
