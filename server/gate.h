// What a stage must reach before others start from it (JobSpec.require). Pure.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// "top1_drop <= 1": METRIC, "<=" or ">=", a number.
struct Gate {
  std::string metric;
  bool at_most = true;
  double bound = 0;
};

// INVALID_ARGUMENT says what is wrong with `text`, and which metrics there are.
absl::StatusOr<Gate> ParseGate(const std::string& text);

// Whether it compares with the full-precision stage.
bool IsDrop(const Gate& gate);

// Percent, or a loss. full_precision: the last epoch of the full-precision stage, for drops: its accuracy less `result`'s. Nothing where that is missing.
std::optional<double> GateValue(const Gate& gate, const v1::EpochResult& result, const v1::EpochResult* full_precision);

// A NaN reaches nothing.
bool IsReached(const Gate& gate, double value);

struct GateOutcome {
  bool reached = false;  // not without a value
  std::string text;      // "top1_drop 0.84 <= 1: reached"
  std::string value;     // "0.84"; "unknown"
};
GateOutcome Judge(const Gate& gate, std::optional<double> value);

}  // namespace bitstair::server
