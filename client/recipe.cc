#include "client/recipe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/yaml_tree.h"
#include "server/job_spec.h"

namespace bitstair::client {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Levenshtein distance.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// "; did you mean X?", or the whole list where nothing is near.
std::string Suggest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  if (word.size() <= 64) {
    for (const std::string& candidate : known) {
      const size_t distance = EditDistance(absl::AsciiStrToLower(word), candidate);
      if (distance < best_distance) {
        best_distance = distance;
        best = candidate;
      }
    }
    if (best_distance <= std::max<size_t>(2, best.size() / 2)) return absl::StrCat("; did you mean \"", best, "\"?");
  }
  return absl::StrCat("; known: ", absl::StrJoin(known, ", "));
}

std::vector<std::string> FieldNames(const Descriptor& message) {
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
  return names;
}

// Enum values as recipes write them: STAGE_ORDER_PER_WIDTH -> per_width. Without the unspecified one.
std::vector<std::pair<std::string, int>> EnumWords(const EnumDescriptor& type) {
  const std::string prefix(absl::StripSuffix(type.value(0)->name(), "UNSPECIFIED"));
  std::vector<std::pair<std::string, int>> words;
  for (int i = 1; i < type.value_count(); ++i) {
    words.emplace_back(absl::AsciiStrToLower(absl::StripPrefix(type.value(i)->name(), prefix)), type.value(i)->number());
  }
  return words;
}

std::string KindOf(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return absl::StrCat(node.quoted ? "the text " : "", "\"", Printable(node.text, 40), "\"");
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMap:
      break;
  }
  return "a group of keys";
}

// Fills a message from a tree by reflection and collects every fault on the way.
class Filler {
 public:
  // `set`: the whole text of a --set, empty for a file.
  Filler(std::string file, std::string set, std::map<std::string, RecipeLocation>& locations, std::vector<std::string>& faults)
      : file_(std::move(file)), set_(std::move(set)), locations_(locations), faults_(faults) {}

  void FillMessage(Message& message, const YamlNode& node, const std::string& path) {
    for (const auto& [key, value] : node.entries) {
      const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(key.text);
      if (field == nullptr) {
        Fault(key,
              absl::StrCat("unknown key \"", Printable(absl::StrCat(Prefix(path), key.text)), "\"", Suggest(key.text, FieldNames(*message.GetDescriptor()))));
        continue;
      }
      Mark(Prefix(path) + field->name(), key);
      FillField(message, *field, value, Prefix(path) + field->name(), key);
    }
  }

  // `at`: where to show a value that is missing.
  void FillField(Message& message, const FieldDescriptor& field, const YamlNode& node, const std::string& path, const YamlNode& at) {
    const Reflection& reflection = *message.GetReflection();
    if (node.kind == YamlNode::Kind::kNull) return Fault(at, absl::StrCat(path, ": a value is missing"));
    if (&field == RanksField() && FillRange(message, node, path)) return;
    if (field.is_map() && field.message_type()->map_value()->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) return FillLists(message, field, node, path);
    if (field.is_map()) return FillMap(message, field, node, path);
    if (field.is_repeated()) {
      if (node.kind != YamlNode::Kind::kSequence) return Fault(node, absl::StrCat(path, ": expected a list such as [32, 8, 4], found ", KindOf(node)));
      reflection.ClearField(&message, &field);
      for (size_t i = 0; i < node.items.size(); ++i) {
        const std::string item_path = absl::StrCat(path, "[", i, "]");
        Mark(item_path, node.items[i]);
        if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
          if (ExpectKeys(field, node.items[i], item_path)) FillMessage(*reflection.AddMessage(&message, &field), node.items[i], item_path);
        } else {
          FillScalar(message, field, node.items[i], item_path);
        }
      }
      return;
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (ExpectKeys(field, node, path)) FillMessage(*reflection.MutableMessage(&message, &field), node, path);
      return;
    }
    FillScalar(message, field, node, path);
  }

  void Fault(const YamlNode& node, const std::string& text) {
    faults_.push_back(set_.empty() ? absl::StrCat(file_, ":", node.line, ":", node.column, ": ", text) : absl::StrCat("--set ", Printable(set_), ": ", text));
  }

 private:
  static std::string Prefix(const std::string& path) { return path.empty() ? "" : path + "."; }

  void Mark(const std::string& path, const YamlNode& node) {
    locations_[path] = set_.empty() ? RecipeLocation{node.line, node.column, ""} : RecipeLocation{0, 0, set_};
  }

  bool ExpectKeys(const FieldDescriptor& field, const YamlNode& node, const std::string& path) {
    if (node.kind == YamlNode::Kind::kMap) return true;
    Fault(node, absl::StrCat(path, ": expected a group of keys (", absl::StrJoin(FieldNames(*field.message_type()), ", "), "), found ", KindOf(node)));
    return false;
  }

  static const FieldDescriptor* RanksField() { return v1::JobSpec::descriptor()->FindFieldByNumber(v1::JobSpec::kRanksFieldNumber); }

  // "1..8": min_ranks and ranks. False: no such text.
  bool FillRange(Message& message, const YamlNode& node, const std::string& path) {
    const size_t dots = node.kind == YamlNode::Kind::kScalar ? node.text.find("..") : std::string::npos;
    if (dots == std::string::npos) return false;
    int32_t least = 0, most = 0;
    if (!absl::SimpleAtoi(node.text.substr(0, dots), &least) || !absl::SimpleAtoi(node.text.substr(dots + 2), &most)) {
      Fault(node, absl::StrCat(path, ": expected a whole number or a range such as 1..8, found ", KindOf(node)));
      return true;
    }
    auto& spec = static_cast<v1::JobSpec&>(message);
    spec.set_min_ranks(least);
    spec.set_ranks(most);
    Mark("min_ranks", node);
    return true;
  }

  // map<string, ListValue>: lists of anything that a field can be.
  void FillLists(Message& message, const FieldDescriptor& field, const YamlNode& node, const std::string& path) {
    if (node.kind != YamlNode::Kind::kMap) return Fault(node, absl::StrCat(path, ": expected fields with lists of values, found ", KindOf(node)));
    if (node.entries.empty()) return Fault(node, absl::StrCat(path, ": is empty; expected fields with lists of values, such as {seed: [1, 2]}"));
    for (const auto& [key, value] : node.entries) {
      const std::string entry_path = absl::StrCat(path, "[\"", key.text, "\"]");
      if (value.kind != YamlNode::Kind::kSequence) {
        Fault(value.kind == YamlNode::Kind::kNull ? key : value,
              absl::StrCat(Printable(entry_path), ": expected a list such as [1, 2], found ", KindOf(value)));
        continue;
      }
      Mark(entry_path, key);
      google::protobuf::ListValue list;
      for (size_t i = 0; i < value.items.size(); ++i) {
        Mark(absl::StrCat(entry_path, "[", i, "]"), value.items[i]);
        *list.add_values() = AnyValue(value.items[i]);
      }
      Message* entry = message.GetReflection()->AddMessage(&message, &field);
      entry->GetReflection()->SetString(entry, field.message_type()->map_key(), key.text);
      entry->GetReflection()->MutableMessage(entry, field.message_type()->map_value())->CopyFrom(list);
    }
  }

  static google::protobuf::Value AnyValue(const YamlNode& node) {
    google::protobuf::Value value;
    double number = 0;
    switch (node.kind) {
      case YamlNode::Kind::kNull:
        value.set_null_value(google::protobuf::NULL_VALUE);
        break;
      case YamlNode::Kind::kScalar:
        if (!node.quoted && (node.text == "true" || node.text == "false")) {
          value.set_bool_value(node.text == "true");
        } else if (!node.quoted && node.text.find_first_not_of("+-.0123456789eE") == std::string::npos && absl::SimpleAtod(node.text, &number) &&
                   std::isfinite(number)) {
          value.set_number_value(number);
        } else {
          value.set_string_value(Printable(node.text, node.text.size()));
        }
        break;
      case YamlNode::Kind::kSequence:
        value.mutable_list_value();
        for (const YamlNode& item : node.items) *value.mutable_list_value()->add_values() = AnyValue(item);
        break;
      case YamlNode::Kind::kMap:
        value.mutable_struct_value();
        for (const auto& [key, item] : node.entries) (*value.mutable_struct_value()->mutable_fields())[key.text] = AnyValue(item);
        break;
    }
    return value;
  }

  // map<string, string>: every plain value is text, so that OMP_NUM_THREADS: 1 needs no quotes.
  void FillMap(Message& message, const FieldDescriptor& field, const YamlNode& node, const std::string& path) {
    if (node.kind != YamlNode::Kind::kMap) return Fault(node, absl::StrCat(path, ": expected keys and values, found ", KindOf(node)));
    const Reflection& reflection = *message.GetReflection();
    for (const auto& [key, value] : node.entries) {
      const std::string entry_path = absl::StrCat(path, "[\"", key.text, "\"]");
      if (value.kind == YamlNode::Kind::kScalar && Printable(value.text, value.text.size()) != value.text) {
        Fault(value, absl::StrCat(Printable(entry_path), ": \"", Printable(value.text, 40), "\" has control characters"));
        continue;
      }
      if (value.kind != YamlNode::Kind::kScalar) {
        Fault(value.kind == YamlNode::Kind::kNull ? key : value, absl::StrCat(Printable(entry_path), ": expected a text, found ", KindOf(value)));
        continue;
      }
      Mark(entry_path, key);
      // An entry set again replaces the former one when the map is next read as a map.
      Message* entry = reflection.AddMessage(&message, &field);
      entry->GetReflection()->SetString(entry, field.message_type()->map_key(), key.text);
      entry->GetReflection()->SetString(entry, field.message_type()->map_value(), value.text);
    }
  }

  void FillScalar(Message& message, const FieldDescriptor& field, const YamlNode& node, const std::string& path) {
    const auto wrong = [&](const std::string& expected) { Fault(node, absl::StrCat(path, ": expected ", expected, ", found ", KindOf(node))); };
    const bool scalar = node.kind == YamlNode::Kind::kScalar;
    const bool plain = scalar && !node.quoted;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        if (!scalar) return wrong("a text");
        if (Printable(node.text, node.text.size()) != node.text)
          return Fault(node, absl::StrCat(path, ": \"", Printable(node.text, 40), "\" has control characters"));
        return Put<std::string>(message, field, node.text, &Reflection::SetString, &Reflection::AddString);
      case FieldDescriptor::CPPTYPE_BOOL:
        if (!plain || (node.text != "true" && node.text != "false")) return wrong("true or false");
        return Put<bool>(message, field, node.text == "true", &Reflection::SetBool, &Reflection::AddBool);
      case FieldDescriptor::CPPTYPE_INT32:
        if (const auto value = Integer<int32_t>(node, path)) Put<int32_t>(message, field, *value, &Reflection::SetInt32, &Reflection::AddInt32);
        return;
      case FieldDescriptor::CPPTYPE_INT64:
        if (const auto value = Integer<int64_t>(node, path)) Put<int64_t>(message, field, *value, &Reflection::SetInt64, &Reflection::AddInt64);
        return;
      case FieldDescriptor::CPPTYPE_UINT32:
        if (const auto value = Integer<uint32_t>(node, path)) Put<uint32_t>(message, field, *value, &Reflection::SetUInt32, &Reflection::AddUInt32);
        return;
      case FieldDescriptor::CPPTYPE_UINT64:
        if (const auto value = Integer<uint64_t>(node, path)) Put<uint64_t>(message, field, *value, &Reflection::SetUInt64, &Reflection::AddUInt64);
        return;
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        double value = 0;
        if (!plain || node.text.find_first_not_of("+-.0123456789eE") != std::string::npos || !absl::SimpleAtod(node.text, &value)) return wrong("a number");
        if (!std::isfinite(value)) return Fault(node, absl::StrCat(path, ": ", Printable(node.text, 40), " is out of a double's range"));
        return Put<double>(message, field, value, &Reflection::SetDouble, &Reflection::AddDouble);
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        const auto words = EnumWords(*field.enum_type());
        std::vector<std::string> known;
        for (const auto& [word, number] : words) {
          known.push_back(word);
          if (scalar && node.text == word) return Put<int>(message, field, number, &Reflection::SetEnumValue, &Reflection::AddEnumValue);
        }
        if (!scalar) return wrong(absl::StrJoin(known, " or "));
        return Fault(node, absl::StrCat(path, ": unknown value \"", Printable(node.text, 40), "\"", Suggest(node.text, known)));
      }
      default:
        return wrong("another kind of value");
    }
  }

  // A whole number in T's range, or a fault.
  template <typename T>
  std::optional<T> Integer(const YamlNode& node, const std::string& path) {
    const bool plain = node.kind == YamlNode::Kind::kScalar && !node.quoted;
    absl::string_view digits = plain ? absl::string_view(node.text) : absl::string_view();
    if (absl::StartsWith(digits, "-") || absl::StartsWith(digits, "+")) digits.remove_prefix(1);
    if (digits.empty() || digits.find_first_not_of("0123456789") != absl::string_view::npos) {
      Fault(node, absl::StrCat(path, ": expected a whole number, found ", KindOf(node)));
      return std::nullopt;
    }
    T value = 0;
    if (!absl::SimpleAtoi(node.text, &value)) {
      Fault(node, absl::StrCat(path, ": ", Printable(node.text, 40), " is out of range (", std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max(),
                               ")"));
      return std::nullopt;
    }
    return value;
  }

  template <typename T, typename Set, typename Add>
  static void Put(Message& message, const FieldDescriptor& field, const T& value, Set set, Add add) {
    const Reflection* reflection = message.GetReflection();
    if (field.is_repeated()) {
      (reflection->*add)(&message, &field, value);
    } else {
      (reflection->*set)(&message, &field, value);
    }
  }

  const std::string file_;
  const std::string set_;
  std::map<std::string, RecipeLocation>& locations_;
  std::vector<std::string>& faults_;
};

void ForgetLocations(std::map<std::string, RecipeLocation>& locations, const std::string& path) {
  for (auto it = locations.lower_bound(path); it != locations.end() && absl::StartsWith(it->first, path);) {
    const bool inside = it->first.size() == path.size() || it->first[path.size()] == '[';
    it = inside ? locations.erase(it) : std::next(it);
  }
}

void ApplySet(const std::string& set, Recipe& recipe, std::vector<std::string>& faults) {
  Filler filler(recipe.file, set, recipe.locations, faults);
  const YamlNode nowhere;
  const size_t equals = set.find('=');
  if (equals == std::string::npos || equals == 0) return filler.Fault(nowhere, "expected KEY=VALUE, such as quantized.epochs=5");
  const std::string path = set.substr(0, equals);
  const std::string text = set.substr(equals + 1);
  const std::vector<std::string> keys = absl::StrSplit(path, '.');
  Message* message = &recipe.spec;
  const FieldDescriptor* field = nullptr;
  YamlNode value;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (field != nullptr && field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      return filler.Fault(nowhere, absl::StrCat("\"", Printable(path), "\": ", field->name(), " has no keys of its own"));
    }
    if (field != nullptr) message = message->GetReflection()->MutableMessage(message, field);
    field = message->GetDescriptor()->FindFieldByName(keys[i]);
    if (field == nullptr)
      return filler.Fault(nowhere, absl::StrCat("unknown key \"", Printable(keys[i]), "\"", Suggest(keys[i], FieldNames(*message->GetDescriptor()))));
    if (field->is_map() && i + 1 < keys.size()) {
      // The rest is the entry's key.
      YamlNode key;
      key.kind = YamlNode::Kind::kScalar;
      key.text = absl::StrJoin(keys.begin() + static_cast<std::ptrdiff_t>(i) + 1, keys.end(), ".");
      YamlNode entry;
      if (field->message_type()->map_value()->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        auto parsed = ParseYaml(text, kMaxRecipeDepth);
        if (!parsed.ok()) return filler.Fault(nowhere, std::string(parsed.status().message()));
        entry = *std::move(parsed);
      } else {
        entry.kind = YamlNode::Kind::kScalar;
        entry.text = text;
      }
      value.kind = YamlNode::Kind::kMap;
      value.entries.push_back(YamlEntry{std::move(key), std::move(entry)});
      return filler.FillField(*message, *field, value, absl::StrJoin(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(i) + 1, "."), nowhere);
    }
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !field->is_repeated()) {
    value.kind = YamlNode::Kind::kScalar;  // as it is: a path may hold any character
    value.text = text;
  } else {
    auto parsed = ParseYaml(text, kMaxRecipeDepth);
    if (!parsed.ok()) return filler.Fault(nowhere, std::string(parsed.status().message()));
    value = *std::move(parsed);
  }
  ForgetLocations(recipe.locations, path);
  recipe.locations[path] = RecipeLocation{0, 0, set};
  filler.FillField(*message, *field, value, path, nowhere);
  if (path == "data.path") {
    recipe.spec.mutable_data()->clear_name();
    ForgetLocations(recipe.locations, "data.name");
  } else if (path == "data.name") {
    recipe.spec.mutable_data()->clear_path();
    ForgetLocations(recipe.locations, "data.path");
  }
}

}  // namespace

absl::StatusOr<Recipe> ParseRecipe(const std::string& file, const std::string& text, const std::vector<std::string>& sets) {
  Recipe recipe;
  recipe.file = file;
  if (text.size() > kMaxRecipeBytes) return absl::InvalidArgumentError(absl::StrCat(file, ": larger than 1 MiB; this is no recipe"));
  const auto root = ParseYaml(text, kMaxRecipeDepth);
  if (!root.ok()) return absl::InvalidArgumentError(absl::StrCat(file, ":", root.status().message()));
  if (root->kind == YamlNode::Kind::kNull) return absl::InvalidArgumentError(absl::StrCat(file, ":1:1: the recipe is empty"));
  if (root->kind != YamlNode::Kind::kMap) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":", root->line, ":", root->column, ": a recipe is keys with values, such as \"network: resnet20\"; found ", KindOf(*root)));
  }
  std::vector<std::string> faults;
  Filler(file, "", recipe.locations, faults).FillMessage(recipe.spec, *root, "");
  for (const std::string& set : sets) ApplySet(set, recipe, faults);
  if (!faults.empty()) return absl::InvalidArgumentError(absl::StrJoin(faults, "\n"));
  return recipe;
}

absl::StatusOr<Recipe> ReadRecipe(const std::string& file, const std::vector<std::string>& sets) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return absl::ErrnoToStatus(errno, file);
  std::string text(kMaxRecipeBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return absl::ErrnoToStatus(errno != 0 ? errno : EIO, file);
  text.resize(static_cast<size_t>(in.gcount()));
  return ParseRecipe(file, text, sets);
}

std::string DescribeViolations(const Recipe& recipe, const std::vector<FieldViolation>& violations) {
  std::vector<std::string> lines;
  for (const FieldViolation& violation : violations) {
    const std::string field(absl::StripPrefix(violation.field, "spec."));
    std::string path = field;
    auto found = recipe.locations.find(path);
    while (found == recipe.locations.end() && !path.empty()) {
      const size_t cut = path.find_last_of(".[");
      path = cut == std::string::npos ? "" : path.substr(0, cut);
      found = recipe.locations.find(path);
    }
    std::string place = recipe.file;
    if (found != recipe.locations.end()) {
      const RecipeLocation& at = found->second;
      place = at.line > 0 ? absl::StrCat(recipe.file, ":", at.line, ":", at.column) : absl::StrCat("--set ", Printable(at.set));
    }
    lines.push_back(absl::StrCat(place, ": ", field, field.empty() ? "" : ": ", violation.description));
  }
  return absl::StrJoin(lines, "\n");
}

namespace {

namespace fs = std::filesystem;

// What ResolveRecipe says of paths, for the one in `field`: a folder or a file.
absl::StatusOr<std::string> ResolvePath(const Recipe& recipe, const std::string& field, const std::string& given, bool is_here, bool is_folder) {
  fs::path path = given;
  const auto found = recipe.locations.find(field);
  const bool from_file = found == recipe.locations.end() || found->second.line > 0;
  std::error_code error;
  if (const char* home = std::getenv("HOME"); home != nullptr && absl::StartsWith(given, "~/")) path = fs::path(home) / given.substr(2);
  if (path.is_relative()) path = fs::absolute(from_file ? fs::path(recipe.file).parent_path() / path : path, error);
  path = path.lexically_normal();
  if (!is_here) return path.string();
  const fs::path real = fs::canonical(path, error);
  if (error) return absl::InvalidArgumentError(DescribeViolations(recipe, {{field, absl::StrCat(path.string(), ": ", error.message())}}));
  if (is_folder ? !fs::is_directory(real, error) : !fs::is_regular_file(real, error)) {
    return absl::InvalidArgumentError(DescribeViolations(recipe, {{field, absl::StrCat(path.string(), is_folder ? " is not a folder" : " is not a file")}}));
  }
  return real.string();
}

}  // namespace

absl::StatusOr<v1::JobSpec> ResolveRecipe(const Recipe& recipe, bool data_is_here) {
  v1::JobSpec spec = recipe.spec;
  if (!spec.data().path().empty()) {
    auto path = ResolvePath(recipe, "data.path", spec.data().path(), data_is_here, /*is_folder=*/true);
    if (!path.ok()) return path.status();
    spec.mutable_data()->set_path(*std::move(path));
  }
  if (!spec.initial_weights().path().empty()) {
    auto path = ResolvePath(recipe, "initial_weights.path", spec.initial_weights().path(), data_is_here, /*is_folder=*/false);
    if (!path.ok()) return path.status();
    spec.mutable_initial_weights()->set_path(*std::move(path));
  }
  auto resolved = server::ResolveJobSpec(std::move(spec));
  if (resolved.ok()) return resolved;
  const auto faults = GetFieldViolations(resolved.status());
  return faults.empty() ? resolved.status() : absl::InvalidArgumentError(DescribeViolations(recipe, faults));
}

}  // namespace bitstair::client
