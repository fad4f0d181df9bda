#include "client/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <exception>
#include <optional>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bitstair::client {
namespace {

// Leaves the parser as soon as something is wrong, so that no bomb is ever unpacked.
struct Refused {
  int line;
  int column;
  std::string message;
};

[[noreturn]] void Refuse(const YAML::Mark& mark, std::string message) {
  throw Refused{mark.line + 1, mark.column + 1, std::move(message)};
}

// Length of the UTF-8 sequence at `at`, or 0 if it is not one.
size_t Utf8Length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = byte(at);
  const size_t length = first < 0x80 ? 1 : first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80U) return 0;
  }
  return length;
}

class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(int max_depth) : max_depth_(max_depth) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) Refuse(mark, "a recipe is one document; a second one starts here");
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    Refuse(mark, absl::StrCat("anchors and aliases are not allowed (&", Printable(name), ")"));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { Refuse(mark, "anchors and aliases are not allowed"); }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    CheckPlain(mark, "?", anchor);
    Add(mark, YamlNode::Kind::kNull);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    CheckPlain(mark, tag, anchor);
    YamlNode& node = Add(mark, YamlNode::Kind::kScalar, &value);
    node.text = value;
    node.quoted = tag == "!";
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    CheckPlain(mark, tag, anchor);
    Open(mark, YamlNode::Kind::kSequence);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    CheckPlain(mark, tag, anchor);
    Open(mark, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { open_.pop_back(); }

  YamlNode TakeRoot() {
    if (complex_key_) throw Refused(*complex_key_);
    return std::move(root_);
  }

 private:
  // A container under construction. Pointers stay valid: a container's items only grow while it is the innermost one.
  struct Level {
    YamlNode* node;
    bool has_key = false;
    std::set<std::string> keys;
  };

  static void CheckPlain(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) Refuse(mark, "anchors and aliases are not allowed");
    if (!tag.empty() && tag != "?" && tag != "!") Refuse(mark, absl::StrCat("tags are not allowed (", Printable(tag), ")"));
  }

  void Open(const YAML::Mark& mark, YamlNode::Kind kind) {
    if (static_cast<int>(open_.size()) >= max_depth_) Refuse(mark, absl::StrCat("nested deeper than ", max_depth_, " levels"));
    YamlNode& node = Add(mark, kind);
    open_.push_back(Level{&node});
  }

  YamlNode& Add(const YAML::Mark& mark, YamlNode::Kind kind, const std::string* scalar = nullptr) {
    YamlNode node;
    node.kind = kind;
    node.line = mark.line + 1;
    node.column = mark.column + 1;
    if (open_.empty()) {
      root_ = std::move(node);
      return root_;
    }
    Level& level = open_.back();
    if (level.node->kind == YamlNode::Kind::kSequence) return level.node->items.emplace_back(std::move(node));
    if (!level.has_key) {
      if (kind != YamlNode::Kind::kScalar) {
        // What yaml-cpp takes for such a key is mostly a bracket that is never closed; that, or too many of them, is the better message.
        if (!complex_key_) complex_key_ = Refused{mark.line + 1, mark.column + 1, "a key must be a plain word"};
        level.has_key = true;
        return level.node->entries.emplace_back(YamlEntry{std::move(node), YamlNode()}).key;
      }
      if (!level.keys.insert(*scalar).second) Refuse(mark, absl::StrCat("\"", Printable(*scalar), "\" appears twice"));
      level.has_key = true;
      return level.node->entries.emplace_back(YamlEntry{std::move(node), YamlNode()}).key;
    }
    level.has_key = false;
    return level.node->entries.back().value = std::move(node);
  }

  const int max_depth_;
  int documents_ = 0;
  std::optional<Refused> complex_key_;
  YamlNode root_;
  std::vector<Level> open_;
};

absl::Status At(int line, int column, const std::string& message) {
  return absl::InvalidArgumentError(line > 0 ? absl::StrCat(line, ":", column, ": ", message) : message);
}

// Refuses what cannot be text before the parser sees it.
absl::Status CheckText(const std::string& text) {
  int line = 1;
  int column = 1;
  for (size_t at = 0; at < text.size();) {
    const unsigned char byte = static_cast<unsigned char>(text[at]);
    const size_t length = Utf8Length(text, at);
    if (length == 0 || byte == 0x7F || (byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t')) {
      return At(line, column, absl::StrFormat("not a text file: byte 0x%02x at offset %d", byte, at));
    }
    at += length;
    ++column;
    if (byte == '\n') {
      ++line;
      column = 1;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<YamlNode> ParseYaml(const std::string& text, int max_depth) {
  if (absl::Status status = CheckText(text); !status.ok()) return status;
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    TreeBuilder builder(max_depth);
    while (parser.HandleNextDocument(builder)) {
    }
    return builder.TakeRoot();
  } catch (const Refused& refused) {
    return At(refused.line, refused.column, refused.message);
  } catch (const YAML::Exception& error) {
    return At(error.mark.is_null() ? 1 : error.mark.line + 1, error.mark.is_null() ? 1 : error.mark.column + 1,
              absl::StrCat("not valid YAML: ", Printable(error.msg, 200)));
  } catch (const std::exception& error) {
    return At(1, 1, absl::StrCat("not valid YAML: ", Printable(error.what(), 200)));
  }
}

std::string Printable(const std::string& text, size_t max_length) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const unsigned char byte = static_cast<unsigned char>(text[at]);
    const size_t length = Utf8Length(text, at);
    const bool plain = length > 0 && byte >= 0x20 && byte != 0x7F;
    const std::string piece = plain ? text.substr(at, length) : absl::StrFormat("\\x%02x", byte);
    if (result.size() + piece.size() > max_length) return result + "...";
    result += piece;
    at += plain ? length : 1;
  }
  return result;
}

}  // namespace bitstair::client
