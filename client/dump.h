// Results as programs read them: JSON, and the same as YAML. Free of protobuf, so that bitstair-evaluator can print as the other commands do.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace bitstair::client {

using Json = nlohmann::ordered_json;

// `format`: "json" (indented by 2) or "yaml"; ends with a newline.
std::string Dump(const Json& value, const std::string& format);

}  // namespace bitstair::client
