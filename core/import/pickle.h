// Python's pickle format, as far as torch.save of tensors in dicts needs it. Nothing is ever called: a file's globals are names, compared with a short list.
// Source: CPython, Lib/pickletools.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::core {

struct PickleValue {
  enum class Kind {
    kNone,
    kBoolean,
    kInteger,
    kReal,
    kString,
    kTuple,
    kList,
    kDict,        // also collections.OrderedDict; items: key, value, key, value, ...
    kGlobal,      // text: "torch._utils._rebuild_tensor_v2"
    kCall,        // of a global; items: the global, the tuple of arguments
    kPersistent,  // items: the tuple that names it
  };
  Kind kind = Kind::kNone;
  int64_t integer = 0;  // kInteger, kBoolean
  double real = 0;
  std::string text;           // kString: its bytes; kInteger beyond 64 bits: its little-endian bytes
  std::vector<size_t> items;  // indices into Pickle::values; may form cycles
};

struct Pickle {
  std::vector<PickleValue> values;
  size_t root = 0;   // index of the result
  size_t bytes = 0;  // that the pickle took

  const PickleValue& at(size_t index) const { return values[index]; }
};

// Reads one pickle (protocols 2 to 5) at the start of `bytes`, which may be anything. DATA_LOSS says "byte N: what", N from `bytes`' begin plus `offset`;
// PERMISSION_DENIED names a global outside the allowed ones: collections.OrderedDict, the functions of torch._utils that rebuild tensors and parameters, and
// the classes of storages. Memory is bounded by the bytes: at most kMaxPickleValues values.
absl::StatusOr<Pickle> ReadPickle(absl::string_view bytes, size_t offset = 0);

inline constexpr size_t kMaxPickleValues = size_t{1} << 20;

}  // namespace bitstair::core
