// Training state on disk: one safetensors file (docs/formats/checkpoint.md) and a JSON manifest beside it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitstair::core {

// The word "format" in a checkpoint's metadata.
inline constexpr char kCheckpointFormat[] = "bitstair-checkpoint-1";

// The file's bytes are a function of exactly these fields: no times, no attempts, no machine.
struct Checkpoint {
  std::string stage_key;
  std::string stage_name;  // by its widths, "W4A8"
  int weight_bits = 32;
  int activation_bits = 32;
  std::string network;
  int epoch = 0;       // whole epochs done in the stage
  int64_t step = 0;    // steps done of the next one
  bool final = false;  // the stage is done
  // Ranks that trained it; where gradients are summed over fixed shards (docs/elastic.md) their number instead, and any number of ranks.
  int world_size = 1;
  int shards = 0;  // 0: no fixed shards; else world_size is not stored
  // Sums over the current epoch so far, needed to go on reporting it exactly.
  double epoch_loss_sum = 0;
  int64_t epoch_correct = 0;
  // A guided pair: the same of its full-precision net, and of the hint. A distillation: of its teacher, and of the divergence.
  struct PairSums {
    double loss = 0;
    int64_t correct = 0;
    double hint = 0;
  };
  std::optional<PairSums> pair;
  // A distillation: the same of its further students.
  struct NetSums {
    double loss = 0;
    int64_t correct = 0;
  };
  std::vector<NetSums> students;
  // "layer1.0.conv1.weight" (latent weights), "momentum/NAME", "rank0/bn1.running_mean" (every rank's own copy; with fixed shards "shard0/...") and, in a final
  // checkpoint or at an epoch's end, "bn1.running_mean" (the average). A guided pair: the low-precision net as above, the full-precision one behind "full/",
  // further students of a distillation behind "student2/", "student3/" and so on.
  std::map<std::string, at::Tensor> tensors;
};

struct SavedCheckpoint {
  std::string path;
  std::string sha256;
  int64_t size_bytes = 0;
};

// Writes DIRECTORY/<sha256>.safetensors and <sha256>.manifest.json (digest, size, position, numeric profile), each durably. Deterministic bytes.
absl::StatusOr<SavedCheckpoint> SaveCheckpoint(const std::string& directory, const Checkpoint& checkpoint, const std::string& numeric_profile);

// DATA_LOSS, naming file and byte, on a file that is truncated, malformed, or (where expected_sha256 is not empty) has another digest.
absl::StatusOr<Checkpoint> LoadCheckpoint(const std::string& path, const std::string& expected_sha256 = "");

}  // namespace bitstair::core
