#include "client/dump.h"

#include <yaml-cpp/emitter.h>

namespace bitstair::client {
namespace {

void EmitYaml(YAML::Emitter& out, const Json& value) {
  if (value.is_object()) {
    out << YAML::BeginMap;
    for (const auto& [key, item] : value.items()) {
      out << YAML::Key << key << YAML::Value;
      EmitYaml(out, item);
    }
    out << YAML::EndMap;
  } else if (value.is_array()) {
    if (value.empty() || value.front().is_primitive()) out << YAML::Flow;
    out << YAML::BeginSeq;
    for (const Json& item : value) EmitYaml(out, item);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    // Quoted: "1e5" and "true" stay text for every reader.
    out << YAML::DoubleQuoted << value.get<std::string>();
  } else if (value.is_null()) {
    out << YAML::Null;
  } else {
    out << value.dump();  // numbers, true and false are the same words in both
  }
}

}  // namespace

std::string Dump(const Json& value, const std::string& format) {
  if (format != "yaml") return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  YAML::Emitter out;
  EmitYaml(out, value);
  return std::string(out.c_str()) + "\n";
}

}  // namespace bitstair::client
