#include "server/garbage.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace bitstair::server {

References FindReferences(const State& state, absl::Time ended_before) {
  std::set<std::string> needed;  // stages
  for (const auto& [id, job] : state.jobs) {
    const bool keep = !IsEnded(job.record.state()) || job.record.pinned();
    const absl::Time ended = FromStamp(job.record.end_time());
    for (const auto& link : job.record.job_stages()) {
      if (keep || ended >= ended_before) needed.insert(link.stage());
    }
  }
  References references;
  for (const auto& [name, stage] : state.stages) {
    const std::string& sha256 = stage.record.checkpoint().sha256();
    if (sha256.empty()) continue;
    (needed.count(name) > 0 || stage.attempt.has_value() ? references.kept : references.droppable)[sha256] = name;
  }
  for (const auto& [sha256, name] : references.kept) references.droppable.erase(sha256);
  return references;
}

v1::CollectGarbageResponse FindGarbage(const References& references, const std::vector<StoredBlob>& blobs, absl::Time now) {
  v1::CollectGarbageResponse response;
  for (const StoredBlob& blob : blobs) {
    v1::Garbage garbage;
    garbage.set_sha256(blob.sha256);
    garbage.set_size_bytes(blob.size_bytes);
    const auto droppable = references.droppable.find(blob.sha256);
    if (!blob.whole) {
      if (now - blob.modified > kPartialKept) garbage.set_reason("an upload that was given up");
    } else if (droppable != references.droppable.end()) {
      garbage.set_stage(droppable->second);
      garbage.set_reason("checkpoint of jobs that ended long ago");
    } else if (references.kept.count(blob.sha256) == 0 && now - blob.modified > kUnreferencedKept) {
      garbage.set_reason("nothing refers to it");
    }
    if (garbage.reason().empty()) {
      response.set_kept_blobs(response.kept_blobs() + 1);
      response.set_kept_bytes(response.kept_bytes() + blob.size_bytes);
    } else {
      *response.add_garbage() = std::move(garbage);
    }
  }
  std::sort(response.mutable_garbage()->begin(), response.mutable_garbage()->end(), [](const v1::Garbage& a, const v1::Garbage& b) {
    return a.size_bytes() != b.size_bytes() ? a.size_bytes() > b.size_bytes() : a.sha256() < b.sha256();
  });
  return response;
}

}  // namespace bitstair::server
