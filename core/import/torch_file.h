// What torch.save writes: zip files (since 1.6) and the older sequence of pickles and storages.
#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::core {

// Whether the first bytes are those of such a file.
bool IsTorchFile(absl::string_view bytes);

// The tensors of a state dict by name: the file's dict, or its entry "state_dict". Numbers, strings and the like beside them are passed over. `bytes` may be
// anything; code in it is never run. CPU, contiguous.
// DATA_LOSS "NAME: byte N: what" for a damaged file; PERMISSION_DENIED names what a pickle asks for beside tensors (core/import/pickle.h); INVALID_ARGUMENT for
// one that holds no tensors by name.
absl::StatusOr<std::map<std::string, at::Tensor>> DecodeTorchFile(absl::string_view bytes, const std::string& name);

}  // namespace bitstair::core
