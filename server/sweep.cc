#include "server/sweep.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/field_mask_util.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace bitstair::server {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Value;
using google::protobuf::util::FieldMaskUtil;

// Top-level fields that are the job's. The data set's digest and the initial weights' are one per job, too.
const std::set<std::string>& JobFields() {
  static const auto* const fields = new std::set<std::string>{
      "name",   "ranks",     "min_ranks", "checkpoint", "max_attempts", "environment",     "share",           "priority",  "queue",    "preemptible",
      "labels", "placement", "sweep",     "require",    "stages",       "on_gate_failure", "initial_weights", "data.name", "data.path"};
  return *fields;
}

constexpr double kExact = 9007199254740992.0;  // 2^53: whole numbers beyond it are not exact in JSON

// How a value is called in messages.
std::string Shown(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNumberValue:
      return absl::StrCat(value.number_value());
    case Value::kStringValue:
      return absl::StrCat("\"", value.string_value().substr(0, 40), "\"");
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case Value::kListValue:
      return "a list";
    case Value::kStructValue:
      return "a group of keys";
    default:
      return "null";
  }
}

// Writes a value of JSON's kinds into a field. The error says what was expected.
class Setter {
 public:
  // "" if it fits; else what is wrong.
  std::string Set(Message* message, const FieldDescriptor* field, const Value& value) {
    message->GetReflection()->ClearField(message, field);
    if (value.kind_case() == Value::kNullValue) return "";
    if (field->is_map()) return SetMap(message, field, value);
    if (!field->is_repeated()) return SetOne(message, field, value);
    if (value.kind_case() != Value::kListValue) return Expected("a list", value);
    for (const Value& item : value.list_value().values()) {
      if (std::string wrong = SetOne(message, field, item); !wrong.empty()) return wrong;
    }
    return "";
  }

 private:
  static std::string Expected(const std::string& what, const Value& found) { return absl::StrCat("is ", Shown(found), "; must be ", what); }

  std::string SetMap(Message* message, const FieldDescriptor* field, const Value& value) {
    if (value.kind_case() != Value::kStructValue) return Expected("keys and values", value);
    const FieldDescriptor* content = field->message_type()->map_value();
    if (content->cpp_type() != FieldDescriptor::CPPTYPE_STRING) return "cannot be swept";
    for (const auto& [key, item] : value.struct_value().fields()) {
      Message* entry = message->GetReflection()->AddMessage(message, field);
      entry->GetReflection()->SetString(entry, field->message_type()->map_key(), key);
      // Plain values are text there, as in recipes.
      if (item.kind_case() == Value::kNumberValue) {
        entry->GetReflection()->SetString(entry, content, absl::StrCat(item.number_value()));
      } else if (item.kind_case() == Value::kStringValue) {
        entry->GetReflection()->SetString(entry, content, item.string_value());
      } else {
        return Expected("keys and texts", item);
      }
    }
    return "";
  }

  template <typename T, typename One, typename Add>
  void Put(Message* message, const FieldDescriptor* field, const T& value, One set, Add add) {
    const auto* reflection = message->GetReflection();
    field->is_repeated() ? (reflection->*add)(message, field, value) : (reflection->*set)(message, field, value);
  }

  template <typename T, typename One, typename Add>
  std::string Integer(Message* message, const FieldDescriptor* field, const Value& value, One set, Add add) {
    // Beyond 2^53 a JSON number is not exact; a text is.
    T number = 0;
    if (value.kind_case() == Value::kStringValue && absl::SimpleAtoi(value.string_value(), &number)) {
      Put<T>(message, field, number, set, add);
      return "";
    }
    const double given = value.number_value();
    if (value.kind_case() != Value::kNumberValue || given != std::floor(given)) return Expected("a whole number", value);
    if (std::abs(given) > kExact) return "is beyond 2^53; write it in quotes";
    if (given < static_cast<double>(std::numeric_limits<T>::min()) || given > static_cast<double>(std::numeric_limits<T>::max())) {
      return absl::StrCat("is ", given, ", out of range");
    }
    Put<T>(message, field, static_cast<T>(given), set, add);
    return "";
  }

  std::string Enum(Message* message, const FieldDescriptor* field, const Value& value) {
    const auto* type = field->enum_type();
    const std::string prefix(absl::StripSuffix(type->value(0)->name(), "UNSPECIFIED"));
    std::vector<std::string> words;
    for (int i = 1; i < type->value_count(); ++i) {
      words.push_back(absl::AsciiStrToLower(absl::StripPrefix(type->value(i)->name(), prefix)));
      if (value.string_value() != words.back() && value.string_value() != type->value(i)->name()) continue;
      Put<int>(message, field, type->value(i)->number(), &google::protobuf::Reflection::SetEnumValue, &google::protobuf::Reflection::AddEnumValue);
      return "";
    }
    return Expected(absl::StrJoin(words, " or "), value);
  }

  std::string Group(Message* message, const FieldDescriptor* field, const Value& value) {
    if (value.kind_case() != Value::kStructValue) return Expected("a group of keys", value);
    const auto* reflection = message->GetReflection();
    Message* group = field->is_repeated() ? reflection->AddMessage(message, field) : reflection->MutableMessage(message, field);
    std::map<std::string, const Value*> sorted;
    for (const auto& [key, item] : value.struct_value().fields()) sorted[key] = &item;
    for (const auto& [key, item] : sorted) {
      const FieldDescriptor* inner = group->GetDescriptor()->FindFieldByName(key);
      if (inner == nullptr) return absl::StrCat("has an unknown key \"", key.substr(0, 80), "\"");
      if (std::string wrong = Set(group, inner, *item); !wrong.empty()) return absl::StrCat(key, " ", wrong);
    }
    return "";
  }

  std::string SetOne(Message* message, const FieldDescriptor* field, const Value& value) {
    using R = google::protobuf::Reflection;
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_BOOL:
        if (value.kind_case() != Value::kBoolValue) return Expected("true or false", value);
        Put<bool>(message, field, value.bool_value(), &R::SetBool, &R::AddBool);
        return "";
      case FieldDescriptor::CPPTYPE_INT32:
        return Integer<int32_t>(message, field, value, &R::SetInt32, &R::AddInt32);
      case FieldDescriptor::CPPTYPE_UINT64:
        return Integer<uint64_t>(message, field, value, &R::SetUInt64, &R::AddUInt64);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        if (value.kind_case() != Value::kNumberValue) return Expected("a number", value);
        Put<double>(message, field, value.number_value(), &R::SetDouble, &R::AddDouble);
        return "";
      case FieldDescriptor::CPPTYPE_STRING:
        if (value.kind_case() != Value::kStringValue) return Expected("a text", value);
        Put<std::string>(message, field, value.string_value(), &R::SetString, &R::AddString);
        return "";
      case FieldDescriptor::CPPTYPE_ENUM:
        return Enum(message, field, value);
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Group(message, field, value);
      default:
        return "cannot be swept";
    }
  }
};

// What is wrong with the path itself; "" if it names a field that can be swept.
std::string CheckPath(const std::string& path) {
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  if (JobFields().count(path) > 0 || JobFields().count(parts[0]) > 0) return "is the job's and cannot be swept";
  const auto* message = v1::JobSpec::descriptor();
  for (size_t i = 0; i < parts.size(); ++i) {
    const FieldDescriptor* field = message == nullptr ? nullptr : message->FindFieldByName(parts[i]);
    if (field == nullptr) return "is no field of a recipe";
    const bool group = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated();
    message = group ? field->message_type() : nullptr;
  }
  return "";
}

std::string Assign(v1::JobSpec* spec, const std::string& path, const Value& value) {
  Message* message = spec;
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    // A field left out in a group that is not there needs no group.
    if (value.kind_case() == Value::kNullValue && !message->GetReflection()->HasField(*message, field)) return "";
    message = message->GetReflection()->MutableMessage(message, field);
  }
  return Setter().Set(message, message->GetDescriptor()->FindFieldByName(parts.back()), value);
}

std::string ValuePath(const std::string& field, int index) {
  return absl::StrCat("sweep[\"", field, "\"][", index, "]");
}

void AppendLabel(const Value& value, std::string* out) {
  switch (value.kind_case()) {
    case Value::kNumberValue:
      absl::StrAppend(out, value.number_value());
      break;
    case Value::kStringValue:
      absl::StrAppend(out, value.string_value());
      break;
    case Value::kBoolValue:
      absl::StrAppend(out, value.bool_value() ? "on" : "off");
      break;
    case Value::kListValue:
      for (int i = 0; i < value.list_value().values_size(); ++i) {
        if (i > 0) absl::StrAppend(out, "-");
        AppendLabel(value.list_value().values(i), out);
      }
      break;
    case Value::kStructValue: {
      std::map<std::string, const Value*> sorted;
      for (const auto& [key, item] : value.struct_value().fields()) sorted[key] = &item;
      if (sorted.empty()) absl::StrAppend(out, "on");
      bool first = true;
      for (const auto& [key, item] : sorted) {
        absl::StrAppend(out, first ? "" : "-", key, "-");
        AppendLabel(*item, out);
        first = false;
      }
      break;
    }
    default:
      absl::StrAppend(out, "none");
  }
}

}  // namespace

std::vector<Variant> ExpandSweep(const v1::JobSpec& spec, std::vector<FieldViolation>* faults) {
  v1::JobSpec base = spec;
  base.clear_sweep();
  std::map<std::string, const google::protobuf::ListValue*> axes;
  for (const auto& [field, values] : spec.sweep()) axes[field] = &values;
  const size_t faults_before = faults->size();
  int64_t count = 1;
  for (const auto& [field, values] : axes) {
    const std::string path = absl::StrCat("sweep[\"", field.substr(0, 80), "\"]");
    if (const std::string wrong = CheckPath(field); !wrong.empty()) {
      faults->push_back({path, wrong});
    } else if (values->values().empty()) {
      faults->push_back({path, "is empty; must have at least one value"});
    }
    std::set<std::string> seen;
    for (int i = 0; i < values->values_size() && i <= kMaxVariants; ++i) {
      if (!seen.insert(values->values(i).SerializeAsString()).second) faults->push_back({ValuePath(field, i), "is there already"});
    }
    for (const auto& [outer, unused] : axes) {
      if (field.compare(0, outer.size() + 1, outer + ".") == 0) faults->push_back({path, absl::StrCat("and ", outer, " overlap")});
    }
    count = std::min<int64_t>(count * std::max(1, values->values_size()), int64_t{1} << 40);
  }
  if (count > kMaxVariants) faults->push_back({"sweep", absl::StrCat("makes ", count, " variants; at most ", kMaxVariants)});
  if (faults->size() > faults_before) return {};
  std::vector<Variant> variants{{base, {}}};
  for (const auto& [field, values] : axes) {
    std::vector<Variant> next;
    for (const Variant& variant : variants) {
      for (int i = 0; i < values->values_size(); ++i) {
        Variant& added = next.emplace_back(variant);
        added.choices.emplace_back(field, i);
        const std::string wrong = Assign(&added.spec, field, values->values(i));
        if (!wrong.empty() && &variant == &variants[0]) faults->push_back({ValuePath(field, i), wrong});
      }
    }
    variants = std::move(next);
  }
  if (faults->size() > faults_before) return {};
  return variants;
}

std::string ChoiceLabel(const v1::JobSpec& spec, const std::pair<std::string, int>& choice) {
  const auto found = spec.sweep().find(choice.first);
  std::string label = absl::StrCat(choice.first.substr(choice.first.find_last_of('.') + 1), "-");
  if (found != spec.sweep().end() && choice.second < found->second.values_size()) AppendLabel(found->second.values(choice.second), &label);
  for (char& c : label) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') c = '-';
  }
  return label;
}

void CopyJobFields(const v1::JobSpec& from, v1::JobSpec* to) {
  google::protobuf::FieldMask mask;
  for (const std::string& name : JobFields()) {
    // What may differ in the variants stays as it was written.
    if (name != "sweep" && name != "stages" && name != "initial_weights" && name.find('.') == std::string::npos) mask.add_paths(name);
  }
  FieldMaskUtil::MergeOptions options;
  options.set_replace_message_fields(true);
  options.set_replace_repeated_fields(true);
  FieldMaskUtil::MergeMessageTo(from, mask, options, to);
}

}  // namespace bitstair::server
