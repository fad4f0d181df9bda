// bitstair-trainer: one rank of one stage. Started by bitstair-worker, which tells it everything over a socket.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include "core/version/version.h"
#include "server/daemon/daemon.h"
#include "worker/trainer/trainer.h"
#include "worker/trainer/worker_channel.h"

namespace {

constexpr std::chrono::seconds kStartTimeout{60};
constexpr std::chrono::seconds kFlushTimeout{5};

constexpr char kExamples[] = R"(
Not for people: bitstair-worker starts one for each rank of a stage and passes it one end of a socket pair.

Examples:
  bitstair-trainer --socket-fd 3 --log-level debug    as a worker starts it
  bitstair-trainer --version

Exit status: 0 the stage is done or was stopped as asked, 1 it failed, 2 wrong usage, 3 the worker went away.
)";

bool IsGood(const bitstair::v1::TrainerResult& result) {
  return result.cause() == bitstair::v1::EXIT_CAUSE_FINISHED || result.cause() == bitstair::v1::EXIT_CAUSE_STOPPED;
}

bitstair::v1::TrainerResult RunStage(bitstair::trainer::WorkerChannel& channel) {
  bitstair::v1::FromTrainer running;
  running.mutable_running()->set_pid(getpid());
  channel.Send(running);
  absl::StatusOr<bitstair::v1::StartTrainer> start = channel.WaitForStart(kStartTimeout);
  bitstair::v1::TrainerResult result;
  if (start.ok()) {
    auto trainer = std::make_unique<bitstair::trainer::Trainer>(*std::move(start), channel);
    result = trainer->Run();
    // After a failure NCCL may wait for a peer that is gone, in its destructors too: the worker must not wait for that.
    if (!IsGood(result)) static_cast<void>(trainer.release());
    return result;
  }
  result.set_cause(absl::IsCancelled(start.status()) ? bitstair::v1::EXIT_CAUSE_STOPPED : bitstair::v1::EXIT_CAUSE_FAILED);
  result.set_message(std::string(start.status().message()));
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains one rank of one stage for a bitstair-worker.", "bitstair-trainer");
  app.footer(kExamples);
  app.set_version_flag("--version", bitstair::core::VersionText("bitstair-trainer"));
  int socket_fd = -1;
  std::string log_level = "info";
  app.add_option("--socket-fd", socket_fd, "descriptor of the socket to the worker")->required()->check(CLI::NonNegativeNumber);
  app.add_option("--log-level", log_level, "trace, debug, info, warn or error")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const absl::Status status = bitstair::daemon::SetUpLogging("trainer", log_level); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 2;
  }
  // A lost peer or worker is an error of a call, not a signal.
  std::signal(SIGPIPE, SIG_IGN);

  bitstair::v1::FromTrainer last;
  bitstair::trainer::WorkerChannel channel(socket_fd);
  *last.mutable_result() = RunStage(channel);
  channel.Send(last);
  channel.Flush(kFlushTimeout);
  spdlog::shutdown();
  // At once: threads of LibTorch and Gloo may still wait for peers, and nothing is left to be written.
  _exit(IsGood(last.result()) ? 0 : 1);
}
