// bitstair-worker: flags, then the agent (worker/agent.h).
#include <arpa/inet.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

extern "C" {
#include <sys/pidfd.h>  // of glibc 2.36: not ready for C++ by itself
}

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/files/durable_file.h"
#include "core/version/version.h"
#include "server/daemon/daemon.h"
#include "worker/agent.h"
#include "worker/datasets.h"
#include "worker/devices.h"
#include "worker/identity.h"
#include "worker/metrics.h"
#include "worker/named_folders.h"

namespace bitstair::worker {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

constexpr int kUsageError = 2;

constexpr char kExamples[] = R"(Examples:
  bitstair-worker --coordinator 127.0.0.1:7420 --state-dir /var/lib/bitstair/worker --data cifar100=/data/cifar100
  bitstair-worker --coordinator 127.0.0.1:7420 --state-dir ~/worker --slots 2 --data-root /data

The worker connects to the coordinator, offers its slots and data sets, and runs the trainers it is told to. It keeps trying while the coordinator is away.
SIGTERM lets its trainers take a checkpoint, then it leaves; a second SIGTERM ends them at once. Exit status: 0 left as asked, 1 failed, 2 wrong usage or
unusable state folder, data folder or port.)";

struct Flags {
  std::string coordinator = "127.0.0.1:7420";
  std::string state_dir;
  std::string name;
  int slots = 0;
  std::vector<std::string> data;
  std::vector<std::string> data_roots;
  std::string data_address = "127.0.0.1";
  std::string metrics_listen = "127.0.0.1:0";
  int ready_fd = -1;
  int exit_with_pid = 0;
  bool embedded = false;
  std::string trainer;
  bool tls = false;
  std::string tls_ca;
  std::string join_token_file;
  std::string data_plane = "loopback";
  bool insecure = false;
  bool insecure_metrics = false;
  std::vector<std::string> labels;
  std::string log_level = "info";
};

std::string DefaultName() {
  char name[256] = "";
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "worker";
  return name;
}

bool IsLabelText(const std::string& text) {
  return !text.empty() && text.size() <= 63 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.'; });
}

absl::StatusOr<std::map<std::string, std::string>> ParseLabels(const std::vector<std::string>& texts) {
  std::map<std::string, std::string> labels;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals), value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (!IsLabelText(key) || !IsLabelText(value)) {
      return absl::InvalidArgumentError(absl::StrCat("--label ", text, ": must be KEY=VALUE, each 1 to 63 characters of A-Z, a-z, 0-9, '-', '_' and '.'"));
    }
    if (!labels.emplace(key, value).second) return absl::InvalidArgumentError(absl::StrCat("--label ", key, " is given twice"));
  }
  return labels;
}

// The /24 that an IPv4 address lies in, as a guess of what is close to it; empty for names and loopback.
std::string SubnetOf(const std::string& address) {
  in_addr parsed{};
  if (inet_pton(AF_INET, address.c_str(), &parsed) != 1 || address.rfind("127.", 0) == 0) return "";
  return absl::StrCat(address.substr(0, address.rfind('.')), ".0/24");
}

std::string DefaultTrainer() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "bitstair-trainer").string();
}

absl::StatusOr<DatasetOptions> ParseData(const Flags& flags) {
  DatasetOptions options;
  absl::StatusOr<std::map<std::string, std::string>> named = NamedFolders(flags.data);
  if (!named.ok()) return named.status();
  options.named = *std::move(named);
  for (const std::string& root : flags.data_roots) options.roots.push_back(fs::absolute(root).string());
  if (const absl::Status status = Datasets(options).Check(); !status.ok()) return status;
  return options;
}

bool UsesTls(const Flags& flags) {
  return flags.tls || !flags.tls_ca.empty();
}

absl::Status CheckAddresses(const Flags& flags, daemon::HostPort* metrics) {
  const absl::StatusOr<daemon::HostPort> coordinator = daemon::ParseHostPort(flags.coordinator);
  if (!coordinator.ok()) return absl::InvalidArgumentError(absl::StrCat("--coordinator: ", coordinator.status().message()));
  if (coordinator->port == 0) return absl::InvalidArgumentError("--coordinator: port 0 is not an address to connect to");
  if (!daemon::IsLoopback(*coordinator) && !UsesTls(flags) && !flags.insecure) {
    return absl::PermissionDeniedError(
        absl::StrCat("refusing to talk to ", flags.coordinator,
                     " without encryption; give --tls-ca (or --tls) and --join-token-file, or --insecure on a network you trust"));
  }
  if (!flags.join_token_file.empty() && !UsesTls(flags)) {
    return absl::InvalidArgumentError("--join-token-file: a join token is not sent without encryption; give --tls-ca or --tls");
  }
  const absl::StatusOr<daemon::HostPort> listen = daemon::ParseHostPort(flags.metrics_listen);
  if (!listen.ok()) return absl::InvalidArgumentError(absl::StrCat("--metrics-listen: ", listen.status().message()));
  *metrics = *listen;
  if (const absl::Status status = daemon::CheckListenAddress(*listen, flags.insecure || flags.insecure_metrics, "--insecure-metrics"); !status.ok())
    return status;
  if (flags.data_address.empty()) return absl::InvalidArgumentError("--data-address is empty");
  if (!daemon::IsLoopback({flags.data_address, 0}) && flags.data_plane != "trusted-network") {
    return absl::PermissionDeniedError(
        absl::StrCat("--data-address ", flags.data_address,
                     ": what trainers send each other is not encrypted and not authenticated, whatever else is; give --data-plane "
                     "trusted-network if only machines you trust are on that network"));
  }
  return absl::OkStatus();
}

// Calls on_exit when the process ends. An error if there is no such process.
absl::Status WatchProcess(int pid, asio::posix::stream_descriptor* descriptor, std::function<void()> on_exit) {
  const int fd = pidfd_open(pid, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("--exit-with-pid ", pid, ": cannot watch that process"));
  descriptor->assign(fd);
  descriptor->async_wait(asio::posix::stream_descriptor::wait_read, [on_exit = std::move(on_exit)](const boost::system::error_code& error) {
    if (!error) on_exit();
  });
  return absl::OkStatus();
}

int Fail(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return kUsageError;
}

int Run(Flags flags) {
  if (const absl::Status status = daemon::SetUpLogging("worker", flags.log_level); !status.ok()) {
    std::fprintf(stderr, "bitstair-worker: --log-level: %s\n", std::string(status.message()).c_str());
    return kUsageError;
  }
  signal(SIGPIPE, SIG_IGN);
  daemon::HostPort metrics_listen;
  if (const absl::Status status = CheckAddresses(flags, &metrics_listen); !status.ok()) return Fail(status);
  absl::StatusOr<DatasetOptions> datasets = ParseData(flags);
  if (!datasets.ok()) return Fail(datasets.status());
  absl::StatusOr<std::map<std::string, std::string>> labels = ParseLabels(flags.labels);
  if (!labels.ok()) return Fail(labels.status());
  if (flags.trainer.empty()) flags.trainer = DefaultTrainer();
  if (access(flags.trainer.c_str(), X_OK) != 0) {
    return Fail(absl::NotFoundError(absl::StrCat("cannot run the trainer program ", flags.trainer, ": ", std::string(strerror(errno)), " (see --trainer)")));
  }
  if (const absl::Status status = core::MakeWritableDirectory(flags.state_dir); !status.ok()) return Fail(status);
  const absl::StatusOr<daemon::DirectoryLock> lock = daemon::DirectoryLock::Take(flags.state_dir);
  if (!lock.ok()) return Fail(lock.status());

  WorkerMetrics metrics;
  const absl::StatusOr<std::string> metrics_address = metrics.Serve(metrics_listen);
  if (!metrics_address.ok()) return Fail(metrics_address.status());
  const Devices devices = FindDevices(flags.slots);
  spdlog::info("{}", devices.summary);

  AgentOptions options;
  options.coordinator = flags.coordinator;
  options.state_dir = fs::absolute(flags.state_dir).string();
  options.name = flags.name.empty() ? DefaultName() : flags.name;
  options.slots = devices.slots;
  options.numeric_profile = devices.numeric_profile;
  options.data_address = flags.data_address;
  options.labels = *std::move(labels);
  options.hostname = DefaultName();
  options.subnet = SubnetOf(flags.data_address);
  options.metrics_address = *metrics_address;
  // Those who scrape need an address to connect to.
  if (metrics_listen.host == "0.0.0.0" || metrics_listen.host == "::") {
    options.metrics_address = absl::StrCat(options.hostname, metrics_address->substr(metrics_address->find_last_of(':')));
  }
  options.trainer_program = fs::absolute(flags.trainer).string();
  options.log_level = flags.log_level;
  options.embedded = flags.embedded;
  options.datasets = *std::move(datasets);

  asio::io_context io(1);
  std::optional<IdentityRenewal> renewal;
  if (UsesTls(flags)) {
    const absl::StatusOr<Identity> identity = Identity::Obtain({flags.coordinator, options.state_dir, flags.tls_ca, flags.join_token_file, options.name});
    if (!identity.ok()) return Fail(identity.status());
    options.credentials = identity->credentials();
    renewal.emplace(io, *identity);
  }
  absl::StatusOr<std::unique_ptr<Agent>> agent = Agent::Create(io, options, &metrics);
  if (!agent.ok()) return Fail(agent.status());

  // Ctrl-C reaches everything that a terminal started; in embedded mode the client decides what it means.
  asio::signal_set signals(io, SIGTERM, SIGHUP);
  if (flags.embedded) {
    signal(SIGINT, SIG_IGN);
  } else {
    signals.add(SIGINT);
  }
  std::function<void()> wait_for_signal = [&] {
    signals.async_wait([&](const boost::system::error_code& error, int number) {
      if (error) return;
      (*agent)->Leave(absl::StrCat("signal ", number));
      wait_for_signal();
    });
  };
  wait_for_signal();
  asio::posix::stream_descriptor watched(io);
  if (flags.exit_with_pid != 0) {
    const absl::Status status =
        WatchProcess(flags.exit_with_pid, &watched, [&] { (*agent)->Leave(absl::StrCat("process ", flags.exit_with_pid, " has ended")); });
    if (!status.ok()) return Fail(status);
  }

  int exit_status = 0;
  (*agent)->Start([&](int status) {
    exit_status = status;
    io.stop();
  });
  daemon::SignalReady(flags.ready_fd,
                      nlohmann::json({{"metrics_address", *metrics_address}, {"pid", getpid()}, {"worker", options.name}, {"slots", options.slots.size()}})
                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  io.run();
  agent->reset();
  spdlog::info("left");
  return exit_status;
}

}  // namespace
}  // namespace bitstair::worker

int main(int argc, char** argv) {
  bitstair::worker::Flags flags;
  CLI::App app("Runs trainers on this host for a Bitstair coordinator.", "bitstair-worker");
  app.footer(bitstair::worker::kExamples);
  app.set_version_flag("--version", bitstair::core::VersionText("bitstair-worker"));
  app.add_option("--coordinator", flags.coordinator, "Address of the coordinator")->type_name("HOST:PORT")->capture_default_str();
  app.add_option("--state-dir", flags.state_dir, "Folder for the worker's id, logs and cached checkpoints; one worker at a time")->type_name("DIR")->required();
  app.add_option("--name", flags.name, "Name shown to people (default: the host's name)")->type_name("NAME");
  app.add_option("--slots", flags.slots, "CPU slots; each has an equal share of the cores (default: the GPUs, else one slot per core)")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
  app.add_option("--data", flags.data, "Offer a data set by name; may be repeated")->type_name("NAME=PATH");
  app.add_option("--data-root", flags.data_roots, "Allow recipes to name folders inside this one; may be repeated")->type_name("PATH");
  app.add_option("--label", flags.labels, "What recipes can ask for (labels: {gpu: h100}); may be repeated")->type_name("KEY=VALUE");
  app.add_option("--data-address", flags.data_address, "Local address that trainers use among themselves")->type_name("ADDRESS")->capture_default_str();
  app.add_option("--metrics-listen", flags.metrics_listen, "Where /metrics is served")->type_name("HOST:PORT")->capture_default_str();
  app.add_option("--ready-fd", flags.ready_fd, "Write one line of JSON to this descriptor once running")->type_name("N")->check(CLI::Range(0, 65535));
  app.add_option("--exit-with-pid", flags.exit_with_pid, "Leave when this process ends")->type_name("PID")->check(CLI::Range(1, 1 << 30));
  app.add_flag("--embedded", flags.embedded, "Leave when the coordinator leaves");
  app.add_option("--trainer", flags.trainer, "The trainer program (default: bitstair-trainer beside this program)")->type_name("PATH");
  app.add_flag("--tls", flags.tls, "Connect with TLS, to a certificate that the system's authorities vouch for");
  app.add_option("--tls-ca", flags.tls_ca, "Connect with TLS, to a certificate that these authorities vouch for (PEM)")->type_name("FILE");
  app.add_option("--join-token-file", flags.join_token_file, "A join token, for the first connection with TLS")->type_name("FILE");
  app.add_option("--data-plane", flags.data_plane, "Where trainers may talk to each other, which is not encrypted: only on loopback, or on a network you trust")
      ->type_name("loopback|trusted-network")
      ->capture_default_str()
      ->check(CLI::IsMember({"loopback", "trusted-network"}));
  app.add_flag("--insecure", flags.insecure, "Allow addresses other than loopback for the coordinator and /metrics, without encryption");
  app.add_flag("--insecure-metrics", flags.insecure_metrics, "Allow such an address for /metrics alone, which is plain HTTP");
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error or off")->type_name("LEVEL")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : bitstair::worker::kUsageError;
  }
  return bitstair::worker::Run(std::move(flags));
}
