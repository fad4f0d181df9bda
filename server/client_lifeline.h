// Embedded mode: the server lives as long as a `bitstair run` is connected to its unix socket. The connections carry nothing; their ends do.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"

namespace bitstair::server {

// Runs on one thread: that of `io`.
class ClientLifeline {
 public:
  // `on_empty` is called once: when the last connection has closed, or 10 s after Start if none came. From then on nobody can connect.
  ClientLifeline(boost::asio::io_context* io, std::string socket_path, std::function<void()> on_empty);
  ~ClientLifeline();

  // A socket left by an earlier server is replaced: the caller holds the state folder's lock. INVALID_ARGUMENT if the path is too long for a unix socket.
  absl::Status Start();

 private:
  void Accept();
  void Wait(std::shared_ptr<boost::asio::local::stream_protocol::socket> client, std::shared_ptr<char> byte);
  void Leave();

  boost::asio::io_context* const io_;
  const std::string path_;
  std::function<void()> on_empty_;
  boost::asio::local::stream_protocol::acceptor acceptor_;
  boost::asio::steady_timer first_client_;
  int clients_ = 0;
};

}  // namespace bitstair::server
