// A trainer that trains nothing: speaks the frames of proto/bitstair/v1/trainer.proto and then behaves as the stage's name says.
//   finish       one epoch, rank 0's final checkpoint, a result
//   wait         beats until it is told to stop; then a checkpoint and a result. With "-saved": a checkpoint at the start too
//   crash        the last rank writes 30 lines and aborts; the others wait
//   exit3        leaves with status 3 and no result
//   hang         declares a phase of 0.3 s and never ends it
//   starved      declares a phase of 1 s and needs half a second of a processor that it shares with four others, then leaves with a result
//   silent       says nothing more
//   stubborn     beats, but does not hear
//   garbage      breaks the framing
//   bad_data     reports a faulty file
// Started with --orphan it also leaves a child in its process group that holds the log pipe open.
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "bitstair/v1/trainer.pb.h"
#include "core/digest/sha256.h"
#include "worker/trainer_frames.h"

namespace {

namespace v1 = bitstair::v1;

class Link {
 public:
  explicit Link(int fd) : fd_(fd) {}

  void Send(const v1::FromTrainer& message) { SendBytes(bitstair::worker::EncodeTrainerFrame(message)); }

  void SendBytes(const std::string& bytes) {
    if (write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) _exit(9);
  }

  // Nothing if none came in time. Leaves when the worker is gone.
  std::optional<v1::ToTrainer> Receive(int timeout_ms) {
    while (true) {
      v1::ToTrainer message;
      const auto more = decoder_.Next(&message);
      if (!more.ok()) _exit(8);
      if (*more) return message;
      pollfd entry{fd_, POLLIN, 0};
      if (poll(&entry, 1, timeout_ms) == 0) return std::nullopt;
      char buffer[4096];
      const ssize_t got = read(fd_, buffer, sizeof(buffer));
      if (got <= 0) _exit(7);
      decoder_.Append(absl::string_view(buffer, static_cast<size_t>(got)));
    }
  }

 private:
  const int fd_;
  bitstair::worker::TrainerFrameDecoder decoder_;
};

void SaveCheckpoint(Link& link, const v1::StartTrainer& start, bool final, int epoch) {
  const std::string bytes = "checkpoint of " + start.spec().name() + " generation " + std::to_string(start.attempt().generation()) + " epoch " +
                            std::to_string(epoch) + std::string(300'000, final ? 'f' : 'c');
  const std::string path = start.checkpoint_dir() + "/" + std::to_string(epoch) + (final ? "-final" : "") + ".safetensors";
  std::ofstream(path, std::ios::binary) << bytes;
  v1::FromTrainer message;
  message.mutable_checkpoint()->set_path(path);
  v1::Checkpoint& checkpoint = *message.mutable_checkpoint()->mutable_checkpoint();
  checkpoint.set_sha256(bitstair::core::Sha256Hex(bytes));
  checkpoint.set_size_bytes(static_cast<int64_t>(bytes.size()));
  checkpoint.set_epoch(epoch);
  checkpoint.set_final(final);
  link.Send(message);
}

int Leave(Link& link, v1::ExitCause cause, const std::string& text, int status) {
  v1::FromTrainer message;
  message.mutable_result()->set_cause(cause);
  message.mutable_result()->set_message(text);
  link.Send(message);
  return status;
}

void DescribeSelf(const v1::StartTrainer& start) {
  std::fprintf(stderr, "rank %d of %d, threads %s, gloo %s, data %s\n", start.rank(), start.world_size(), getenv("OMP_NUM_THREADS"),
               getenv("GLOO_TEST") != nullptr ? getenv("GLOO_TEST") : "unset", start.data_path().c_str());
  std::string descriptors;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const std::string number = entry.path().filename().string();
    if (access(entry.path().c_str(), F_OK) == 0 && std::stoi(number) > 3)
      descriptors += " " + number + "=" + std::filesystem::read_symlink(entry.path()).string();
  }
  // The listing's own descriptor is a folder under /proc.
  std::fprintf(stderr, "descriptors above 3:%s.\n", descriptors.c_str());
  std::fprintf(stderr, "own process group: %d\n", getpgid(0) == getpid());
  for (const std::string& path : {start.resume_path(), start.parent_path()}) {
    if (path.empty()) continue;
    const auto digest = bitstair::core::Sha256OfFile(path);
    std::fprintf(stderr, "starts from %s\n", digest.ok() ? digest->sha256.c_str() : "nothing readable");
  }
}

int Behave(Link& link, const v1::StartTrainer& start) {
  const std::string name = start.spec().name();
  const auto is = [&](const char* behaviour) { return name.find(behaviour) != std::string::npos; };
  v1::FromTrainer beat;
  beat.mutable_beat();
  if (is("finish")) {
    if (start.rank() == 0) {
      v1::FromTrainer message;
      message.mutable_epoch()->set_epoch(1);
      message.mutable_epoch()->set_test_top1(50);
      link.Send(message);
      SaveCheckpoint(link, start, true, 1);
    }
    return Leave(link, v1::EXIT_CAUSE_FINISHED, "", 0);
  }
  if (is("crash") && start.rank() == start.world_size() - 1) {
    for (int i = 1; i <= 30; ++i) std::fprintf(stderr, "line %d\n", i);
    std::abort();
  }
  if (is("exit3")) return 3;
  if (is("hang")) {
    v1::FromTrainer message;
    message.mutable_phase()->set_phase("evaluate");
    message.mutable_phase()->set_deadline_seconds(0.3);
    link.Send(message);
  }
  if (is("starved") || is("idle_class")) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    // At a stretch: others that are always ready leave a thread of the idle class next to nothing, for this long.
    const bool stretch = !is("starved");
    const auto end_of_others = std::chrono::steady_clock::now() + (stretch ? std::chrono::milliseconds(2500) : std::chrono::minutes(1));
    for (int i = 0; i < (stretch ? 8 : 4); ++i) {
      if (fork() != 0) continue;
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (std::chrono::steady_clock::now() < end_of_others) continue;
      _exit(0);
    }
    v1::FromTrainer message;
    message.mutable_phase()->set_phase("train");
    message.mutable_phase()->set_deadline_seconds(1);
    link.Send(message);
    const sched_param none{};
    if (stretch) sched_setscheduler(0, SCHED_IDLE, &none);
    for (const clock_t end = clock() + CLOCKS_PER_SEC / (stretch ? 50 : 2); clock() < end;) continue;
    return Leave(link, v1::EXIT_CAUSE_FINISHED, "", 0);
  }
  if (is("garbage")) link.SendBytes("\xff\xff\xff\xff and more");
  if (is("bad_data")) return Leave(link, v1::EXIT_CAUSE_BAD_DATA, "train-labels-idx1-ubyte: byte 12: label 11 is out of range", 1);
  if (is("silent")) {
    while (true) link.Receive(1000);
  }
  if (is("saved") && start.rank() == 0) SaveCheckpoint(link, start, false, 1);
  while (true) {
    const auto message = link.Receive(100);
    if (message.has_value() && message->has_stop() && !is("stubborn")) break;
    if (!message.has_value()) link.Send(beat);
  }
  if (start.rank() == 0) SaveCheckpoint(link, start, false, 2);
  return Leave(link, v1::EXIT_CAUSE_STOPPED, "stopped at epoch 2", 0);
}

}  // namespace

int main(int argc, char** argv) {
  int fd = -1;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--socket-fd") == 0 && i + 1 < argc) fd = std::atoi(argv[++i]);
    if (std::strcmp(argv[i], "--orphan") == 0 && fork() == 0) {
      pause();
      _exit(0);
    }
  }
  if (fd < 0) return 2;
  Link link(fd);
  const auto first = link.Receive(10'000);
  if (!first.has_value() || !first->has_start()) return 2;
  const v1::StartTrainer& start = first->start();
  DescribeSelf(start);
  v1::FromTrainer message;
  message.mutable_phase()->set_phase("rendezvous");
  message.mutable_phase()->set_deadline_seconds(20);
  link.Send(message);
  if (start.rank() == 0) {
    *message.mutable_rendezvous_ready()->mutable_attempt() = start.attempt();
    message.mutable_rendezvous_ready()->set_address(start.data_address() + ":4711");
    link.Send(message);
  } else {
    const auto rendezvous = link.Receive(20'000);
    if (!rendezvous.has_value() || !rendezvous->has_rendezvous()) return 2;
    std::fprintf(stderr, "rendezvous at %s\n", rendezvous->rendezvous().address().c_str());
  }
  message.mutable_phase()->set_phase("train");
  message.mutable_phase()->set_deadline_seconds(600);
  link.Send(message);
  message.mutable_running()->set_pid(getpid());
  link.Send(message);
  if (start.rank() == 0) {
    message.mutable_progress()->set_epoch(1);
    message.mutable_progress()->set_loss(2.5);
    message.mutable_progress()->set_images_per_second(1000);
    link.Send(message);
  }
  return Behave(link, start);
}
