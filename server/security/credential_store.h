// Who may use the coordinator: tokens of people, join tokens, and workers' certificates (docs/security.md). Secrets are kept as digests only.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitstair/store/v1/records.pb.h"
#include "bitstair/v1/access.pb.h"
#include "server/job_store.h"

namespace bitstair::server {

// One that is in force. Calls that go on for long look at `revoked` while they do.
struct Credential {
  v1::Token token;
  std::shared_ptr<const std::atomic<bool>> revoked;
};

// In memory, written through to its store. Thread-safe; functions that write wait for the disk.
class CredentialStore {
 public:
  static constexpr absl::Duration kDefaultLife = absl::Hours(24 * 365);
  static constexpr absl::Duration kDefaultJoinLife = absl::Hours(1);
  static constexpr absl::Duration kWorkerLife = absl::Hours(24 * 365);

  // Takes the fence of `store`, which nothing else writes to and which outlives the object.
  static absl::StatusOr<std::unique_ptr<CredentialStore>> Open(JobStore* store);

  // `wanted`: display_name, role, queues, creator; absl::InfiniteDuration() for one that never expires. INVALID_ARGUMENT names the field.
  absl::StatusOr<v1::CreateTokenResponse> Create(const v1::Token& wanted, absl::Duration life, absl::Time now);
  std::vector<v1::Token> List() const;
  // NOT_FOUND: no such token.
  absl::StatusOr<v1::Token> Revoke(const std::string& name, absl::Time now);
  bool HasAdmin(absl::Time now) const;

  // UNAUTHENTICATED says what is wrong with the secret, without repeating it.
  absl::StatusOr<Credential> Verify(absl::string_view secret, absl::Time now) const;

  // Spends a join token on the worker with this public key (its SHA-256): the credential whose name its certificate will carry. Asking again with the same key
  // gives the same one, since the answer may have been lost. UNAUTHENTICATED: not a join token in force, or spent on another key.
  absl::StatusOr<Credential> Join(absl::string_view secret, const std::string& public_key, const std::string& worker_id, const std::string& host,
                                  absl::Time now);
  // By the part of a worker credential's name after "tokens/". UNAUTHENTICATED: unknown, expired, revoked, or not a worker's.
  absl::StatusOr<Credential> FindWorker(const std::string& id, absl::Time now) const;
  // A renewed certificate lives from `now` on.
  absl::Status Renew(const std::string& name, absl::Time now);

 private:
  struct Held {
    store::v1::TokenRecord record;
    std::shared_ptr<std::atomic<bool>> revoked = std::make_shared<std::atomic<bool>>(false);
  };

  CredentialStore(JobStore* store, int64_t fence) : store_(store), fence_(fence) {}
  absl::StatusOr<const Held*> FindSecret(absl::string_view secret, absl::Time now) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status Write(const std::vector<store::v1::TokenRecord>& records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  JobStore* const store_;
  const int64_t fence_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Held> held_ ABSL_GUARDED_BY(mutex_);  // by name
};

}  // namespace bitstair::server
