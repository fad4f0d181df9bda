// The safetensors container: 8 bytes header length (little endian), JSON header, raw tensors. Source: https://github.com/huggingface/safetensors (format
// section). Ours is the strict subset that docs/formats/checkpoint.md describes.
#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::core {

struct SafetensorsFile {
  std::map<std::string, std::string> metadata;
  std::map<std::string, at::Tensor> tensors;  // CPU, contiguous
};

// The file's bytes, a function of the contents alone. INVALID_ARGUMENT names a tensor that is not of float32, float64, int64 or uint8.
absl::StatusOr<std::string> EncodeSafetensors(const SafetensorsFile& file);

// The reverse, for those and float16, bfloat16, the signed integers and bool. `bytes` may be anything: DATA_LOSS says "NAME: byte N: what". Allocates no more
// than the bytes hold.
absl::StatusOr<SafetensorsFile> DecodeSafetensors(absl::string_view bytes, const std::string& name);

}  // namespace bitstair::core
