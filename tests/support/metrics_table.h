// docs/metrics.md, made from what a registry holds.
#pragma once

#include <prometheus/registry.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace bitstair::testing {

// | name | type | labels | meaning |, by name. Families without a series yet are not in it.
inline std::string MetricsTable(const prometheus::Registry& registry) {
  std::map<std::string, std::string> rows;
  for (const auto& family : registry.Collect()) {
    std::set<std::string> labels;
    for (const auto& metric : family.metric) {
      for (const auto& label : metric.label) labels.insert(label.name);
    }
    const char* type = family.type == prometheus::MetricType::Counter ? "counter" : family.type == prometheus::MetricType::Histogram ? "histogram" : "gauge";
    rows[family.name] = absl::StrCat("| `", family.name, "` | ", type, " | ", absl::StrJoin(labels, ", "), " | ", family.help, " |\n");
  }
  std::string table = "| name | type | labels | meaning |\n|---|---|---|---|\n";
  for (const auto& [name, row] : rows) table += row;
  return table;
}

// What stands in `file` between "<!-- SECTION -->" and "<!-- /SECTION -->". With BITSTAIR_UPDATE_DOCS set, `table` is written there first.
inline std::string DocumentedTable(const std::string& file, const std::string& section, const std::string& table) {
  std::ifstream in(file);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::string open = absl::StrCat("<!-- ", section, " -->\n"), close = absl::StrCat("<!-- /", section, " -->");
  const size_t begin = text.find(open), end = text.find(close);
  if (begin == std::string::npos || end == std::string::npos || end < begin) return absl::StrCat("no section ", section, " in ", file);
  const size_t content = begin + open.size();
  if (std::getenv("BITSTAIR_UPDATE_DOCS") != nullptr) {
    text.replace(content, end - content, table);
    std::ofstream(file) << text;
    return table;
  }
  return text.substr(content, end - content);
}

}  // namespace bitstair::testing
