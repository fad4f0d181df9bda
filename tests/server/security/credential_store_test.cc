#include "server/security/credential_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files/durable_file.h"
#include "proto/status.h"
#include "server/sqlite_job_store.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

v1::Token Wanted(v1::Role role, const std::string& name = "alice") {
  v1::Token token;
  token.set_role(role);
  token.set_display_name(name);
  return token;
}

class CredentialStoreTest : public ::testing::Test {
 protected:
  CredentialStoreTest() { Open(); }
  void Open() {
    credentials_.reset();
    store_.reset();
    store_ = *SqliteJobStore::Open(dir_.path() + "/tokens.db", {});
    credentials_ = *CredentialStore::Open(store_.get());
  }
  v1::CreateTokenResponse Make(v1::Role role, absl::Duration life = absl::Hours(1)) {
    auto made = credentials_->Create(Wanted(role), life, kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }

  testing::TemporaryDirectory dir_;
  std::unique_ptr<SqliteJobStore> store_;
  std::unique_ptr<CredentialStore> credentials_;
};

TEST_F(CredentialStoreTest, ASecretIsGoodUntilItExpiresAlsoAfterARestart) {
  const auto made = Make(v1::ROLE_SUBMITTER);
  for (int i = 0; i < 2; ++i) {
    const auto found = credentials_->Verify(made.secret(), kNow + absl::Minutes(59));
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->token.display_name(), "alice");
    EXPECT_FALSE(*found->revoked);
    const auto late = credentials_->Verify(made.secret(), kNow + absl::Minutes(60));
    EXPECT_TRUE(absl::IsUnauthenticated(late.status()));
    EXPECT_THAT(std::string(late.status().message()), HasSubstr("expired at"));
    Open();
  }
  EXPECT_TRUE(credentials_->Verify(Make(v1::ROLE_VIEWER, absl::InfiniteDuration()).secret(), absl::FromUnixSeconds(1LL << 40)).ok());
}

TEST_F(CredentialStoreTest, NoFileHoldsTheSecret) {
  const std::string secret = Make(v1::ROLE_ADMIN).secret();
  const std::string random = secret.substr(secret.rfind('_') + 1);
  ASSERT_EQ(random.size(), 64u);
  for (const char* file : {"/tokens.db", "/tokens.db-wal"}) {
    const auto bytes = core::ReadFile(dir_.path() + file);
    if (bytes.ok()) {
      EXPECT_THAT(*bytes, Not(HasSubstr(random))) << file;
    }
  }
}

TEST_F(CredentialStoreTest, WhatIsAlmostASecretIsNone) {
  const auto made = Make(v1::ROLE_ADMIN);
  std::string flipped = made.secret();
  flipped.back() = flipped.back() == '0' ? '1' : '0';
  const std::string other = Make(v1::ROLE_VIEWER).secret();
  const std::string mixed = made.secret().substr(0, made.secret().rfind('_')) + other.substr(other.rfind('_'));
  for (const std::string& wrong : std::vector<std::string>{std::string(), std::string("x"), flipped, mixed, made.secret() + "0", made.token().name(),
                                                           "bitstair__", std::string(100'000, '_')}) {
    const auto found = credentials_->Verify(wrong, kNow);
    EXPECT_TRUE(absl::IsUnauthenticated(found.status())) << wrong.substr(0, 100);
    if (wrong.size() > 20) {
      EXPECT_THAT(std::string(found.status().message()), Not(HasSubstr(wrong.substr(0, 20))));
    }
  }
}

TEST_F(CredentialStoreTest, ARevokedTokenIsToldToThoseWhoUseIt) {
  const auto made = Make(v1::ROLE_ADMIN);
  EXPECT_TRUE(credentials_->HasAdmin(kNow));
  const auto used = credentials_->Verify(made.secret(), kNow);
  ASSERT_TRUE(credentials_->Revoke(made.token().name(), kNow).ok());
  EXPECT_TRUE(*used->revoked);
  EXPECT_FALSE(credentials_->HasAdmin(kNow));
  EXPECT_TRUE(credentials_->Revoke(made.token().name(), kNow + absl::Seconds(5)).ok()) << "a second time changes nothing";
  Open();
  EXPECT_THAT(std::string(credentials_->Verify(made.secret(), kNow).status().message()), HasSubstr("was revoked"));
  EXPECT_EQ(credentials_->List()[0].revoke_time().seconds(), absl::ToUnixSeconds(kNow));
  EXPECT_TRUE(absl::IsNotFound(credentials_->Revoke("tokens/none", kNow).status()));
}

TEST_F(CredentialStoreTest, AJoinTokenBuysOneCertificate) {
  const auto join = Make(v1::ROLE_JOIN);
  const auto first = credentials_->Join(join.secret(), "key-1", "abc", "host", kNow);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->token.worker(), "workers/abc");
  Open();
  // The answer may have been lost: the same key gets the same credential. Another key gets nothing.
  const auto again = credentials_->Join(join.secret(), "key-1", "abc", "host", kNow);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->token.name(), first->token.name());
  EXPECT_THAT(std::string(credentials_->Join(join.secret(), "key-2", "abc", "host", kNow).status().message()), HasSubstr("is spent"));
  EXPECT_TRUE(absl::IsUnauthenticated(credentials_->Join(Make(v1::ROLE_ADMIN).secret(), "key-3", "abc", "host", kNow).status()));
  EXPECT_TRUE(absl::IsUnauthenticated(credentials_->Join(Make(v1::ROLE_JOIN).secret(), "key-3", "abc", "host", kNow + absl::Hours(2)).status())) << "expired";
  ASSERT_TRUE(credentials_->Revoke(first->token.name(), kNow).ok());
  EXPECT_FALSE(credentials_->Join(join.secret(), "key-1", "abc", "host", kNow).ok()) << "what it bought was revoked";
}

TEST_F(CredentialStoreTest, AWorkersCertificateLivesUntilItIsNotRenewed) {
  const auto joined = credentials_->Join(Make(v1::ROLE_JOIN).secret(), "key", "abc", "host", kNow);
  const std::string id = joined->token.name().substr(7);
  EXPECT_TRUE(credentials_->FindWorker(id, kNow).ok());
  const absl::Time later = kNow + CredentialStore::kWorkerLife;
  EXPECT_TRUE(absl::IsUnauthenticated(credentials_->FindWorker(id, later).status()));
  ASSERT_TRUE(credentials_->Renew(joined->token.name(), kNow + absl::Hours(1)).ok());
  EXPECT_TRUE(credentials_->FindWorker(id, later).ok());
  EXPECT_TRUE(absl::IsUnauthenticated(credentials_->FindWorker(Make(v1::ROLE_ADMIN).token().name().substr(7), kNow).status()))
      << "a person's token is no worker";
  EXPECT_TRUE(absl::IsUnauthenticated(credentials_->FindWorker("../x", kNow).status()));
}

TEST_F(CredentialStoreTest, FaultsAreNamed) {
  const auto faults_of = [&](const v1::Token& wanted, absl::Duration life = absl::Hours(1)) {
    std::vector<std::string> fields;
    for (const auto& fault : GetFieldViolations(credentials_->Create(wanted, life, kNow).status())) fields.push_back(fault.field);
    return fields;
  };
  EXPECT_THAT(faults_of(Wanted(v1::ROLE_VIEWER, "")), ElementsAre("token.display_name"));
  EXPECT_THAT(faults_of(Wanted(v1::ROLE_VIEWER, "a\nb")), ElementsAre("token.display_name"));
  EXPECT_THAT(faults_of(Wanted(v1::ROLE_WORKER)), ElementsAre("token.role"));
  EXPECT_THAT(faults_of(Wanted(static_cast<v1::Role>(77))), ElementsAre("token.role"));
  EXPECT_THAT(faults_of(Wanted(v1::ROLE_VIEWER), absl::Seconds(-1)), ElementsAre("ttl"));
  EXPECT_THAT(faults_of(Wanted(v1::ROLE_JOIN), absl::InfiniteDuration()), ElementsAre("ttl"));
  v1::Token queues = Wanted(v1::ROLE_SUBMITTER);
  queues.add_queues("vision");
  queues.add_queues("a/b");
  EXPECT_THAT(faults_of(queues), ElementsAre("token.queues[1]"));
  queues.set_role(v1::ROLE_VIEWER);
  EXPECT_THAT(faults_of(queues), ElementsAre("token.queues", "token.queues[1]"));
  EXPECT_TRUE(credentials_->List().empty());
}

}  // namespace
}  // namespace bitstair::server
