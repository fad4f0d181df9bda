#include "core/import/torch_file.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/import/pickle.h"

namespace bitstair::core {
namespace {

using Kind = PickleValue::Kind;

constexpr absl::string_view kZipMagic("PK\x03\x04", 4);
// The first pickle of the older format: protocol 2 and the number 0x1950a86a20f9469cfc6c.
constexpr absl::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
constexpr int64_t kLegacyProtocol = 1001;
constexpr size_t kMaxDimensions = 16;
constexpr uint64_t kSharing = 4;  // tensors may overlap in storages, but not to many times the file
constexpr char kStorage[] = "storage";

struct StorageType {
  const char* name;
  at::ScalarType type;
};
constexpr StorageType kStorageTypes[] = {
    {"torch.FloatStorage", at::kFloat}, {"torch.DoubleStorage", at::kDouble}, {"torch.HalfStorage", at::kHalf},   {"torch.BFloat16Storage", at::kBFloat16},
    {"torch.LongStorage", at::kLong},   {"torch.IntStorage", at::kInt},       {"torch.ShortStorage", at::kShort}, {"torch.CharStorage", at::kChar},
    {"torch.ByteStorage", at::kByte},   {"torch.BoolStorage", at::kBool},
};

// The bytes of the storage called `key`, which must be `size` bytes.
using FindStorage = std::function<absl::StatusOr<absl::string_view>(const std::string& key, uint64_t size)>;

// A tensor as the pickle tells it.
struct TensorRecord {
  at::ScalarType type = at::kFloat;
  std::string key;
  int64_t storage_size = 0;  // elements, as the offset and the strides are
  int64_t offset = 0;
  std::vector<int64_t> sizes, strides;
  int64_t count = 0;  // elements
  int64_t span = 0;   // from its first to its last in the storage
};

bool Integers(const Pickle& pickle, size_t index, std::vector<int64_t>* numbers) {
  const PickleValue& tuple = pickle.at(index);
  if (tuple.kind != Kind::kTuple || tuple.items.size() > kMaxDimensions) return false;
  for (const size_t item : tuple.items) {
    if (pickle.at(item).kind != Kind::kInteger || !pickle.at(item).text.empty() || pickle.at(item).integer < 0) return false;
    numbers->push_back(pickle.at(item).integer);
  }
  return true;
}

// ('storage', class, key, device, size, None)
bool ParseStorage(const PickleValue& value, const Pickle& pickle, TensorRecord* record) {
  if (value.kind != Kind::kPersistent || pickle.at(value.items[0]).kind != Kind::kTuple) return false;
  const std::vector<size_t>& parts = pickle.at(value.items[0]).items;
  if (parts.size() < 5 || parts.size() > 6 || pickle.at(parts[0]).text != kStorage || pickle.at(parts[1]).kind != Kind::kGlobal) return false;
  if (pickle.at(parts[2]).kind != Kind::kString || pickle.at(parts[4]).kind != Kind::kInteger || pickle.at(parts[4]).integer < 0) return false;
  if (parts.size() == 6 && pickle.at(parts[5]).kind != Kind::kNone) return false;  // a view of another storage
  const auto* const type =
      std::find_if(std::begin(kStorageTypes), std::end(kStorageTypes), [&](const StorageType& t) { return pickle.at(parts[1]).text == t.name; });
  if (type == std::end(kStorageTypes)) return false;
  record->type = type->type;
  record->key = pickle.at(parts[2]).text;
  record->storage_size = pickle.at(parts[4]).integer;
  return true;
}

// What is wrong with it, or "".
std::string ParseTensor(size_t index, const Pickle& pickle, TensorRecord* record) {
  const PickleValue* call = &pickle.at(index);
  for (int wrapped = 0; call->kind == Kind::kCall && pickle.at(call->items[0]).text == "torch._utils._rebuild_parameter"; ++wrapped) {
    const std::vector<size_t>& arguments = pickle.at(call->items[1]).items;
    if (wrapped > 0 || arguments.empty()) return "is no parameter";
    call = &pickle.at(arguments[0]);
  }
  if (call->kind != Kind::kCall || !absl::StartsWith(pickle.at(call->items[0]).text, "torch._utils._rebuild_tensor")) return "is no tensor";
  const std::vector<size_t>& arguments = pickle.at(call->items[1]).items;
  if (arguments.size() < 4 || !ParseStorage(pickle.at(arguments[0]), pickle, record)) return "has no usable storage";
  const PickleValue& offset = pickle.at(arguments[1]);
  if (offset.kind != Kind::kInteger || offset.integer < 0 || !Integers(pickle, arguments[2], &record->sizes) ||
      !Integers(pickle, arguments[3], &record->strides) || record->sizes.size() != record->strides.size()) {
    return "has no usable shape";
  }
  record->offset = offset.integer;
  int64_t count = 1, last = record->offset;
  for (size_t d = 0; d < record->sizes.size(); ++d) {
    int64_t step = 0;
    if (__builtin_mul_overflow(count, record->sizes[d], &count)) return "has a shape that overflows";
    if (record->sizes[d] > 0 && (__builtin_mul_overflow(record->sizes[d] - 1, record->strides[d], &step) || __builtin_add_overflow(last, step, &last)))
      return "has a shape that overflows";
  }
  if (count > 0 && last >= record->storage_size) return "reaches beyond its storage";
  if (count > record->storage_size) return "is larger than its storage";
  record->count = count;
  record->span = count > 0 ? last - record->offset + 1 : 0;
  return "";
}

absl::StatusOr<at::Tensor> MakeTensor(const TensorRecord& record, const FindStorage& find) {
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(record.storage_size), c10::elementSize(record.type), &bytes)) {
    return absl::DataLossError("has a storage whose size overflows");
  }
  const absl::StatusOr<absl::string_view> storage = find(record.key, bytes);
  if (!storage.ok()) return storage.status();
  if (record.count == 0) return at::empty(record.sizes, record.type);
  // A copy of the part that it needs: a storage may lie anywhere in the file, and may hold far more.
  at::Tensor flat = at::empty({record.span}, record.type);
  std::memcpy(flat.mutable_data_ptr(), storage->data() + static_cast<uint64_t>(record.offset) * flat.element_size(), flat.nbytes());
  return flat.as_strided(record.sizes, record.strides).contiguous().clone();
}

// The dict's value of this key; null if there is none.
const PickleValue* Entry(const PickleValue& dict, const Pickle& pickle, absl::string_view key) {
  const PickleValue* found = nullptr;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    if (pickle.at(dict.items[i]).kind == Kind::kString && pickle.at(dict.items[i]).text == key) found = &pickle.at(dict.items[i + 1]);
  }
  return found;
}

absl::StatusOr<std::map<std::string, at::Tensor>> Tensors(const Pickle& pickle, const FindStorage& find, uint64_t file_bytes, const std::string& name) {
  const PickleValue* dict = &pickle.at(pickle.root);
  if (dict->kind == Kind::kDict) {
    if (const PickleValue* inner = Entry(*dict, pickle, "state_dict"); inner != nullptr) dict = inner;
  }
  if (dict->kind != Kind::kDict) return absl::InvalidArgumentError(absl::StrCat(name, ": holds no dict of tensors"));
  std::map<std::string, at::Tensor> tensors;
  uint64_t total = 0;
  for (size_t i = 0; i < dict->items.size(); i += 2) {
    const PickleValue& key = pickle.at(dict->items[i]);
    if (key.kind != Kind::kString || pickle.at(dict->items[i + 1]).kind != Kind::kCall) continue;
    const auto fault = [&](absl::string_view what) { return absl::DataLossError(absl::StrCat(name, ": tensor ", absl::CHexEscape(key.text), " ", what)); };
    TensorRecord record;
    if (const std::string wrong = ParseTensor(dict->items[i + 1], pickle, &record); !wrong.empty()) return fault(wrong);
    total += static_cast<uint64_t>(record.span);
    if (total > kSharing * file_bytes) return fault("makes the tensors many times larger than the file");
    const absl::StatusOr<at::Tensor> tensor = MakeTensor(record, find);
    if (!tensor.ok()) return fault(tensor.status().message());
    tensors.insert_or_assign(key.text, *tensor);
  }
  if (tensors.empty())
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds no tensors by name, neither in its dict nor in an entry \"state_dict\" of it"));
  return tensors;
}

class BytesReader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit BytesReader(absl::string_view bytes) : bytes_(bytes) {}
  size_t size() const override { return bytes_.size(); }
  size_t read(uint64_t pos, void* buf, size_t n, const char* /*what*/) const override {
    if (pos >= bytes_.size()) return 0;
    const size_t count = std::min<uint64_t>(n, bytes_.size() - pos);
    std::memcpy(buf, bytes_.data() + pos, count);
    return count;
  }

 private:
  const absl::string_view bytes_;
};

// The zip format: data.pkl, and each storage in a record data/KEY. Throws c10::Error where the zip file is damaged.
absl::StatusOr<std::map<std::string, at::Tensor>> DecodeZip(absl::string_view bytes, const std::string& name) {
  caffe2::serialize::PyTorchStreamReader reader(std::make_shared<BytesReader>(bytes));
  std::map<std::string, std::pair<at::DataPtr, size_t>> records;
  // A record that says it is larger than the file would be compressed, which torch.save's never are.
  const auto read = [&](const std::string& record) -> absl::StatusOr<absl::string_view> {
    if (!reader.hasRecord(record)) return absl::DataLossError(absl::StrCat("misses record ", absl::CHexEscape(record)));
    auto found = records.find(record);
    if (found == records.end()) {
      if (reader.getRecordSize(record) > bytes.size()) return absl::DataLossError(absl::StrCat("has a compressed record ", absl::CHexEscape(record)));
      auto [data, size] = reader.getRecord(record);
      found = records.emplace(record, std::pair(std::move(data), size)).first;
    }
    return absl::string_view(static_cast<const char*>(found->second.first.get()), found->second.second);
  };
  const auto in_file = [&name](const absl::Status& status) { return absl::Status(status.code(), absl::StrCat(name, ": ", status.message())); };
  if (reader.hasRecord("byteorder")) {
    const absl::StatusOr<absl::string_view> order = read("byteorder");
    if (!order.ok()) return in_file(order.status());
    if (*order != "little") return absl::InvalidArgumentError(absl::StrCat(name, ": is not little-endian"));
  }
  const absl::StatusOr<absl::string_view> text = read("data.pkl");
  if (!text.ok()) return in_file(text.status());
  const absl::StatusOr<Pickle> pickle = ReadPickle(*text);
  if (!pickle.ok()) return absl::Status(pickle.status().code(), absl::StrCat(name, ": data.pkl: ", pickle.status().message()));
  const FindStorage find = [&](const std::string& key, uint64_t size) -> absl::StatusOr<absl::string_view> {
    absl::StatusOr<absl::string_view> storage = read(absl::StrCat("data/", key));
    if (storage.ok() && storage->size() != size) {
      return absl::DataLossError(absl::StrCat("has a storage of ", storage->size(), " bytes instead of ", size));
    }
    return storage;
  };
  return Tensors(*pickle, find, bytes.size(), name);
}

uint64_t LittleEndian(absl::string_view eight) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value |= uint64_t{static_cast<uint8_t>(eight[i])} << (8 * i);
  return value;
}

// The older format: pickles of a magic number, a version, the machine, the object and the storages' keys; then for each key its size in elements and its bytes.
absl::StatusOr<std::map<std::string, at::Tensor>> DecodeLegacy(absl::string_view bytes, const std::string& name) {
  Pickle parts[5];
  size_t at = 0;
  for (Pickle& part : parts) {
    absl::StatusOr<Pickle> pickle = ReadPickle(bytes.substr(at), at);
    if (!pickle.ok()) return absl::Status(pickle.status().code(), absl::StrCat(name, ": ", pickle.status().message()));
    at += pickle->bytes;
    part = *std::move(pickle);
  }
  const auto& [magic, version, machine, object, keys] = parts;
  if (version.at(version.root).kind != Kind::kInteger || version.at(version.root).integer != kLegacyProtocol) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": is not of PyTorch's file protocol ", kLegacyProtocol));
  }
  const PickleValue* little = Entry(machine.at(machine.root), machine, "little_endian");
  if (machine.at(machine.root).kind != Kind::kDict || little == nullptr || little->integer != 1) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": is not little-endian"));
  }
  // Elements' sizes are known from the object alone.
  std::map<std::string, size_t> element_bytes;
  for (const PickleValue& value : object.values) {
    TensorRecord record;
    if (value.kind == Kind::kPersistent && ParseStorage(value, object, &record)) element_bytes[record.key] = c10::elementSize(record.type);
  }
  std::map<std::string, absl::string_view> storages;
  if (keys.at(keys.root).kind != Kind::kList) return absl::DataLossError(absl::StrCat(name, ": byte ", at, ": the keys of the storages are no list"));
  for (const size_t item : keys.at(keys.root).items) {
    const auto known = element_bytes.find(keys.at(item).text);
    if (known == element_bytes.end()) return absl::DataLossError(absl::StrCat(name, ": byte ", at, ": a storage that no tensor has"));
    uint64_t size = 0;
    if (bytes.size() - at < 8 || __builtin_mul_overflow(LittleEndian(bytes.substr(at, 8)), uint64_t{known->second}, &size) || size > bytes.size() - at - 8) {
      return absl::DataLossError(absl::StrCat(name, ": byte ", bytes.size(), ": the file is truncated within storage ", absl::CHexEscape(known->first)));
    }
    storages[known->first] = bytes.substr(at + 8, size);
    at += 8 + size;
  }
  const FindStorage find = [&](const std::string& key, uint64_t size) -> absl::StatusOr<absl::string_view> {
    const auto found = storages.find(key);
    if (found == storages.end()) return absl::DataLossError("has a storage that is not in the file");
    if (found->second.size() != size) return absl::DataLossError(absl::StrCat("has a storage of ", found->second.size(), " bytes instead of ", size));
    return found->second;
  };
  return Tensors(object, find, bytes.size(), name);
}

}  // namespace

bool IsTorchFile(absl::string_view bytes) {
  return absl::StartsWith(bytes, kZipMagic) || absl::StartsWith(bytes, kLegacyMagic);
}

absl::StatusOr<std::map<std::string, at::Tensor>> DecodeTorchFile(absl::string_view bytes, const std::string& name) {
  try {
    return absl::StartsWith(bytes, kZipMagic) ? DecodeZip(bytes, name) : DecodeLegacy(bytes, name);
  } catch (const c10::Error& error) {
    return absl::DataLossError(absl::StrCat(name, ": ", error.what_without_backtrace()));
  }
}

}  // namespace bitstair::core
