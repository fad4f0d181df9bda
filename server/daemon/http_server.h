// What a daemon serves over HTTP: its metrics, and small documents for programs around it. Read only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include <prometheus/collectable.h>

#include "absl/status/statusor.h"
#include "server/daemon/daemon.h"

class CivetServer;

namespace bitstair::daemon {

struct HttpAnswer {
  int status = 200;
  std::string content_type;
  std::string body;
};

class HttpServer {
 public:
  // Called on threads of the server, several at a time; may block, and must not throw.
  using Handler = std::function<HttpAnswer()>;

  // Serves GET of exactly these paths ("/metrics"); others are not found. UNAVAILABLE names the address where it cannot be listened on. Port 0: any free one.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HostPort& listen, std::map<std::string, Handler> handlers);
  // Waits for the calls under way.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // With the real port.
  const HostPort& address() const { return address_; }

 private:
  class Route;
  HttpServer() = default;

  HostPort address_;
  std::map<std::string, std::unique_ptr<Route>> routes_;
  std::unique_ptr<CivetServer> server_;
};

// The registry's series in Prometheus' text format.
HttpServer::Handler MetricsHandler(std::shared_ptr<prometheus::Collectable> registry);

}  // namespace bitstair::daemon
