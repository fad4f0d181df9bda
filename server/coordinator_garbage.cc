// Garbage collection of the artifact store: what refers to a blob is the coordinator's to know (server/garbage.h).
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/status.h"
#include "server/coordinator.h"
#include "server/garbage.h"

namespace bitstair::server {
namespace {

constexpr int kMaxGarbageShown = 1000;
constexpr auto kCollectInterval = absl::Hours(1);

}  // namespace

void Coordinator::CollectGarbage(v1::CollectGarbageRequest request, Reply<v1::CollectGarbageResponse> reply) {
  absl::Duration older_than = absl::InfiniteDuration();
  if (request.has_older_than()) {
    older_than = absl::Seconds(request.older_than().seconds()) + absl::Nanoseconds(request.older_than().nanos());
    if (older_than < absl::ZeroDuration()) {
      return Post([reply = std::move(reply)] { reply(InvalidFields({{"older_than", "is below zero"}})); });
    }
  }
  // Reading the folder takes its time; what may go is decided afterwards, where nothing can change in between.
  boost::asio::post(log_thread_, [this, older_than, dry_run = request.dry_run(), reply = std::move(reply)] {
    auto blobs = artifacts_->List();
    Post([this, older_than, dry_run, reply, blobs = std::move(blobs)] {
      if (!blobs.ok()) return reply(blobs.status());
      reply(DropGarbage(*blobs, older_than, dry_run));
    });
  });
}

v1::CollectGarbageResponse Coordinator::DropGarbage(const std::vector<StoredBlob>& blobs, absl::Duration older_than, bool dry_run) {
  const absl::Time now = Now();
  const absl::Time ended_before = older_than == absl::InfiniteDuration() ? absl::InfinitePast() : now - older_than;
  v1::CollectGarbageResponse found = FindGarbage(FindReferences(state_, ended_before), blobs, now);
  v1::CollectGarbageResponse response = found;
  response.clear_garbage();
  for (const v1::Garbage& garbage : found.garbage()) {
    // Of a stage that nobody needs; or it may just have been asked for, to become a checkpoint.
    const absl::Time unless_used_since = garbage.stage().empty() ? absl::Now() - kUnreferencedKept : absl::InfiniteFuture();
    const bool gone = dry_run || artifacts_->Remove(garbage.sha256(), unless_used_since);
    if (!gone) {
      response.set_kept_blobs(response.kept_blobs() + 1);
      response.set_kept_bytes(response.kept_bytes() + garbage.size_bytes());
      continue;
    }
    response.set_deleted_blobs(response.deleted_blobs() + 1);
    response.set_deleted_bytes(response.deleted_bytes() + garbage.size_bytes());
    if (response.garbage_size() < kMaxGarbageShown) *response.add_garbage() = garbage;
    if (!dry_run) spdlog::info("garbage collection: deleted {} of {} bytes: {} {}", garbage.sha256(), garbage.size_bytes(), garbage.reason(), garbage.stage());
  }
  return response;
}

void Coordinator::CollectSometimes(absl::Time now) {
  if (options_.retention == absl::InfiniteDuration() || now < next_collection_) return;
  next_collection_ = now + kCollectInterval;
  v1::CollectGarbageRequest request;
  request.mutable_older_than()->set_seconds(absl::ToInt64Seconds(options_.retention));
  CollectGarbage(request, [](const absl::StatusOr<v1::CollectGarbageResponse>& response) {
    if (!response.ok()) return spdlog::warn("garbage collection: {}", std::string(response.status().message()));
    if (response->deleted_blobs() > 0) spdlog::info("garbage collection: {} blobs of {} bytes deleted", response->deleted_blobs(), response->deleted_bytes());
  });
}

}  // namespace bitstair::server
