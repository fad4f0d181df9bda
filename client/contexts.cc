#include "client/contexts.h"

#include <yaml-cpp/yaml.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/yaml_tree.h"
#include "core/files/durable_file.h"

namespace bitstair::client {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr int kMaxDepth = 4;

class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  absl::StatusOr<Contexts> Read(const YamlNode& root) {
    Contexts contexts;
    if (root.kind == YamlNode::Kind::kNull) return contexts;
    if (root.kind != YamlNode::Kind::kMap) return Fault(root, "must be a map with current and contexts");
    for (const YamlEntry& entry : root.entries) {
      if (entry.key.text == "current") {
        contexts.current = entry.value.text;
        current_ = entry.value;
      } else if (entry.key.text == "contexts" && entry.value.kind == YamlNode::Kind::kMap) {
        for (const YamlEntry& context : entry.value.entries) {
          if (auto s = ReadContext(context, &contexts); !s.ok()) return s;
        }
      } else {
        return Fault(entry.key, absl::StrCat("\"", Printable(entry.key.text), "\" is neither current nor a map of contexts"));
      }
    }
    if (!contexts.current.empty() && !contexts.by_name.contains(contexts.current)) {
      return Fault(current_, absl::StrCat("there is no context \"", Printable(contexts.current), "\""));
    }
    return contexts;
  }

 private:
  absl::Status Fault(const YamlNode& at, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ":", at.line, ":", at.column, ": ", what));
  }

  absl::Status ReadContext(const YamlEntry& entry, Contexts* contexts) const {
    if (!IsContextName(entry.key.text)) return Fault(entry.key, "a context's name must be 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'");
    if (entry.value.kind != YamlNode::Kind::kMap) return Fault(entry.value, "a context must be a map with coordinator");
    Context context;
    for (const YamlEntry& setting : entry.value.entries) {
      const std::string& key = setting.key.text;
      const std::string& value = setting.value.text;
      if (setting.value.kind != YamlNode::Kind::kScalar) return Fault(setting.value, absl::StrCat(Printable(key), " must be a plain value"));
      if (key == "coordinator") {
        context.coordinator = value;
      } else if (key == "tls_ca") {
        context.tls_ca = value;
      } else if (key == "token_file") {
        context.token_file = value;
      } else if ((key == "tls" || key == "insecure") && (value == "true" || value == "false")) {
        (key == "tls" ? context.tls : context.insecure) = value == "true";
      } else {
        return Fault(setting.key, absl::StrCat("\"", Printable(key), "\" is not coordinator, tls_ca, token_file, or tls or insecure with true or false"));
      }
    }
    if (context.coordinator.empty()) return Fault(entry.value, "coordinator is missing");
    contexts->by_name.emplace(entry.key.text, std::move(context));
    return absl::OkStatus();
  }

  const std::string file_;
  YamlNode current_;
};

}  // namespace

std::string ContextsFile() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string file = variable("BITSTAIR_CONFIG"); !file.empty()) return file;
  if (const std::string folder = variable("XDG_CONFIG_HOME"); !folder.empty() && folder[0] == '/') return folder + "/bitstair/config.yaml";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.config/bitstair/config.yaml";
}

bool IsContextName(const std::string& name) {
  return !name.empty() && name.size() <= 40 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.'; });
}

absl::StatusOr<Contexts> LoadContexts(const std::string& file) {
  if (file.empty()) return Contexts();
  const auto text = core::ReadFile(file, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return Contexts();
  if (!text.ok()) return text.status();
  if (absl::StripAsciiWhitespace(*text).empty()) return Contexts();
  const auto tree = ParseYaml(*text, kMaxDepth);
  if (!tree.ok()) return absl::InvalidArgumentError(absl::StrCat(file, ":", tree.status().message()));
  return Reader(file).Read(*tree);
}

absl::Status SaveContexts(const std::string& file, const Contexts& contexts) {
  if (file.empty()) return absl::FailedPreconditionError("there is no home folder for the configuration; set BITSTAIR_CONFIG to a file");
  YAML::Emitter yaml;
  yaml << YAML::BeginMap;
  if (!contexts.current.empty()) yaml << YAML::Key << "current" << YAML::Value << contexts.current;
  yaml << YAML::Key << "contexts" << YAML::Value << YAML::BeginMap;
  for (const auto& [name, context] : contexts.by_name) {
    yaml << YAML::Key << name << YAML::Value << YAML::BeginMap << YAML::Key << "coordinator" << YAML::Value << YAML::DoubleQuoted << context.coordinator;
    if (context.tls) yaml << YAML::Key << "tls" << YAML::Value << true;
    if (!context.tls_ca.empty()) yaml << YAML::Key << "tls_ca" << YAML::Value << YAML::DoubleQuoted << context.tls_ca;
    if (!context.token_file.empty()) yaml << YAML::Key << "token_file" << YAML::Value << YAML::DoubleQuoted << context.token_file;
    if (context.insecure) yaml << YAML::Key << "insecure" << YAML::Value << true;
    yaml << YAML::EndMap;
  }
  yaml << YAML::EndMap << YAML::EndMap;
  const std::string folder = std::filesystem::path(file).parent_path().string();
  if (!folder.empty()) {
    if (auto s = core::MakeWritableDirectory(folder); !s.ok()) return s;
  }
  return core::WriteFileDurably(file, absl::StrCat(yaml.c_str(), "\n"));
}

}  // namespace bitstair::client
