// A YAML text as a tree of plain values with the place of each. Stricter than YAML: one document; no anchors, aliases or tags; bounded depth.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace bitstair::client {

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  int line = 0;  // from 1
  int column = 0;
  std::string text;                // kScalar
  bool quoted = false;             // kScalar: written in quotes or as a block, so never a number
  std::vector<YamlNode> items;     // kSequence
  std::vector<YamlEntry> entries;  // kMap, in order; keys are scalars, each once
};

struct YamlEntry {
  YamlNode key;
  YamlNode value;
};

// What is wrong and where, as "LINE:COLUMN: text".
// INVALID_ARGUMENT for anything that is not one document within the limits above. Never throws.
absl::StatusOr<YamlNode> ParseYaml(const std::string& text, int max_depth);

// `text` for a message: control characters and invalid UTF-8 as \xNN, cut to `max_length` bytes.
std::string Printable(const std::string& text, size_t max_length = 60);

}  // namespace bitstair::client
