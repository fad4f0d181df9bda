#include "worker/identity.h"

#include <grpcpp/create_channel.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bitstair/v1/access.grpc.pb.h"
#include "core/files/durable_file.h"
#include "core/random/secure_random.h"
#include "proto/status.h"
#include "server/daemon/pem.h"

namespace bitstair::worker {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;
constexpr size_t kMaxTokenBytes = 4096;
constexpr auto kCallDeadline = std::chrono::seconds(10);
constexpr auto kPause = std::chrono::seconds(2);
constexpr auto kLookAgain = std::chrono::hours(1);

}  // namespace

absl::StatusOr<std::string> StableWorkerId(const std::string& state_dir) {
  const std::string path = state_dir + "/worker_id";
  const absl::StatusOr<std::string> held = core::ReadFile(path, 256);
  if (held.ok()) {
    const std::string id(absl::StripAsciiWhitespace(*held));
    const bool legal = !id.empty() && std::all_of(id.begin(), id.end(), [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); });
    if (!legal) return absl::DataLossError(absl::StrCat(path, " does not hold a worker's id; remove it and the worker gets a new one"));
    return id;
  }
  if (!absl::IsNotFound(held.status())) return held.status();
  const std::string id = core::SecureRandomHex(8);
  if (const absl::Status status = core::WriteFileDurably(path, id + "\n"); !status.ok()) return status;
  return id;
}

Identity::Identity(IdentityOptions options, std::string worker_id)
    : options_(std::move(options)),
      worker_id_(std::move(worker_id)),
      tls_{options_.authority_file, options_.state_dir + "/identity.crt", options_.state_dir + "/identity.key"} {}

absl::StatusOr<Identity> Identity::Obtain(const IdentityOptions& options) {
  if (!options.authority_file.empty()) {
    const auto pem = core::ReadFile(options.authority_file, kMaxPemBytes);
    if (!pem.ok()) return absl::Status(pem.status().code(), absl::StrCat("--tls-ca: ", pem.status().message()));
    if (const auto certificate = daemon::ReadCertificate(*pem); !certificate.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--tls-ca: ", options.authority_file, " ", certificate.status().message()));
    }
  }
  const auto worker_id = StableWorkerId(options.state_dir);
  if (!worker_id.ok()) return worker_id.status();
  Identity identity(options, *worker_id);
  const absl::Status held = daemon::CheckKeyPair(identity.tls_.certificate_file, identity.tls_.key_file, absl::Now());
  if (held.ok()) return identity;
  if (options.join_token_file.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(absl::IsNotFound(held) ? "this worker has not joined yet" : held.message(),
                                                      "; give --join-token-file with a join token: bitstair token create --role join, for each worker one"));
  }
  if (!absl::IsNotFound(held)) spdlog::warn("{}: joining anew", std::string(held.message()));
  while (true) {
    const absl::Status joined = identity.Join();
    if (joined.ok()) return identity;
    if (!absl::IsUnavailable(joined) && !absl::IsDeadlineExceeded(joined)) return joined;
    spdlog::warn("cannot join at {} yet: {}; trying on", options.coordinator, std::string(joined.message()));
    std::this_thread::sleep_for(kPause);
  }
}

absl::Status Identity::Join() {
  const auto text = core::ReadFile(options_.join_token_file, kMaxTokenBytes);
  if (!text.ok()) return absl::Status(absl::StatusCode::kFailedPrecondition, absl::StrCat("--join-token-file: ", text.status().message()));
  // The same key each time: an answer that got lost can then be asked for again.
  absl::StatusOr<daemon::Key> key = absl::NotFoundError("");
  if (const auto pem = core::ReadFile(tls_.key_file, kMaxPemBytes); pem.ok()) key = daemon::ReadKey(*pem);
  if (!key.ok()) {
    key = daemon::MakeKey();
    if (!key.ok()) return key.status();
    const auto pem = daemon::ToPem(**key);
    if (!pem.ok()) return pem.status();
    if (auto s = core::WriteFileDurably(tls_.key_file, *pem); !s.ok()) return s;
  }
  const auto request = daemon::MakeRequest(key->get(), absl::StrCat("worker ", worker_id_));
  if (!request.ok()) return request.status();
  const auto certificate = Issue(*request, std::string(absl::StripAsciiWhitespace(*text)), {options_.authority_file, "", ""});
  if (!certificate.ok()) return certificate.status();
  if (auto s = core::WriteFileDurably(tls_.certificate_file, *certificate); !s.ok()) return s;
  spdlog::info("joined the coordinator at {}; the join token is spent", options_.coordinator);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Identity::Issue(const std::string& request_pem, const std::string& join_token, const daemon::ClientTls& tls) const {
  v1::IssueWorkerCertificateRequest request;
  request.set_join_token(join_token);
  request.set_worker_id(worker_id_);
  request.set_host(options_.host);
  request.set_certificate_request(request_pem);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto access = v1::Access::NewStub(grpc::CreateCustomChannel(options_.coordinator, daemon::MakeChannelCredentials(tls), arguments));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
  v1::IssueWorkerCertificateResponse response;
  if (auto s = FromGrpc(access->IssueWorkerCertificate(&context, request, &response)); !s.ok()) return s;
  if (const auto certificate = daemon::ReadCertificate(response.certificate()); !certificate.ok()) return certificate.status();
  return response.certificate();
}

absl::StatusOr<bool> Identity::RenewIfDue(absl::Time now) const {
  const auto certificate_pem = core::ReadFile(tls_.certificate_file, kMaxPemBytes), key_pem = core::ReadFile(tls_.key_file, kMaxPemBytes);
  if (!certificate_pem.ok()) return certificate_pem.status();
  if (!key_pem.ok()) return key_pem.status();
  const auto certificate = daemon::ReadCertificate(*certificate_pem);
  if (!certificate.ok()) return certificate.status();
  const absl::Duration life = daemon::NotAfter(**certificate) - daemon::NotBefore(**certificate);
  if (daemon::NotAfter(**certificate) - now > life / 3) return false;
  const auto key = daemon::ReadKey(*key_pem);
  if (!key.ok()) return key.status();
  const auto request = daemon::MakeRequest(key->get(), absl::StrCat("worker ", worker_id_));
  if (!request.ok()) return request.status();
  const auto renewed = Issue(*request, "", tls_);
  if (!renewed.ok()) return renewed.status();
  if (auto s = core::WriteFileDurably(tls_.certificate_file, *renewed); !s.ok()) return s;
  return true;
}

IdentityRenewal::IdentityRenewal(boost::asio::io_context& io, Identity identity) : identity_(std::move(identity)), timer_(io) {
  Wait(std::chrono::seconds(0));
}

IdentityRenewal::~IdentityRenewal() {
  timer_.cancel();
  thread_.join();
}

void IdentityRenewal::Wait(std::chrono::seconds time) {
  timer_.expires_after(time);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    boost::asio::post(thread_, [this] {
      const auto renewed = identity_.RenewIfDue(absl::Now());
      if (!renewed.ok()) spdlog::warn("the worker's certificate could not be renewed: {}; trying on", std::string(renewed.status().message()));
      if (renewed.ok() && *renewed) spdlog::info("the worker's certificate is renewed");
    });
    Wait(kLookAgain);
  });
}

}  // namespace bitstair::worker
