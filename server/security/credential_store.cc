#include "server/security/credential_store.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <future>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/digest/sha256.h"
#include "core/random/secure_random.h"
#include "proto/status.h"
#include "proto/timestamp.h"
#include "server/job_spec.h"

namespace bitstair::server {
namespace {

constexpr size_t kIdBytes = 5;
// 256 random bits: a plain digest of them cannot be guessed, so none of the slow functions for passwords is needed.
constexpr size_t kSecretBytes = 32;
constexpr size_t kMaxNameBytes = 100;
constexpr int kMaxQueues = 100;

bool SameDigest(const std::string& a, const std::string& b) {
  return a.size() == b.size() && !a.empty() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

absl::Status CheckInForce(const v1::Token& token, absl::Time now) {
  if (token.has_revoke_time()) return absl::UnauthenticatedError(absl::StrCat(token.name(), " was revoked"));
  if (token.has_expire_time() && FromStamp(token.expire_time()) <= now) {
    return absl::UnauthenticatedError(
        absl::StrCat(token.name(), " expired at ", absl::FormatTime(absl::RFC3339_sec, FromStamp(token.expire_time()), absl::UTCTimeZone())));
  }
  return absl::OkStatus();
}

std::vector<FieldViolation> FaultsOf(const v1::Token& wanted, absl::Duration life) {
  std::vector<FieldViolation> faults;
  const std::string& name = wanted.display_name();
  if (name.size() > kMaxNameBytes || std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; })) {
    faults.push_back({"token.display_name", absl::StrCat("must be at most ", kMaxNameBytes, " characters, none of them a control character")});
  }
  const v1::Role role = wanted.role();
  if (role != v1::ROLE_VIEWER && role != v1::ROLE_SUBMITTER && role != v1::ROLE_ADMIN && role != v1::ROLE_JOIN) {
    faults.push_back({"token.role", "must be ROLE_VIEWER, ROLE_SUBMITTER, ROLE_ADMIN or ROLE_JOIN"});
  }
  if (role != v1::ROLE_JOIN && name.empty()) faults.push_back({"token.display_name", "must say whose token it is"});
  if (!wanted.queues().empty() && role != v1::ROLE_SUBMITTER) faults.push_back({"token.queues", "are for submitters: viewers see all queues, admins use all"});
  if (wanted.queues_size() > kMaxQueues) faults.push_back({"token.queues", absl::StrCat("are more than ", kMaxQueues)});
  for (int i = 0; i < std::min(wanted.queues_size(), kMaxQueues); ++i) {
    if (!IsQueueName(wanted.queues(i)))
      faults.push_back({absl::StrCat("token.queues[", i, "]"), "must be 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'"});
  }
  if (life <= absl::ZeroDuration()) faults.push_back({"ttl", "must not be negative"});
  if (role == v1::ROLE_JOIN && life > CredentialStore::kDefaultLife) faults.push_back({"ttl", "of a join token must be at most 365 days"});
  return faults;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CredentialStore>> CredentialStore::Open(JobStore* store) {
  const auto fence = store->TakeFence();
  if (!fence.ok()) return fence.status();
  auto credentials = std::unique_ptr<CredentialStore>(new CredentialStore(store, *fence));
  const absl::MutexLock lock(&credentials->mutex_);
  absl::Status damaged;
  const auto loaded = store->Load([&](const StoreEntry& entry) {
    Held held;
    if (!held.record.ParseFromString(entry.value) || held.record.token().name() != entry.key) {
      damaged = absl::DataLossError(absl::StrCat("the store of tokens holds a damaged entry, ", absl::CHexEscape(entry.key)));
      return;
    }
    held.revoked->store(held.record.token().has_revoke_time());
    credentials->held_.emplace(entry.key, std::move(held));
  });
  if (!loaded.ok()) return loaded.status();
  if (!damaged.ok()) return damaged;
  return credentials;
}

absl::Status CredentialStore::Write(const std::vector<store::v1::TokenRecord>& records) {
  StoreCommit commit;
  commit.fence = fence_;
  for (const auto& record : records) commit.puts.push_back({record.token().name(), record.SerializeAsString()});
  std::promise<absl::StatusOr<int64_t>> done;
  store_->Commit(std::move(commit), [&done](absl::StatusOr<int64_t> revision) { done.set_value(std::move(revision)); });
  if (const auto revision = done.get_future().get(); !revision.ok()) return revision.status();
  for (const auto& record : records) {
    Held& held = held_[record.token().name()];
    held.record = record;
    held.revoked->store(record.token().has_revoke_time());
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::CreateTokenResponse> CredentialStore::Create(const v1::Token& wanted, absl::Duration life, absl::Time now) {
  if (const auto faults = FaultsOf(wanted, life); !faults.empty()) return InvalidFields(faults);
  const std::string id = core::SecureRandomHex(kIdBytes);
  v1::CreateTokenResponse made;
  v1::Token& token = *made.mutable_token();
  token.set_name(absl::StrCat("tokens/", id));
  token.set_display_name(wanted.display_name());
  token.set_role(wanted.role());
  *token.mutable_queues() = wanted.queues();
  token.set_creator(wanted.creator());
  SetTime(now, token.mutable_create_time());
  if (life != absl::InfiniteDuration()) SetTime(now + life, token.mutable_expire_time());
  made.set_secret(absl::StrCat("bitstair_", id, "_", core::SecureRandomHex(kSecretBytes)));
  store::v1::TokenRecord record;
  *record.mutable_token() = token;
  record.set_secret_digest(core::Sha256Hex(made.secret()));
  const absl::MutexLock lock(&mutex_);
  if (auto s = Write({record}); !s.ok()) return s;
  return made;
}

std::vector<v1::Token> CredentialStore::List() const {
  const absl::ReaderMutexLock lock(&mutex_);
  std::vector<v1::Token> tokens;
  for (const auto& [name, held] : held_) tokens.push_back(held.record.token());
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const v1::Token& a, const v1::Token& b) { return FromStamp(a.create_time()) < FromStamp(b.create_time()); });
  return tokens;
}

absl::StatusOr<v1::Token> CredentialStore::Revoke(const std::string& name, absl::Time now) {
  const absl::MutexLock lock(&mutex_);
  const auto found = held_.find(name);
  if (found == held_.end()) return absl::NotFoundError(absl::StrCat("there is no token \"", absl::CHexEscape(name.substr(0, kMaxNameBytes)), "\""));
  store::v1::TokenRecord record = found->second.record;
  if (record.token().has_revoke_time()) return record.token();
  SetTime(now, record.mutable_token()->mutable_revoke_time());
  if (auto s = Write({record}); !s.ok()) return s;
  return record.token();
}

bool CredentialStore::HasAdmin(absl::Time now) const {
  const absl::ReaderMutexLock lock(&mutex_);
  return std::any_of(held_.begin(), held_.end(), [&](const auto& entry) {
    return entry.second.record.token().role() == v1::ROLE_ADMIN && CheckInForce(entry.second.record.token(), now).ok();
  });
}

absl::StatusOr<const CredentialStore::Held*> CredentialStore::FindSecret(absl::string_view secret, absl::Time now) const {
  const std::vector<absl::string_view> parts = absl::StrSplit(secret, '_');
  if (parts.size() != 3 || parts[0] != "bitstair") return absl::UnauthenticatedError("this is no token of Bitstair's");
  const auto found = held_.find(absl::StrCat("tokens/", parts[1]));
  if (found == held_.end() || !SameDigest(found->second.record.secret_digest(), core::Sha256Hex(secret)))
    return absl::UnauthenticatedError("the token is not known here");
  if (auto s = CheckInForce(found->second.record.token(), now); !s.ok()) return s;
  return &found->second;
}

absl::StatusOr<Credential> CredentialStore::Verify(absl::string_view secret, absl::Time now) const {
  const absl::ReaderMutexLock lock(&mutex_);
  const auto held = FindSecret(secret, now);
  if (!held.ok()) return held.status();
  return Credential{(*held)->record.token(), (*held)->revoked};
}

absl::StatusOr<Credential> CredentialStore::Join(absl::string_view secret, const std::string& public_key, const std::string& worker_id, const std::string& host,
                                                 absl::Time now) {
  const absl::MutexLock lock(&mutex_);
  const auto held = FindSecret(secret, now);
  if (!held.ok()) return held.status();
  store::v1::TokenRecord join = (*held)->record;
  if (join.token().role() != v1::ROLE_JOIN) return absl::UnauthenticatedError(absl::StrCat(join.token().name(), " is not a join token"));
  if (join.token().has_spend_time()) {
    if (join.spent_on_key() != public_key)
      return absl::UnauthenticatedError(absl::StrCat(join.token().name(), " is spent; each worker needs a join token of its own"));
    const Held& bought = held_.at(join.spent_on_credential());
    if (auto s = CheckInForce(bought.record.token(), now); !s.ok()) return s;
    return Credential{bought.record.token(), bought.revoked};
  }
  store::v1::TokenRecord worker;
  v1::Token& token = *worker.mutable_token();
  token.set_name(absl::StrCat("tokens/", core::SecureRandomHex(kIdBytes)));
  token.set_display_name(host);
  token.set_role(v1::ROLE_WORKER);
  token.set_worker(absl::StrCat("workers/", worker_id));
  token.set_creator(join.token().name());
  SetTime(now, token.mutable_create_time());
  SetTime(now + kWorkerLife, token.mutable_expire_time());
  SetTime(now, join.mutable_token()->mutable_spend_time());
  join.set_spent_on_key(public_key);
  join.set_spent_on_credential(token.name());
  if (auto s = Write({worker, join}); !s.ok()) return s;
  return Credential{token, held_.at(token.name()).revoked};
}

absl::StatusOr<Credential> CredentialStore::FindWorker(const std::string& id, absl::Time now) const {
  const absl::ReaderMutexLock lock(&mutex_);
  const auto found = held_.find(absl::StrCat("tokens/", id));
  if (found == held_.end() || found->second.record.token().role() != v1::ROLE_WORKER)
    return absl::UnauthenticatedError("the certificate is not of a worker known here");
  if (auto s = CheckInForce(found->second.record.token(), now); !s.ok()) return s;
  return Credential{found->second.record.token(), found->second.revoked};
}

absl::Status CredentialStore::Renew(const std::string& name, absl::Time now) {
  const absl::MutexLock lock(&mutex_);
  const auto found = held_.find(name);
  if (found == held_.end()) return absl::NotFoundError(absl::StrCat("there is no token ", name));
  store::v1::TokenRecord record = found->second.record;
  SetTime(now + kWorkerLife, record.mutable_token()->mutable_expire_time());
  return Write({record});
}

}  // namespace bitstair::server
