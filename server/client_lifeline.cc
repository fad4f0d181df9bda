#include "server/client_lifeline.h"

#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {
constexpr auto kFirstClientWait = std::chrono::seconds(10);
}  // namespace

using boost::asio::local::stream_protocol;

ClientLifeline::ClientLifeline(boost::asio::io_context* io, std::string socket_path, std::function<void()> on_empty)
    : io_(io), path_(std::move(socket_path)), on_empty_(std::move(on_empty)), acceptor_(*io), first_client_(*io) {}

ClientLifeline::~ClientLifeline() {
  if (acceptor_.is_open()) unlink(path_.c_str());
}

absl::Status ClientLifeline::Start() {
  if (path_.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("the state folder's path is too long for a unix socket: ", path_, " has ", path_.size(),
                                                   " characters, at most ", sizeof(sockaddr_un::sun_path) - 1, " are possible"));
  }
  unlink(path_.c_str());
  boost::system::error_code error;
  acceptor_.open(stream_protocol(), error);
  if (!error) acceptor_.bind(stream_protocol::endpoint(path_), error);
  if (!error) acceptor_.listen(boost::asio::socket_base::max_listen_connections, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot listen on ", path_, ": ", error.message()));
  first_client_.expires_after(kFirstClientWait);
  first_client_.async_wait([this](const boost::system::error_code& cancelled) {
    if (!cancelled) Leave();
  });
  Accept();
  return absl::OkStatus();
}

void ClientLifeline::Accept() {
  auto client = std::make_shared<stream_protocol::socket>(*io_);
  acceptor_.async_accept(*client, [this, client](const boost::system::error_code& error) {
    if (!acceptor_.is_open()) return;
    if (!error) {
      first_client_.cancel();
      ++clients_;
      Wait(client, std::make_shared<char>());
    }
    Accept();
  });
}

void ClientLifeline::Wait(std::shared_ptr<stream_protocol::socket> client, std::shared_ptr<char> byte) {
  client->async_read_some(boost::asio::buffer(byte.get(), 1), [this, client, byte](const boost::system::error_code& error, size_t) {
    if (!error) return Wait(client, byte);
    if (--clients_ == 0) Leave();
  });
}

void ClientLifeline::Leave() {
  if (!on_empty_) return;
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  unlink(path_.c_str());
  std::exchange(on_empty_, nullptr)();
}

}  // namespace bitstair::server
