#include "server/daemon/http_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CivetServer.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <exception>
#include <future>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace bitstair::daemon {
namespace {

// The web server looks at its stop flag only every two seconds, or when somebody connects: this does, and hangs up.
void Poke(const HostPort& address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  if (inet_pton(AF_INET, address.host.c_str(), &to.sin_addr) != 1 || to.sin_addr.s_addr == htonl(INADDR_ANY)) to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(address.port));
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
  close(fd);
}

}  // namespace

class HttpServer::Route final : public CivetHandler {
 public:
  Route(std::string path, Handler handler) : path_(std::move(path)), handler_(std::move(handler)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const mg_request_info* request = mg_get_request_info(connection);
    // The library also gives what lies below the path.
    if (request->local_uri == nullptr || path_ != request->local_uri) return Send(connection, {404, "text/plain", "there is nothing here\n"});
    return Send(connection, handler_());
  }

 private:
  static bool Send(mg_connection* connection, const HttpAnswer& answer) {
    mg_printf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n",
              answer.status, mg_get_response_code_text(connection, answer.status), answer.content_type.c_str(), answer.body.size());
    mg_write(connection, answer.body.data(), answer.body.size());
    return true;
  }

  const std::string path_;
  const Handler handler_;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HostPort& listen, std::map<std::string, Handler> handlers) {
  std::unique_ptr<HttpServer> server(new HttpServer);
  try {
    server->server_ = std::make_unique<CivetServer>(std::vector<std::string>{"listening_ports", ToString(listen), "num_threads", "2"});
  } catch (const std::exception&) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", ToString(listen), ": the port is in use, or the address is not this machine's"));
  }
  server->address_ = listen;
  const std::vector<int> ports = server->server_->getListeningPorts();
  if (!ports.empty()) server->address_.port = ports[0];
  for (auto& [path, handler] : handlers) {
    auto route = std::make_unique<Route>(path, std::move(handler));
    server->server_->addHandler(path, route.get());
    server->routes_.emplace(path, std::move(route));
  }
  return server;
}

HttpServer::~HttpServer() {
  if (server_ == nullptr) return;
  const std::future<void> stopped = std::async(std::launch::async, [this] { server_.reset(); });
  while (stopped.wait_for(std::chrono::milliseconds(10)) != std::future_status::ready) Poke(address_);
}

HttpServer::Handler MetricsHandler(std::shared_ptr<prometheus::Collectable> registry) {
  return [registry = std::move(registry)]() -> HttpAnswer {
    return {200, "text/plain; version=0.0.4; charset=utf-8", prometheus::TextSerializer().Serialize(registry->Collect())};
  };
}

}  // namespace bitstair::daemon
