// The coordinator's real gRPC server with TLS: who gets in, and what the audit log says.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "core/files/durable_file.h"
#include "proto/status.h"
#include "server/rpc_server.h"
#include "server/security/security.h"
#include "server/sqlite_job_store.h"
#include "tests/support/certificates.h"
#include "tests/support/job_specs.h"
#include "tests/support/temporary_directory.h"
#include "worker/identity.h"

namespace bitstair::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class AccessTest : public ::testing::Test {
 protected:
  AccessTest() : server_(testing::MakeServerCertificate(dir_.path(), absl::Now() + absl::Hours(1))) {}
  ~AccessTest() override { Stop(); }

  void Start(SecurityFlags flags, const std::string& host = "127.0.0.1", bool reflection = false) {
    state_ = dir_.path() + "/state";
    ASSERT_TRUE(core::MakeWritableDirectory(state_).ok());
    security_ = *Security::Open(state_, flags, absl::Now());
    store_ = *SqliteJobStore::Open(state_ + "/jobs.db", {});
    artifacts_ = *ArtifactStore::Open(state_ + "/artifacts");
    logs_ = std::make_unique<LogStore>(state_ + "/logs");
    coordinator_ = std::make_unique<Coordinator>(Coordinator::Options(), store_.get(), artifacts_.get(), logs_.get(), &metrics_);
    ASSERT_TRUE(coordinator_->Start().ok());
    rpc_ = std::make_unique<RpcServer>(coordinator_.get(), artifacts_.get(), logs_.get(), &metrics_, security_.get());
    const auto bound = rpc_->Start({host, 0}, reflection);
    ASSERT_TRUE(bound.ok()) << bound.status();
    port_ = bound->port;
    channel_ = Channel(daemon::MakeChannelCredentials({server_.certificate, "", ""}));
  }
  void StartTls() { Start({server_.certificate, server_.key}); }

  void Stop() {
    if (rpc_ == nullptr) return;
    coordinator_->CloseStreams();
    rpc_->Shutdown(absl::Seconds(1));
    coordinator_->Stop();
    rpc_.reset();
  }

  std::shared_ptr<grpc::Channel> Channel(const std::shared_ptr<grpc::ChannelCredentials>& credentials, const std::string& host = "127.0.0.1") {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(absl::StrCat(host, ":", port_), credentials, arguments);
  }

  // One call; `secret` as a bearer token unless empty.
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(std::unique_ptr<Stub> stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), const Request& request,
                    Response* response, const std::string& secret) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    if (!secret.empty()) context.AddMetadata("authorization", "Bearer " + secret);
    return FromGrpc((stub.get()->*method)(&context, request, response));
  }
  // The same with bytes for a request, to any path.
  grpc::Status CallRaw(const std::string& path, const std::string& bytes, const std::string& secret = "") {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    if (!secret.empty()) context.AddMetadata("authorization", "Bearer " + secret);
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::CompletionQueue queue;
    grpc::ByteBuffer answer;
    grpc::Status status;
    auto call = stub.PrepareUnaryCall(&context, path, request, &queue);
    call->StartCall();
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }
  absl::Status List(const std::string& secret) {
    v1::ListJobsResponse response;
    return Call(v1::Jobs::NewStub(channel_), &v1::Jobs::Stub::ListJobs, v1::ListJobsRequest(), &response, secret);
  }
  absl::StatusOr<std::string> Create(const std::string& secret, const std::string& queue = "") {
    v1::CreateJobRequest request;
    *request.mutable_spec() = testing::SmallSpec();
    if (!queue.empty()) request.mutable_spec()->set_queue(queue);
    v1::Job job;
    if (auto s = Call(v1::Jobs::NewStub(channel_), &v1::Jobs::Stub::CreateJob, request, &job, secret); !s.ok()) return s;
    return job.name();
  }
  absl::Status Cancel(const std::string& secret, const std::string& name) {
    v1::CancelJobRequest request;
    request.set_name(name);
    v1::Job job;
    return Call(v1::Jobs::NewStub(channel_), &v1::Jobs::Stub::CancelJob, request, &job, secret);
  }
  std::string Token(v1::Role role, const std::vector<std::string>& queues = {}) {
    v1::CreateTokenRequest request;
    request.mutable_token()->set_role(role);
    request.mutable_token()->set_display_name("someone");
    for (const auto& queue : queues) request.mutable_token()->add_queues(queue);
    v1::CreateTokenResponse response;
    const auto status = Call(v1::Access::NewStub(channel_), &v1::Access::Stub::CreateToken, request, &response, Admin());
    EXPECT_TRUE(status.ok()) << status;
    return response.secret();
  }
  absl::Status Revoke(const std::string& secret) {
    v1::RevokeTokenRequest request;
    request.set_name("tokens/" + secret.substr(9, 10));
    v1::Token token;
    return Call(v1::Access::NewStub(channel_), &v1::Access::Stub::RevokeToken, request, &token, Admin());
  }
  std::string Admin() {
    std::string secret = *core::ReadFile(state_ + "/admin.token");
    return secret.substr(0, secret.size() - 1);
  }
  absl::StatusOr<worker::Identity> Join(const std::string& name, const std::string& secret) {
    const std::string folder = dir_.path() + "/" + name, file = folder + ".token";
    EXPECT_TRUE(core::MakeWritableDirectory(folder).ok());
    if (!secret.empty()) {
      EXPECT_TRUE(core::WriteFileDurably(file, secret + "\n").ok());
    }
    return worker::Identity::Obtain({absl::StrCat("127.0.0.1:", port_), folder, server_.certificate, secret.empty() ? "" : file, name});
  }
  // Says hello with this id and returns how the stream ended, or OK once it was welcomed. `then` runs after the welcome, and the end is what is returned.
  absl::Status Hello(const worker::Identity& identity, const std::string& id, const std::function<void()>& then = nullptr) {
    const auto fleet = v1::Fleet::NewStub(Channel(identity.credentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    const auto stream = fleet->Connect(&context);
    v1::WorkerMessage message;
    auto& hello = *message.mutable_hello();
    hello.set_worker_id(id);
    hello.set_incarnation("1");
    hello.set_protocol_version(1);
    hello.set_host("h");
    hello.add_slots()->set_kind(v1::SLOT_KIND_CPU);
    v1::CoordinatorMessage answer;
    if (stream->Write(message) && stream->Read(&answer) && answer.has_welcome()) {
      if (then == nullptr) {
        context.TryCancel();
        stream->Finish();
        return absl::OkStatus();
      }
      then();
      v1::WorkerMessage beat;
      beat.mutable_heartbeat();
      stream->Write(beat);
    }
    while (stream->Read(&answer)) continue;
    return FromGrpc(stream->Finish());
  }

  std::vector<nlohmann::json> Audit() {
    std::vector<nlohmann::json> lines;
    std::ifstream file(state_ + "/audit.log");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  // "who role method status" of the last line.
  std::string LastAudit() {
    const auto lines = Audit();
    if (lines.empty()) return "";
    const auto& last = lines.back();
    return absl::StrCat(last.value("who", "").substr(0, 7), " ", last.value("role", ""), " ", last.value("method", ""), " ", last.value("status", ""));
  }

  testing::TemporaryDirectory dir_;
  const testing::CertificateFiles server_;
  std::string state_;
  Metrics metrics_{"test"};
  std::unique_ptr<Security> security_;
  std::unique_ptr<SqliteJobStore> store_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::unique_ptr<LogStore> logs_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<RpcServer> rpc_;
  int port_ = 0;
  std::shared_ptr<grpc::Channel> channel_;
};

// Every method that there is, found by reflection on the services, so that a new one cannot be forgotten.
TEST_F(AccessTest, WithoutATokenEveryMethodIsRefused) {
  StartTls();
  int methods = 0;
  for (const auto* file : {v1::CreateJobRequest::descriptor()->file(), v1::ListWorkersRequest::descriptor()->file(),
                           v1::GetArtifactRequest::descriptor()->file(), v1::CreateTokenRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        const auto* method = file->service(i)->method(j);
        const std::string path = absl::StrCat("/", std::string(file->service(i)->full_name()), "/", std::string(method->name()));
        const grpc::Status status = CallRaw(path, "");
        // The one that shows a join token in its request has nothing to show.
        const bool issue = method->name() == "IssueWorkerCertificate";
        EXPECT_EQ(status.error_code(), issue ? grpc::StatusCode::INVALID_ARGUMENT : grpc::StatusCode::UNAUTHENTICATED)
            << path << ": " << status.error_message();
        ++methods;
      }
    }
  }
  EXPECT_GT(methods, 25);
  const auto lines = Audit();
  ASSERT_EQ(static_cast<int>(lines.size()), methods);
  EXPECT_THAT(lines[0].at("peer").get<std::string>(), HasSubstr("127.0.0.1:"));
}

TEST_F(AccessTest, RolesAndQueuesDecide) {
  StartTls();
  const std::string viewer = Token(v1::ROLE_VIEWER), vision = Token(v1::ROLE_SUBMITTER, {"vision"}), submitter = Token(v1::ROLE_SUBMITTER);
  EXPECT_TRUE(List(viewer).ok());
  const auto refused = Create(viewer).status();
  EXPECT_TRUE(absl::IsPermissionDenied(refused));
  EXPECT_EQ(refused.message(), "the role viewer does not include CreateJob; it is for the role submitter");
  EXPECT_EQ(LastAudit(), "someone viewer CreateJob PERMISSION_DENIED");
  EXPECT_THAT(std::string(Create(vision).status().message()), HasSubstr("for the queues vision, not for default"));
  EXPECT_EQ(LastAudit(), "someone submitter CreateJob PERMISSION_DENIED");
  const auto job = Create(submitter, "text");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(LastAudit(), "someone submitter CreateJob OK");
  EXPECT_EQ(Audit().back().at("target"), *job);
  EXPECT_TRUE(absl::IsPermissionDenied(Cancel(vision, *job)));
  EXPECT_EQ(LastAudit(), "someone submitter CancelJob PERMISSION_DENIED");
  EXPECT_TRUE(absl::IsNotFound(Cancel(vision, "jobs/none")));
  EXPECT_TRUE(Cancel(vision, *Create(vision, "vision")).ok());
  EXPECT_TRUE(Cancel(Admin(), *job).ok());
  v1::ListTokensResponse tokens;
  EXPECT_TRUE(absl::IsPermissionDenied(Call(v1::Access::NewStub(channel_), &v1::Access::Stub::ListTokens, v1::ListTokensRequest(), &tokens, submitter)));
}

// A path that leads elsewhere ends at the door; what a worker finds behind a link is tests/worker/datasets_test.cc.
TEST_F(AccessTest, PathTricksAreRefusedAndAudited) {
  StartTls();
  for (const bool weights : {false, true}) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = testing::SmallSpec();
    if (weights) {
      request.mutable_spec()->mutable_initial_weights()->set_path("/data/../../etc/shadow");
    } else {
      request.mutable_spec()->mutable_data()->clear_name();
      request.mutable_spec()->mutable_data()->set_path("/data/../../etc");
    }
    v1::Job job;
    const absl::Status status = Call(v1::Jobs::NewStub(channel_), &v1::Jobs::Stub::CreateJob, request, &job, Admin());
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("without . and .."));
    EXPECT_EQ(LastAudit(), "first a admin CreateJob INVALID_ARGUMENT");
  }
}

TEST_F(AccessTest, WrongSpentExpiredAndRevokedTokensAreRefused) {
  StartTls();
  const std::string token = Token(v1::ROLE_VIEWER);
  EXPECT_TRUE(List(token).ok());
  for (const std::string wrong : {"x", "bitstair_0000000000_00", "Bearer"}) {
    EXPECT_TRUE(absl::IsUnauthenticated(List(wrong))) << wrong;
    EXPECT_EQ(LastAudit(), "  ListJobs UNAUTHENTICATED");
  }
  EXPECT_THAT(std::string(List(Token(v1::ROLE_JOIN)).message()), HasSubstr("good for bitstair-worker alone"));
  ASSERT_TRUE(Revoke(token).ok());
  EXPECT_THAT(std::string(List(token).message()), HasSubstr("was revoked"));
  for (const auto& line : Audit()) EXPECT_EQ(line.dump().find(token.substr(21)), std::string::npos) << "a secret in the audit log";
}

TEST_F(AccessTest, AWatchEndsWithItsToken) {
  StartTls();
  const auto job = Create(Admin());
  const std::string token = Token(v1::ROLE_VIEWER);
  const auto jobs = v1::Jobs::NewStub(channel_);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  context.AddMetadata("authorization", "Bearer " + token);
  v1::WatchJobRequest request;
  request.set_name(*job);
  const auto watch = jobs->WatchJob(&context, request);
  v1::WatchJobResponse change;
  ASSERT_TRUE(watch->Read(&change));
  ASSERT_TRUE(Revoke(token).ok());
  ASSERT_TRUE(Cancel(Admin(), *job).ok());
  while (watch->Read(&change)) continue;
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, AWorkerJoinsOnceSpeaksForItselfAndCanBeRevoked) {
  StartTls();
  const std::string join = Token(v1::ROLE_JOIN);
  EXPECT_TRUE(absl::IsFailedPrecondition(Join("w1", "").status()));
  const auto identity = Join("w1", join);
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_TRUE(Join("w1", "").ok()) << "it has joined already";
  const std::string id = *worker::StableWorkerId(dir_.path() + "/w1");
  EXPECT_TRUE(Hello(*identity, id).ok());
  const auto other = Hello(*identity, "abcdef");
  EXPECT_TRUE(absl::IsPermissionDenied(other)) << other;
  EXPECT_THAT(Audit().back().at("message").get<std::string>(), HasSubstr("not for workers/abcdef"));
  EXPECT_THAT(std::string(Join("w2", join).status().message()), HasSubstr("is spent"));
  EXPECT_THAT(std::string(Join("w3", Admin()).status().message()), HasSubstr("not a join token"));
  // A worker is not a person.
  v1::ListJobsResponse jobs;
  EXPECT_TRUE(absl::IsPermissionDenied(Call(v1::Jobs::NewStub(Channel(identity->credentials())), &v1::Jobs::Stub::ListJobs, v1::ListJobsRequest(), &jobs, "")));
  std::string credential;
  for (const auto& token : security_->credentials()->List()) {
    if (token.role() == v1::ROLE_WORKER) credential = token.name();
  }
  EXPECT_TRUE(absl::IsUnauthenticated(Hello(*identity, id, [&] { EXPECT_TRUE(security_->credentials()->Revoke(credential, absl::Now()).ok()); })));
  EXPECT_THAT(std::string(Hello(*identity, id).message()), HasSubstr("was revoked"));
}

TEST_F(AccessTest, ACertificateIsRenewedInItsLastThird) {
  StartTls();
  const auto identity = Join("w1", Token(v1::ROLE_JOIN));
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_FALSE(*identity->RenewIfDue(absl::Now()));
  const std::string file = dir_.path() + "/w1/identity.crt", before = *core::ReadFile(file);
  const auto renewed = identity->RenewIfDue(absl::Now() + CredentialStore::kWorkerLife * 0.7);
  ASSERT_TRUE(renewed.ok()) << renewed.status();
  EXPECT_TRUE(*renewed);
  EXPECT_NE(*core::ReadFile(file), before);
  EXPECT_TRUE(Hello(*identity, *worker::StableWorkerId(dir_.path() + "/w1")).ok());
}

TEST_F(AccessTest, CertificatesThatAreExpiredOrForeignDoNotConnect) {
  StartTls();
  const auto identity = Join("w1", Token(v1::ROLE_JOIN));
  ASSERT_TRUE(identity.ok()) << identity.status();
  const std::string folder = dir_.path() + "/w1", id = *worker::StableWorkerId(folder);
  const auto key = *daemon::ReadKey(*core::ReadFile(folder + "/identity.key"));
  const std::string request = *daemon::MakeRequest(key.get(), "x");
  const auto connect = [&](const std::string& certificate) {
    EXPECT_TRUE(core::WriteFileDurably(folder + "/identity.crt", certificate).ok());
    return Hello(*identity, id);
  };
  // In force from 5 minutes before until one minute before.
  const auto expired = connect(*security_->authority()->Sign(request, "0a1b2c3d4e", absl::Minutes(-1), absl::Now()));
  EXPECT_TRUE(absl::IsUnavailable(expired)) << expired;
  EXPECT_THAT(std::string(daemon::CheckKeyPair(folder + "/identity.crt", folder + "/identity.key", absl::Now()).message()), HasSubstr("expired at"));
  ASSERT_TRUE(core::MakeWritableDirectory(dir_.path() + "/foreign").ok());
  const auto foreign = CertificateAuthority::Open(dir_.path() + "/foreign", absl::Now());
  EXPECT_TRUE(absl::IsUnavailable(connect(*(*foreign)->Sign(request, "0a1b2c3d4e", absl::Hours(1), absl::Now()))));
  // Signed by us for somebody we do not know.
  EXPECT_TRUE(absl::IsUnauthenticated(connect(*security_->authority()->Sign(request, "0a1b2c3d4e", absl::Hours(1), absl::Now()))));
}

TEST_F(AccessTest, ClientsBelieveOnlyTheirAuthorityAndTheRightHost) {
  StartTls();
  const auto try_with = [&](const std::string& authority, const std::string& host) {
    v1::ListJobsResponse jobs;
    return Call(v1::Jobs::NewStub(Channel(daemon::MakeChannelCredentials({authority, "", ""}), host)), &v1::Jobs::Stub::ListJobs, v1::ListJobsRequest(), &jobs,
                Admin());
  };
  EXPECT_TRUE(try_with(server_.certificate, "127.0.0.1").ok());
  EXPECT_TRUE(try_with(server_.certificate, "localhost").ok());
  EXPECT_TRUE(absl::IsUnavailable(try_with(security_->authority()->certificate_file(), "127.0.0.1"))) << "another authority";
  EXPECT_TRUE(absl::IsUnavailable(try_with(server_.certificate, "127.0.0.2"))) << "a host that the certificate does not name";
  v1::ListJobsResponse jobs;
  EXPECT_TRUE(
      absl::IsUnavailable(Call(v1::Jobs::NewStub(Channel(grpc::InsecureChannelCredentials())), &v1::Jobs::Stub::ListJobs, v1::ListJobsRequest(), &jobs, "")))
      << "plaintext";
}

TEST_F(AccessTest, OnLoopbackTokensWorkWithoutTls) {
  SecurityFlags flags;
  flags.require_tokens = true;
  Start(flags);
  channel_ = Channel(grpc::InsecureChannelCredentials());
  EXPECT_TRUE(absl::IsUnauthenticated(List("")));
  EXPECT_TRUE(List(Token(v1::ROLE_VIEWER)).ok());
}

TEST_F(AccessTest, ATokenThatComesUnencryptedFromElsewhereIsRefused) {
  const std::string elsewhere = testing::AddressOfThisHost();
  if (elsewhere.empty()) GTEST_SKIP() << "this machine has no address but loopback";
  SecurityFlags flags;
  flags.insecure = true;
  Start(flags, "0.0.0.0");
  channel_ = Channel(grpc::InsecureChannelCredentials(), elsewhere);
  EXPECT_TRUE(List("").ok());
  EXPECT_THAT(std::string(List("bitstair_1_2").message()), AllOf(HasSubstr("without TLS"), HasSubstr("revoked")));
  EXPECT_EQ(LastAudit(), "  ListJobs UNAUTHENTICATED");
  EXPECT_TRUE(absl::IsFailedPrecondition(
      Call(v1::Access::NewStub(channel_), &v1::Access::Stub::ListTokens, v1::ListTokensRequest(), std::make_unique<v1::ListTokensResponse>().get(), "")));
}

TEST_F(AccessTest, TheFirstAdminsTokenIsMadeOnce) {
  StartTls();
  const std::string admin = Admin();
  Stop();
  StartTls();
  EXPECT_EQ(Admin(), admin);
  ASSERT_TRUE(Revoke(admin).ok());
  Stop();
  StartTls();
  EXPECT_NE(Admin(), admin) << "nobody could let anybody in any more";
  EXPECT_TRUE(List(Admin()).ok());
}

TEST_F(AccessTest, OversizedAndMalformedMessagesAreRefused) {
  StartTls();
  v1::CreateJobRequest large;
  large.mutable_spec()->set_name(std::string(5 << 20, 'x'));
  v1::Job job;
  EXPECT_TRUE(absl::IsResourceExhausted(Call(v1::Jobs::NewStub(channel_), &v1::Jobs::Stub::CreateJob, large, &job, Admin())));
  EXPECT_EQ(LastAudit(), "first a admin CreateJob RESOURCE_EXHAUSTED");
  large.mutable_spec()->set_name(std::string(9 << 20, 'x'));
  EXPECT_TRUE(absl::IsResourceExhausted(Call(v1::Jobs::NewStub(channel_), &v1::Jobs::Stub::CreateJob, large, &job, Admin()))) << "by gRPC";
  const std::string junk = "\xff\xff\xff\xff\xff";
  EXPECT_EQ(CallRaw("/bitstair.v1.Jobs/CreateJob", junk, Admin()).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(LastAudit(), "first a admin CreateJob INVALID_ARGUMENT");
  EXPECT_EQ(CallRaw("/bitstair.v1.Jobs/WatchJob", junk, Admin()).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "a stream's request";
  EXPECT_EQ(LastAudit(), "first a admin WatchJob INVALID_ARGUMENT");
  EXPECT_TRUE(List(Admin()).ok()) << "and it serves on";
}

TEST_F(AccessTest, MethodsThatDoNotExistAreRefused) {
  StartTls();
  EXPECT_EQ(CallRaw("/bitstair.v1.Jobs/DropTables", "", Admin()).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(LastAudit(), "first a admin DropTables UNIMPLEMENTED");
  for (const char* service : {"/other.Service/", "/bitstair.v1.Jobs/"}) {
    EXPECT_EQ(CallRaw(service + std::string(5000, 'x'), "").error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_LT(Audit().back().dump().size(), 500U);
  }
  CallRaw("/bitstair.v1.Jobs/\xff\xfe", "");
  EXPECT_TRUE(List(Admin()).ok()) << "it serves on";
}

// Field 7 of the request asks for the names of all services.
TEST_F(AccessTest, ReflectionIsOnOnlyWhereItIsWanted) {
  for (const bool wanted : {true, false}) {
    Start({}, "127.0.0.1", wanted);
    channel_ = Channel(grpc::InsecureChannelCredentials());
    EXPECT_EQ(CallRaw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", std::string("\x3a\0", 2)).error_code(),
              wanted ? grpc::StatusCode::OK : grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(LastAudit(), wanted ? "" : "  /grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo UNIMPLEMENTED");
    Stop();
  }
}

TEST(SecurityFlagsTest, WhatIsAllowedWhere) {
  testing::TemporaryDirectory dir;
  const absl::Time now = absl::Now();
  const auto good = testing::MakeServerCertificate(dir.path(), now + absl::Hours(1));
  const daemon::HostPort loopback{"127.0.0.1", 1}, everywhere{"0.0.0.0", 1};
  EXPECT_TRUE(CheckSecurityFlags({}, loopback, now).ok());
  EXPECT_THAT(std::string(CheckSecurityFlags({}, everywhere, now).message()), AllOf(HasSubstr("--tls-cert"), HasSubstr("--insecure")));
  EXPECT_TRUE(CheckSecurityFlags({.insecure = true}, everywhere, now).ok());
  EXPECT_TRUE(CheckSecurityFlags({good.certificate, good.key}, everywhere, now).ok());
  EXPECT_THAT(std::string(CheckSecurityFlags({good.certificate, ""}, loopback, now).message()), HasSubstr("go together"));
  EXPECT_THAT(std::string(CheckSecurityFlags({good.key, good.key}, loopback, now).message()), HasSubstr("holds no certificate"));
  EXPECT_THAT(std::string(CheckSecurityFlags({good.certificate, dir.path() + "/none"}, loopback, now).message()), HasSubstr("/none"));
  EXPECT_THAT(std::string(CheckSecurityFlags({good.certificate, good.key}, loopback, now + absl::Hours(2)).message()), HasSubstr("expired at"));
  EXPECT_THAT(std::string(CheckSecurityFlags({.require_tokens = true, .insecure = true}, everywhere, now).message()), HasSubstr("unencrypted"));
}

}  // namespace
}  // namespace bitstair::server
