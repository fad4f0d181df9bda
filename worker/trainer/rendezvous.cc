#include "worker/trainer/rendezvous.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "absl/strings/str_cat.h"
#include "server/daemon/daemon.h"

namespace bitstair::trainer {
namespace {

struct Listener {
  int fd = -1;
  int port = 0;
};

// A listening socket on a free port of exactly this address; TCPStore by itself would listen on all of them.
absl::StatusOr<Listener> Listen(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), "0", &hints, &found);
  if (code != 0) return absl::UnavailableError(absl::StrCat("data address ", host, ": ", gai_strerror(code)));
  Listener listener;
  int error = 0;
  for (addrinfo* at = found; at != nullptr && listener.fd < 0; at = at->ai_next) {
    const int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_storage bound = {};
    socklen_t size = sizeof bound;
    if (fd >= 0 && bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) == 0) {
      listener.fd = fd;
      listener.port =
          ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
    } else {
      error = errno;
      if (fd >= 0) close(fd);
    }
  }
  freeaddrinfo(found);
  if (listener.fd < 0) return absl::UnavailableError(absl::StrCat("cannot listen on data address ", host, ": ", std::strerror(error)));
  return listener;
}

std::vector<std::string> Keys(const char* what, int first_rank, int end_rank) {
  std::vector<std::string> keys;
  for (int rank = first_rank; rank < end_rank; ++rank) keys.push_back(absl::StrCat(what, "/", rank));
  return keys;
}

}  // namespace

struct RendezvousStore::Impl {
  c10::intrusive_ptr<c10d::Store> store;
};

RendezvousStore::RendezvousStore(std::string address, std::unique_ptr<Impl> impl) : address_(std::move(address)), impl_(std::move(impl)) {}
RendezvousStore::~RendezvousStore() = default;
const c10::intrusive_ptr<c10d::Store>& RendezvousStore::store() const {
  return impl_->store;
}

std::string RendezvousStore::Scope(const std::string& stage, int generation, const std::string& token) {
  return absl::StrCat(stage, "/", generation, "/", token);
}

absl::StatusOr<std::unique_ptr<RendezvousStore>> RendezvousStore::Host(const std::string& data_address, const std::string& scope) {
  const absl::StatusOr<Listener> listener = Listen(data_address);
  if (!listener.ok()) return listener.status();
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.port = static_cast<uint16_t>(listener->port);
  options.masterListenFd = listener->fd;  // the store owns it from here on
  options.timeout = kRendezvousTimeout;
  auto store = c10::make_intrusive<c10d::TCPStore>(data_address, options);
  auto impl = std::make_unique<Impl>(Impl{c10::make_intrusive<c10d::PrefixStore>(scope, std::move(store))});
  return std::unique_ptr<RendezvousStore>(new RendezvousStore(daemon::ToString({data_address, listener->port}), std::move(impl)));
}

absl::StatusOr<std::unique_ptr<RendezvousStore>> RendezvousStore::Connect(const std::string& address, const std::string& scope) {
  const absl::StatusOr<daemon::HostPort> parsed = daemon::ParseHostPort(address);
  if (!parsed.ok()) return parsed.status();
  c10d::TCPStoreOptions options;
  options.waitWorkers = false;
  options.port = static_cast<uint16_t>(parsed->port);
  options.timeout = kRendezvousTimeout;
  auto store = c10::make_intrusive<c10d::TCPStore>(parsed->host, options);
  auto impl = std::make_unique<Impl>(Impl{c10::make_intrusive<c10d::PrefixStore>(scope, std::move(store))});
  return std::unique_ptr<RendezvousStore>(new RendezvousStore(address, std::move(impl)));
}

void RendezvousStore::AwaitAll(int rank, int world_size, std::chrono::milliseconds timeout) {
  impl_->store->set(Keys("ready", rank, rank + 1)[0], std::vector<uint8_t>{1});
  impl_->store->wait(Keys("ready", 0, world_size), timeout);
}

void RendezvousStore::Leave(int rank, int world_size) {
  if (rank != 0) {
    impl_->store->set(Keys("done", rank, rank + 1)[0], std::vector<uint8_t>{1});
  } else if (world_size > 1) {
    impl_->store->wait(Keys("done", 1, world_size), kRendezvousTimeout);
  }
}

}  // namespace bitstair::trainer
