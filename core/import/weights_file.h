// Trained weights that other programs, or other jobs, have left in a file (docs/import.md).
#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace bitstair::core {

struct WeightsFile {
  // By the file's names, but "module." (of a network that was wrapped for data parallelism) is taken off where every name begins with it. CPU, contiguous.
  std::map<std::string, at::Tensor> tensors;
  // The words of a safetensors file's __metadata__; empty for other formats.
  std::map<std::string, std::string> metadata;

  // Of metadata; empty if it is not there.
  std::string word(const std::string& name) const;
  // One of our own, whose words docs/formats/checkpoint.md explains.
  bool is_checkpoint() const;
};

// Reads a file of weights: safetensors, also a checkpoint of our own, or what torch.save writes of a state dict, in its zip format and the one before 1.6. What
// it is, its bytes tell, not its name. No code in it is run.
// expected_sha256: hex; empty: any. DATA_LOSS names file and byte of a damaged file or says that the digest differs; PERMISSION_DENIED names what a
// pickle asks for beside tensors; NOT_FOUND and the like name the file.
absl::StatusOr<WeightsFile> ReadWeightsFile(const std::string& path, const std::string& expected_sha256 = "");

}  // namespace bitstair::core
