// Which blobs of the artifact store may go. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bitstair/v1/artifacts.pb.h"
#include "server/artifact_store.h"
#include "server/domain.h"

namespace bitstair::server {

// How long a blob that nothing refers to stays: it may be on its way to become a checkpoint. And an upload that is not whole: it may be resumed.
inline constexpr absl::Duration kUnreferencedKept = absl::Hours(1);
inline constexpr absl::Duration kPartialKept = absl::Hours(24);

// Checkpoints by reference: whose they are, and whether they may go. A stage's newest checkpoint is kept as long as one of its jobs has not ended, is pinned,
// or ended at or after `ended_before` (InfinitePast: always).
struct References {
  std::map<std::string, std::string> kept;       // sha256 -> stage
  std::map<std::string, std::string> droppable;  // likewise; in kept of no other stage
};
References FindReferences(const State& state, absl::Time ended_before);

// Of `blobs`, those that may go.
v1::CollectGarbageResponse FindGarbage(const References& references, const std::vector<StoredBlob>& blobs, absl::Time now);

}  // namespace bitstair::server
