// Who this worker is to a coordinator with TLS: a key made here, which never leaves, and a certificate that the coordinator signed (docs/security.md).
#pragma once

#include <grpcpp/security/credentials.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/daemon/transport.h"

namespace bitstair::worker {

// STATE_DIR/worker_id, made at the first call: stable over restarts. DATA_LOSS: the file holds something else.
absl::StatusOr<std::string> StableWorkerId(const std::string& state_dir);

struct IdentityOptions {
  std::string coordinator;  // HOST:PORT
  std::string state_dir;
  std::string authority_file;   // whom to believe about the coordinator; empty: the system's authorities
  std::string join_token_file;  // read only where there is no certificate in force yet
  std::string host;             // shown to admins
};

class Identity {
 public:
  // Loads STATE_DIR/identity.key and identity.crt, or joins: makes the key, and buys the certificate with the join token. Waits as long as the coordinator
  // cannot be reached; blocks. Other errors are for good: FAILED_PRECONDITION where there is no certificate in force and no join token, UNAUTHENTICATED where
  // the coordinator refuses it.
  static absl::StatusOr<Identity> Obtain(const IdentityOptions& options);

  // Read the files again when they change, so that a renewed certificate counts from the next connection on.
  std::shared_ptr<grpc::ChannelCredentials> credentials() const { return daemon::MakeChannelCredentials(tls_); }

  // Asks for a new certificate for the same key if less than a third of the present one's life is left. True: it is renewed. Blocks; the errors are worth
  // another try.
  absl::StatusOr<bool> RenewIfDue(absl::Time now) const;

 private:
  Identity(IdentityOptions options, std::string worker_id);
  absl::Status Join();
  absl::StatusOr<std::string> Issue(const std::string& request_pem, const std::string& join_token, const daemon::ClientTls& tls) const;

  IdentityOptions options_;
  std::string worker_id_;
  daemon::ClientTls tls_;
};

// Renews in the background, looking every hour, as long as it lives. Its io_context runs elsewhere.
class IdentityRenewal {
 public:
  IdentityRenewal(boost::asio::io_context& io, Identity identity);
  ~IdentityRenewal();

 private:
  void Wait(std::chrono::seconds time);

  const Identity identity_;
  boost::asio::steady_timer timer_;
  boost::asio::thread_pool thread_{1};
};

}  // namespace bitstair::worker
