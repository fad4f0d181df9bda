#include "server/gate.h"

#include <cmath>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace bitstair::server {
namespace {

const std::map<std::string, std::function<double(const v1::EpochResult&)>>& Metrics() {
  static const auto* const metrics = new std::map<std::string, std::function<double(const v1::EpochResult&)>>{
      {"top1", [](const auto& r) { return r.test_top1(); }},      {"top5", [](const auto& r) { return r.test_top5(); }},
      {"top1_drop", [](const auto& r) { return r.test_top1(); }}, {"top5_drop", [](const auto& r) { return r.test_top5(); }},
      {"test_loss", [](const auto& r) { return r.test_loss(); }}, {"train_loss", [](const auto& r) { return r.train_loss(); }},
  };
  return *metrics;
}

// The difference of two percentages may miss a bound that it equals by its last bit.
constexpr double kRounding = 1e-9;

absl::Status Wrong(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(what, "; must be METRIC <= NUMBER or METRIC >= NUMBER, as in \"top1_drop <= 1\""));
}

}  // namespace

absl::StatusOr<Gate> ParseGate(const std::string& text) {
  const std::string shown = absl::StrCat("\"", absl::CEscape(text.substr(0, 80)), "\"");
  size_t at = text.find("<=");
  const bool at_most = at != std::string::npos;
  if (!at_most) at = text.find(">=");
  if (at == std::string::npos) return Wrong(shown + " has no <= or >=");
  Gate gate{std::string(absl::StripAsciiWhitespace(text.substr(0, at))), at_most, 0};
  if (Metrics().count(gate.metric) == 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"", absl::CEscape(gate.metric.substr(0, 80)), "\" is no metric; known: ",
                                                   absl::StrJoin(Metrics(), ", ", [](std::string* out, const auto& m) { absl::StrAppend(out, m.first); })));
  }
  const auto number = absl::StripAsciiWhitespace(absl::string_view(text).substr(at + 2));
  if (!absl::SimpleAtod(number, &gate.bound) || !std::isfinite(gate.bound)) return Wrong(shown + " has no number");
  return gate;
}

bool IsDrop(const Gate& gate) {
  return absl::EndsWith(gate.metric, "_drop");
}

std::optional<double> GateValue(const Gate& gate, const v1::EpochResult& result, const v1::EpochResult* full_precision) {
  const auto& metric = Metrics().at(gate.metric);
  if (!IsDrop(gate)) return metric(result);
  if (full_precision == nullptr) return std::nullopt;
  return metric(*full_precision) - metric(result);
}

bool IsReached(const Gate& gate, double value) {
  return gate.at_most ? value <= gate.bound + kRounding : value >= gate.bound - kRounding;
}

GateOutcome Judge(const Gate& gate, std::optional<double> value) {
  GateOutcome outcome{value.has_value() && IsReached(gate, *value), "", value.has_value() ? absl::StrFormat("%.4g", *value) : "unknown"};
  outcome.text = absl::StrFormat("%s %s %s %g: %s", gate.metric, outcome.value, gate.at_most ? "<=" : ">=", gate.bound, outcome.reached ? "reached" : "missed");
  return outcome;
}

}  // namespace bitstair::server
