#include "core/checkpoint/safetensors.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kAlignment = 8;  // of the tensors within the file
constexpr uint64_t kMaxHeaderBytes = 16 << 20;
constexpr size_t kMaxDimensions = 16;
constexpr int kMaxJsonDepth = 4;

struct Dtype {
  const char* name;
  at::ScalarType type;
  bool is_ours;  // in checkpoints; the others are read from other programs' files
};
constexpr Dtype kDtypes[] = {{"F64", at::kDouble, true}, {"I64", at::kLong, true},       {"F32", at::kFloat, true}, {"U8", at::kByte, true},
                             {"F16", at::kHalf, false},  {"BF16", at::kBFloat16, false}, {"I32", at::kInt, false},  {"I16", at::kShort, false},
                             {"I8", at::kChar, false},   {"BOOL", at::kBool, false}};

const Dtype* FindDtype(at::ScalarType type) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.type == type && dtype.is_ours) return &dtype;
  }
  return nullptr;
}

const Dtype* FindDtype(const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

// One tensor as the header describes it.
struct Entry {
  std::string name;
  const Dtype* dtype = nullptr;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in bytes, from the end of the header
  uint64_t end = 0;
};

std::optional<uint64_t> Unsigned(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<uint64_t>();
}

// What is wrong with the entry, or nothing.
std::optional<std::string> ParseEntry(const Json& json, uint64_t data_bytes, Entry& entry) {
  if (!json.is_object()) return "is not an object";
  const auto dtype = json.find("dtype"), shape = json.find("shape"), offsets = json.find("data_offsets");
  if (dtype == json.end() || shape == json.end() || offsets == json.end()) return "lacks dtype, shape or data_offsets";
  if (dtype->is_string()) entry.dtype = FindDtype(dtype->get<std::string>());
  if (entry.dtype == nullptr) return "has an unknown dtype";
  if (!shape->is_array() || shape->size() > kMaxDimensions) return "has no usable shape";
  uint64_t bytes = c10::elementSize(entry.dtype->type);
  for (const Json& side : *shape) {
    const std::optional<uint64_t> size = Unsigned(side);
    if (!size.has_value() || *size > uint64_t{1} << 40) return "has a size that is no number or too large";
    if (__builtin_mul_overflow(bytes, *size, &bytes)) return "has a shape that overflows";
    entry.shape.push_back(static_cast<int64_t>(*size));
  }
  if (!offsets->is_array() || offsets->size() != 2) return "has no usable data_offsets";
  const std::optional<uint64_t> begin = Unsigned((*offsets)[0]), end = Unsigned((*offsets)[1]);
  if (!begin.has_value() || !end.has_value() || *begin > *end || *end > data_bytes) return "lies outside the file";
  if (*end - *begin != bytes) return "has a shape that does not fit its bytes";
  entry.begin = *begin;
  entry.end = *end;
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::string> EncodeSafetensors(const SafetensorsFile& file) {
  std::vector<std::pair<Entry, at::Tensor>> order;
  for (const auto& [name, tensor] : file.tensors) {
    Entry entry;
    entry.name = name;
    entry.dtype = tensor.defined() ? FindDtype(tensor.scalar_type()) : nullptr;
    if (entry.dtype == nullptr) return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " has a dtype that checkpoints do not hold"));
    entry.shape = tensor.sizes().vec();
    order.emplace_back(std::move(entry), tensor.detach().cpu().contiguous());
  }
  // Wide elements first, so that every tensor is aligned; names break ties.
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });
  Json header = Json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  uint64_t offset = 0;
  for (auto& [entry, tensor] : order) {
    const uint64_t end = offset + tensor.nbytes();
    header[entry.name] = {{"dtype", entry.dtype->name}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  // Invalid UTF-8 in a name would throw otherwise; names are ours, and a replaced character only changes a name.
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.append((kAlignment - (kLengthBytes + text.size()) % kAlignment) % kAlignment, ' ');
  std::string bytes;
  bytes.reserve(kLengthBytes + text.size() + offset);
  for (size_t i = 0; i < kLengthBytes; ++i) bytes.push_back(static_cast<char>((uint64_t{text.size()} >> (8 * i)) & 0xff));
  bytes += text;
  for (const auto& [entry, tensor] : order) bytes.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  return bytes;
}

absl::StatusOr<SafetensorsFile> DecodeSafetensors(absl::string_view bytes, const std::string& name) {
  const auto fault = [&name](uint64_t byte, const std::string& what) { return absl::DataLossError(absl::StrCat(name, ": byte ", byte, ": ", what)); };
  if (bytes.size() < kLengthBytes) return fault(bytes.size(), "the file is truncated within the header's length");
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) header_bytes |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  if (header_bytes > kMaxHeaderBytes) return fault(0, absl::StrCat("a header of ", header_bytes, " bytes is longer than ", kMaxHeaderBytes));
  if (header_bytes > bytes.size() - kLengthBytes)
    return fault(bytes.size(), absl::StrCat("the file is truncated within its header of ", header_bytes, " bytes"));
  const absl::string_view text = bytes.substr(kLengthBytes, header_bytes);
  const absl::string_view data = bytes.substr(kLengthBytes + header_bytes);
  // Deeper values than any header has are dropped, so that nesting costs no memory.
  const Json header = Json::parse(
      text.begin(), text.end(), [](int depth, Json::parse_event_t, Json&) { return depth <= kMaxJsonDepth; }, /*allow_exceptions=*/false);
  if (!header.is_object()) return fault(kLengthBytes, "the header is not a JSON object");

  SafetensorsFile file;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") {
      if (!value.is_object()) return fault(kLengthBytes, "__metadata__ is not an object");
      for (const auto& [word, text_value] : value.items()) {
        if (!text_value.is_string()) return fault(kLengthBytes, absl::StrCat("__metadata__.", word, " is not a string"));
        file.metadata[word] = text_value.get<std::string>();
      }
      continue;
    }
    Entry entry;
    entry.name = key;
    if (const std::optional<std::string> wrong = ParseEntry(value, data.size(), entry); wrong.has_value()) {
      // A tensor beyond the end is how a truncated file shows.
      return fault(*wrong == "lies outside the file" ? bytes.size() : kLengthBytes, absl::StrCat("tensor ", key, " ", *wrong));
    }
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const uint64_t data_begin = kLengthBytes + header_bytes;
  uint64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered) {
      return fault(data_begin + entry.begin, absl::StrCat("tensor ", entry.name, entry.begin < covered ? " overlaps another" : " leaves a hole before it"));
    }
    covered = entry.end;
  }
  if (covered != data.size()) return fault(data_begin + covered, "bytes follow that belong to no tensor");
  for (const Entry& entry : entries) {
    at::Tensor tensor = at::empty(entry.shape, entry.dtype->type);
    if (entry.end > entry.begin) std::memcpy(tensor.mutable_data_ptr(), data.data() + entry.begin, entry.end - entry.begin);
    file.tensors.emplace(entry.name, std::move(tensor));
  }
  return file;
}

}  // namespace bitstair::core
