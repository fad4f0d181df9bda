// bitstair-server: wiring only. Flags -> stores -> coordinator -> gRPC, metrics, ready line; then signals and, in embedded mode, the clients' socket.
#include <grpc/support/log.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/files/durable_file.h"
#include "core/version/version.h"
#include "server/client_lifeline.h"
#include "server/coordinator.h"
#include "server/daemon/daemon.h"
#include "server/daemon/http_server.h"
#include "server/rpc_server.h"
#include "server/security/security.h"
#include "server/sqlite_job_store.h"

namespace bitstair::server {
namespace {

constexpr int kExitOk = 0, kExitFailed = 1, kExitUsage = 2;

struct Flags {
  std::string listen = "127.0.0.1:7420";
  std::string metrics_listen = "127.0.0.1:7421";
  std::string state_dir;
  std::string log_level = "info";
  int ready_fd = -1;
  bool embedded = false;
  SecurityFlags security;
  bool insecure_metrics = false;
  bool no_reflection = false;
  double lease_seconds = 8;
  double grace_seconds = 30;
  double resize_interval_seconds = 600;
  std::vector<std::string> queues;
  double retention_days = 0;
};

std::string DefaultStateDir() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/') return absl::StrCat(state, "/bitstair/server");
  const char* home = std::getenv("HOME");
  return absl::StrCat(home == nullptr ? "/tmp" : home, "/.local/state/bitstair/server");
}

int Refuse(const absl::Status& status) {
  std::cerr << "bitstair-server: " << status.message() << "\n";
  return kExitUsage;
}

// gRPC calls a plain function.
std::atomic<Gatekeeper*> gatekeeper_for_grpc = nullptr;

// gRPC's own lines, in our format; its errors are ours to explain, so they show at debug level only. A failed handshake is known from here alone.
void LogFromGrpc(gpr_log_func_args* args) {
  spdlog::debug("grpc: {}", args->message);
  Gatekeeper* const gatekeeper = gatekeeper_for_grpc;
  if (gatekeeper != nullptr && absl::StrContains(args->message, "Handshake failed")) gatekeeper->HandshakeFailed(args->message);
}

constexpr int kMaxDiscovered = 1000;

// For Prometheus' HTTP service discovery: the workers that are connected, each with its name.
daemon::HttpAnswer WorkersForPrometheus(Coordinator& coordinator) {
  auto targets = std::make_shared<std::promise<nlohmann::ordered_json>>();
  std::future<nlohmann::ordered_json> found = targets->get_future();
  v1::ListWorkersRequest request;
  request.set_page_size(kMaxDiscovered);
  coordinator.ListWorkers(request, [targets](const absl::StatusOr<v1::ListWorkersResponse>& response) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Worker& worker : response.ok() ? response->workers() : google::protobuf::RepeatedPtrField<v1::Worker>()) {
      if (worker.metrics_address().empty() || worker.state() != v1::WORKER_STATE_READY) continue;
      list.push_back({{"targets", {worker.metrics_address()}}, {"labels", {{"worker", worker.host().empty() ? worker.name() : worker.host()}}}});
    }
    targets->set_value(std::move(list));
  });
  if (found.wait_for(std::chrono::seconds(5)) != std::future_status::ready) return {503, "text/plain", "the coordinator does not answer\n"};
  return {200, "application/json", found.get().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

// queues: NAME:weight=2,slots=8,jobs=4 each; every part is optional.
absl::StatusOr<scheduling::Scheduler> MakeScheduler(const std::vector<std::string>& queues, absl::Duration resize_interval) {
  scheduling::SchedulerConfig config;
  config.resize_interval = resize_interval;
  config.time_zone = absl::LocalTimeZone();
  auto scheduler = scheduling::Scheduler::Create(config);
  if (!scheduler.ok()) return scheduler;
  std::set<std::string> seen;
  for (const auto& text : queues) {
    const auto bad = [&](const std::string& why) {
      return absl::InvalidArgumentError(absl::StrCat("--queue ", text, ": ", why, "; it is written like vision:weight=2,slots=8,jobs=4"));
    };
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
    if (parts.first.empty() || parts.second.empty()) return bad("no name, or nothing about it");
    if (!seen.insert(parts.first).second) return bad("the queue is given twice");
    scheduling::QueueLimits limits;
    for (const auto& setting : absl::StrSplit(parts.second, ',')) {
      const std::pair<std::string, std::string> pair = absl::StrSplit(setting, absl::MaxSplits('=', 1));
      int number = 0;
      const bool whole = absl::SimpleAtoi(pair.second, &number) && number >= 0;
      if (pair.first == "weight" && absl::SimpleAtod(pair.second, &limits.weight)) continue;
      if (pair.first == "slots" && whole) {
        limits.max_slots = number;
      } else if (pair.first == "jobs" && whole) {
        limits.max_jobs = number;
      } else {
        return bad(absl::StrCat("\"", std::string(setting), "\" is not weight=, slots= or jobs= and a number of 0 or more"));
      }
    }
    if (auto s = scheduler->SetQueue(parts.first == "default" ? "" : parts.first, limits); !s.ok()) return bad(std::string(s.message()));
  }
  return scheduler;
}

int Serve(const Flags& flags) {
  auto address = daemon::ParseHostPort(flags.listen);
  if (!address.ok()) return Refuse(absl::InvalidArgumentError(absl::StrCat("--listen: ", address.status().message())));
  auto metrics_address = daemon::ParseHostPort(flags.metrics_listen);
  if (!metrics_address.ok()) return Refuse(absl::InvalidArgumentError(absl::StrCat("--metrics-listen: ", metrics_address.status().message())));
  if (auto s = CheckSecurityFlags(flags.security, *address, absl::Now()); !s.ok()) return Refuse(s);
  if (auto s = daemon::CheckListenAddress(*metrics_address, flags.security.insecure || flags.insecure_metrics, "--insecure-metrics"); !s.ok()) return Refuse(s);
  const std::string& state_dir = flags.state_dir;
  if (auto s = core::MakeWritableDirectory(state_dir); !s.ok()) return Refuse(s);
  const auto lock = daemon::DirectoryLock::Take(state_dir);
  if (!lock.ok()) return Refuse(lock.status());

  const auto security = Security::Open(state_dir, flags.security, absl::Now());
  if (!security.ok()) return Refuse(security.status());
  gatekeeper_for_grpc = (*security)->gatekeeper();

  Metrics metrics(BITSTAIR_VERSION);
  SqliteJobStore::Options store_options;
  store_options.observer = [&metrics](double seconds, size_t commits) { metrics.ObserveCommit(seconds, commits); };
  auto store = SqliteJobStore::Open(state_dir + "/jobs.db", std::move(store_options));
  if (!store.ok()) return Refuse(store.status());
  auto artifacts = ArtifactStore::Open(state_dir + "/artifacts");
  if (!artifacts.ok()) return Refuse(artifacts.status());
  LogStore logs(state_dir + "/logs");

  boost::asio::io_context io(1);
  int exit_code = kExitOk;
  auto scheduler = MakeScheduler(flags.queues, absl::Seconds(flags.resize_interval_seconds));
  if (!scheduler.ok()) return Refuse(scheduler.status());
  Coordinator::Options options;
  options.scheduler = *std::move(scheduler);
  options.lease = absl::Seconds(flags.lease_seconds);
  options.grace = absl::Seconds(flags.grace_seconds);
  if (flags.retention_days > 0) options.retention = flags.retention_days * absl::Hours(24);
  options.on_fatal = [&](const absl::Status&) {
    boost::asio::post(io, [&] {
      exit_code = kExitFailed;
      io.stop();
    });
  };
  Coordinator coordinator(options, store->get(), artifacts->get(), &logs, &metrics);
  if (auto s = coordinator.Start(); !s.ok()) return Refuse(s);
  RpcServer rpc(&coordinator, artifacts->get(), &logs, &metrics, security->get());
  const auto bound = rpc.Start(*address, !flags.no_reflection);
  if (!bound.ok()) return Refuse(absl::Status(bound.status().code(), absl::StrCat(bound.status().message(), " (--listen)")));
  const auto http = daemon::HttpServer::Start(*metrics_address, {{"/metrics", daemon::MetricsHandler(metrics.registry())},
                                                                 {"/sd/workers", [&coordinator] { return WorkersForPrometheus(coordinator); }}});
  if (!http.ok()) return Refuse(absl::Status(http.status().code(), absl::StrCat(http.status().message(), " (--metrics-listen)")));
  *metrics_address = (*http)->address();

  bool leaving = false;
  const auto leave = [&](const char* why) {
    if (leaving) return io.stop();
    leaving = true;
    spdlog::info("leaving: {}", why);
    if (!flags.embedded) return io.stop();
    coordinator.SayGoodbye([&] { boost::asio::post(io, [&] { io.stop(); }); });
  };
  boost::asio::signal_set signals(io, SIGTERM, SIGINT);
  std::function<void()> wait_for_signal = [&] {
    signals.async_wait([&](const boost::system::error_code& error, int signal) {
      if (error) return;
      wait_for_signal();
      leave(signal == SIGTERM ? "SIGTERM" : "SIGINT");
    });
  };
  wait_for_signal();
  ClientLifeline lifeline(&io, state_dir + "/clients.sock", [&] { leave("no client is left"); });
  if (flags.embedded) {
    if (auto s = lifeline.Start(); !s.ok()) return Refuse(s);
  }

  const std::string endpoint_path = state_dir + "/endpoint.json";
  const std::string endpoint = nlohmann::ordered_json{
      {"address", daemon::ToString(*bound)},
      {"metrics_address", daemon::ToString(*metrics_address)},
      {"pid", getpid()},
      {"state_dir", state_dir}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (auto s = core::WriteFileDurably(endpoint_path, endpoint + "\n"); !s.ok()) return Refuse(s);
  daemon::SignalReady(flags.ready_fd, endpoint);
  spdlog::info("serving on {}, metrics on http://{}/metrics, state in {}", daemon::ToString(*bound), daemon::ToString(*metrics_address), state_dir);
  io.run();

  unlink(endpoint_path.c_str());
  coordinator.CloseStreams();
  rpc.Shutdown(absl::Seconds(2));
  coordinator.Stop();
  store->reset();
  spdlog::shutdown();
  // All is on disk. Destroying the metrics server would take its poll's 2 s, in which a next start finds the folder locked.
  std::cerr.flush();
  _exit(exit_code);
}

int Main(int argc, char** argv) {
  CLI::App app{"bitstair-server: the coordinator. Takes jobs, plans their stages, hands them to workers, and keeps all state.", "bitstair-server"};
  app.footer(
      "Examples:\n"
      "  bitstair-server --state-dir /var/lib/bitstair\n"
      "  bitstair-server --listen 10.0.0.5:7420 --tls-cert server.crt --tls-key server.key --state-dir /srv/bitstair\n"
      "  bitstair-server --listen 10.0.0.5:7420 --insecure --state-dir /srv/bitstair    # a network you trust; no tokens\n"
      "Exit codes: 0 done, 1 the job store failed, 2 wrong usage or a state folder or address that cannot be used.");
  Flags flags;
  flags.state_dir = DefaultStateDir();
  app.set_version_flag("--version", core::VersionText("bitstair-server"));
  app.add_option("--listen", flags.listen, "HOST:PORT of the gRPC API; port 0: any free one")->capture_default_str();
  app.add_option("--metrics-listen", flags.metrics_listen, "HOST:PORT of /metrics")->capture_default_str();
  app.add_option("--state-dir", flags.state_dir, "folder of all state; held by one server at a time")->capture_default_str();
  app.add_option("--lease-seconds", flags.lease_seconds, "silence after which a worker is unreachable")->capture_default_str()->check(CLI::Range(0.1, 3600.0));
  app.add_option("--grace-seconds", flags.grace_seconds, "how long an unreachable worker keeps its attempts")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--resize-interval-seconds", flags.resize_interval_seconds,
                 "an elastic stage is not resized earlier after its start, nor grown that shortly before its end")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--queue", flags.queues, "a queue's share and quotas, e.g. vision:weight=2,slots=8,jobs=4; may be repeated. Others have weight 1 and no quota")
      ->type_name("NAME:SETTINGS");
  app.add_option("--retention-days", flags.retention_days,
                 "delete checkpoints of jobs that ended longer ago, unless pinned; 0: keep all (bitstair gc deletes on request)")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 36500.0));
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn or error")->capture_default_str();
  app.add_option("--ready-fd", flags.ready_fd, "descriptor that gets one JSON line once the server serves");
  app.add_flag("--embedded", flags.embedded, "live only as long as clients are connected to STATE_DIR/clients.sock");
  app.add_option("--tls-cert", flags.security.tls_certificate,
                 "certificate of this server with its chain, PEM; people then need tokens, and workers join with one")
      ->type_name("FILE");
  app.add_option("--tls-key", flags.security.tls_key, "its private key, PEM without a passphrase")->type_name("FILE");
  app.add_flag("--require-tokens", flags.security.require_tokens, "ask people for tokens also without TLS, on loopback");
  app.add_flag("--insecure", flags.security.insecure, "allow addresses other than loopback without encryption and without tokens");
  app.add_flag("--insecure-metrics", flags.insecure_metrics, "allow such an address for /metrics alone, which is plain HTTP");
  app.add_flag("--no-reflection", flags.no_reflection, "no gRPC reflection");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  if (auto s = daemon::SetUpLogging("server", flags.log_level); !s.ok()) return Refuse(s);
  gpr_set_log_function(LogFromGrpc);
  std::signal(SIGPIPE, SIG_IGN);
  return Serve(flags);
}

}  // namespace
}  // namespace bitstair::server

int main(int argc, char** argv) {
  return bitstair::server::Main(argc, argv);
}
