// Runs gangs of the real bitstair-trainer, with the test as their worker, on a small data set of 28x28 images.
// With BITSTAIR_TEST_GPUS=N in the environment and the preset `cuda`, ranks have GPU slots: rank r that of GPU r mod N (docs/guide/gpus.md). The trainer is
// that of this build, or BITSTAIR_TEST_TRAINER.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "bitstair/v1/trainer.pb.h"
#include "core/checkpoint/checkpoint.h"
#include "core/digest/sha256.h"
#include "core/random/philox.h"
#include "worker/trainer_frames.h"

namespace bitstair::trainer {

using Clock = std::chrono::steady_clock;
inline constexpr std::chrono::seconds kDeadline{60};

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
    const char* const elsewhere = std::getenv("BITSTAIR_TEST_TRAINER");
    EXPECT_EQ(posix_spawn(&pid_, elsewhere != nullptr ? elsewhere : BITSTAIR_TRAINER, &actions, nullptr, arguments, env.data()), 0);
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

// What is reported of the epochs, but for what differs between two runs: times and memory.
inline std::vector<std::string> Reported(const Outcome& outcome) {
  std::vector<std::string> reported;
  for (v1::EpochResult epoch : outcome.epochs) {
    epoch.clear_seconds();
    epoch.clear_images_per_second();
    epoch.clear_data_wait_seconds();
    epoch.clear_peak_memory_bytes();
    epoch.clear_step_seconds();
    reported.push_back(epoch.ShortDebugString());
  }
  return reported;
}

// Of the checkpoints, in order.
inline std::vector<std::string> Digests(const Outcome& outcome) {
  std::vector<std::string> digests;
  for (const v1::TrainerCheckpoint& checkpoint : outcome.checkpoints) digests.push_back(checkpoint.checkpoint().sha256());
  return digests;
}

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
      if (Gpus() > 0 && start.slot().kind() == v1::SLOT_KIND_CPU) {
        message.mutable_start()->mutable_slot()->set_kind(v1::SLOT_KIND_GPU);
        message.mutable_start()->mutable_slot()->set_index(rank % Gpus());
      }
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

  static int Gpus() {
    const char* const gpus = std::getenv("BITSTAIR_TEST_GPUS");
    return gpus == nullptr ? 0 : std::atoi(gpus);
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

}  // namespace bitstair::trainer
