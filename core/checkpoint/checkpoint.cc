#include "core/checkpoint/checkpoint.h"

#include <cmath>
#include <limits>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/checkpoint/safetensors.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"

namespace bitstair::core {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

// The stage's own net is the first student.
std::string StudentWord(size_t further, const char* what) {
  return absl::StrCat("epoch_student", further + 2, "_", what);
}

// What the batch statistics in a checkpoint are of, and how many there are.
std::pair<std::string, int> PartsOf(const Checkpoint& checkpoint) {
  return checkpoint.shards > 0 ? std::pair("shards", checkpoint.shards) : std::pair("world_size", checkpoint.world_size);
}

// Reads the metadata's words one by one and remembers the first fault.
class MetadataReader {
 public:
  explicit MetadataReader(const std::map<std::string, std::string>& words) : words_(words) {}

  std::string Text(const std::string& word) {
    const auto found = words_.find(word);
    if (found == words_.end()) Fail(absl::StrCat("__metadata__ lacks ", word));
    return found == words_.end() ? "" : found->second;
  }

  int64_t Integer(const std::string& word, int64_t max) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(Text(word), &value) || value < 0 || value > max) Fail(absl::StrCat("__metadata__.", word, " is not a number from 0 to ", max));
    return value;
  }

  double Real(const std::string& word) {
    double value = 0;
    if (!absl::SimpleAtod(Text(word), &value) || !std::isfinite(value)) Fail(absl::StrCat("__metadata__.", word, " is not a finite number"));
    return value;
  }

  void Fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }
  const std::string& failure() const { return failure_; }

 private:
  const std::map<std::string, std::string>& words_;
  std::string failure_;
};

}  // namespace

absl::StatusOr<SavedCheckpoint> SaveCheckpoint(const std::string& directory, const Checkpoint& checkpoint, const std::string& numeric_profile) {
  SafetensorsFile file;
  file.metadata = {
      {"format", kCheckpointFormat},
      {"stage_key", checkpoint.stage_key},
      {"stage_name", checkpoint.stage_name},
      {"weight_bits", absl::StrCat(checkpoint.weight_bits)},
      {"activation_bits", absl::StrCat(checkpoint.activation_bits)},
      {"network", checkpoint.network},
      {"epoch", absl::StrCat(checkpoint.epoch)},
      {"step", absl::StrCat(checkpoint.step)},
      {"final", checkpoint.final ? "1" : "0"},
      {"epoch_loss_sum", absl::StrFormat("%.17g", checkpoint.epoch_loss_sum)},
      {"epoch_correct", absl::StrCat(checkpoint.epoch_correct)},
  };
  const auto [parts_word, parts] = PartsOf(checkpoint);
  file.metadata[parts_word] = absl::StrCat(parts);
  if (checkpoint.pair.has_value()) {
    file.metadata["epoch_full_loss_sum"] = absl::StrFormat("%.17g", checkpoint.pair->loss);
    file.metadata["epoch_full_correct"] = absl::StrCat(checkpoint.pair->correct);
    file.metadata["epoch_hint_sum"] = absl::StrFormat("%.17g", checkpoint.pair->hint);
  }
  for (size_t i = 0; i < checkpoint.students.size(); ++i) {
    file.metadata[StudentWord(i, "loss_sum")] = absl::StrFormat("%.17g", checkpoint.students[i].loss);
    file.metadata[StudentWord(i, "correct")] = absl::StrCat(checkpoint.students[i].correct);
  }
  file.tensors = checkpoint.tensors;
  const absl::StatusOr<std::string> bytes = EncodeSafetensors(file);
  if (!bytes.ok()) return bytes.status();

  SavedCheckpoint saved;
  saved.sha256 = Sha256Hex(*bytes);
  saved.size_bytes = static_cast<int64_t>(bytes->size());
  saved.path = absl::StrCat(directory, "/", saved.sha256, ".safetensors");
  if (const absl::Status status = WriteFileDurably(saved.path, *bytes); !status.ok()) return status;
  nlohmann::json manifest = {
      {"format", kCheckpointFormat},         {"sha256", saved.sha256},    {"size_bytes", saved.size_bytes}, {"stage_key", checkpoint.stage_key},
      {"stage_name", checkpoint.stage_name}, {"epoch", checkpoint.epoch}, {"step", checkpoint.step},        {"final", checkpoint.final},
      {"numeric_profile", numeric_profile},
  };
  manifest[parts_word] = parts;
  const std::string text = manifest.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (const absl::Status status = WriteFileDurably(absl::StrCat(directory, "/", saved.sha256, ".manifest.json"), text); !status.ok()) return status;
  return saved;
}

absl::StatusOr<Checkpoint> LoadCheckpoint(const std::string& path, const std::string& expected_sha256) {
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  if (!expected_sha256.empty()) {
    const std::string sha256 = Sha256Hex(*bytes);
    if (sha256 != expected_sha256) {
      return absl::DataLossError(absl::StrCat(path, ": bytes 0 to ", bytes->size(), " have SHA-256 ", sha256, ", not ", expected_sha256));
    }
  }
  absl::StatusOr<SafetensorsFile> file = DecodeSafetensors(*bytes, path);
  if (!file.ok()) return file.status();
  MetadataReader words(file->metadata);
  Checkpoint checkpoint;
  if (words.Text("format") != kCheckpointFormat) words.Fail(absl::StrCat("__metadata__.format is not ", kCheckpointFormat));
  checkpoint.stage_key = words.Text("stage_key");
  checkpoint.stage_name = words.Text("stage_name");
  checkpoint.weight_bits = static_cast<int>(words.Integer("weight_bits", 32));
  checkpoint.activation_bits = static_cast<int>(words.Integer("activation_bits", 32));
  checkpoint.network = words.Text("network");
  checkpoint.epoch = static_cast<int>(words.Integer("epoch", kMaxInt));
  checkpoint.step = words.Integer("step", kMaxInt64);
  checkpoint.final = words.Integer("final", 1) == 1;
  if (file->metadata.contains("shards")) {
    checkpoint.shards = static_cast<int>(words.Integer("shards", kMaxInt));
  } else {
    checkpoint.world_size = static_cast<int>(words.Integer("world_size", kMaxInt));
  }
  checkpoint.epoch_loss_sum = words.Real("epoch_loss_sum");
  checkpoint.epoch_correct = words.Integer("epoch_correct", kMaxInt64);
  if (file->metadata.contains("epoch_hint_sum")) {
    checkpoint.pair = {
        .loss = words.Real("epoch_full_loss_sum"), .correct = words.Integer("epoch_full_correct", kMaxInt64), .hint = words.Real("epoch_hint_sum")};
  }
  for (size_t i = 0; file->metadata.contains(StudentWord(i, "loss_sum")); ++i) {
    checkpoint.students.push_back({.loss = words.Real(StudentWord(i, "loss_sum")), .correct = words.Integer(StudentWord(i, "correct"), kMaxInt64)});
  }
  if (!words.failure().empty()) return absl::DataLossError(absl::StrCat(path, ": byte 8: ", words.failure()));
  checkpoint.tensors = std::move(file->tensors);
  return checkpoint;
}

}  // namespace bitstair::core
