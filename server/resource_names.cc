#include "server/resource_names.h"

#include <algorithm>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/digest/sha256.h"
#include "proto/status.h"
#include "server/domain.h"

namespace bitstair::server {
namespace {

bool IsId(absl::string_view text) {
  return !text.empty() && text.size() <= 64 && text != "." && text != ".." && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

std::string Shown(const std::string& text) {
  return absl::CEscape(text.substr(0, 100));
}

}  // namespace

absl::StatusOr<std::string> ParseJobName(const std::string& name, const std::string& field) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() == 2 && parts[0] == "jobs" && IsId(parts[1])) return parts[1];
  return InvalidFields({{field, name.empty() ? "is required" : absl::StrCat("\"", Shown(name), "\" is not of the form jobs/ID")}});
}

absl::StatusOr<std::pair<std::string, std::string>> ParseStageName(const std::string& name, const std::string& field) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() == 4 && parts[0] == "jobs" && IsId(parts[1]) && parts[2] == "stages" && IsId(parts[3])) return std::make_pair(parts[1], parts[3]);
  return InvalidFields({{field, name.empty() ? "is required" : absl::StrCat("\"", Shown(name), "\" is not of the form jobs/ID/stages/STAGE")}});
}

bool JobFilter::Passes(v1::JobState job_state) const {
  return !(active && IsEnded(job_state)) && !(has_state && job_state != state);
}

bool JobFilter::Passes(const std::string& job_name) const {
  return name_is_prefix ? absl::StartsWith(job_name, name) : name.empty() || job_name == name;
}

absl::StatusOr<JobFilter> ParseJobFilter(const std::string& filter) {
  JobFilter result;
  if (filter.size() > 1000) return InvalidFields({{"filter", "is longer than 1000 characters"}});
  if (absl::StripAsciiWhitespace(filter).empty()) return result;
  for (absl::string_view term : absl::StrSplit(filter, " AND ")) {
    term = absl::StripAsciiWhitespace(term);
    const auto bad = [&](absl::string_view why) { return InvalidFields({{"filter", absl::StrCat("term \"", Shown(std::string(term)), "\": ", why)}}); };
    absl::string_view value = term;
    if (absl::ConsumePrefix(&value, "state=")) {
      if (result.has_state || result.active) return bad("state is given twice");
      result.active = value == "ACTIVE";
      result.has_state = !result.active;
      if (result.active) continue;
      if (!v1::JobState_Parse(absl::StrCat("JOB_STATE_", value), &result.state) || result.state == v1::JOB_STATE_UNSPECIFIED) {
        return bad("not a state; use ACTIVE, RESOLVING, PENDING, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLING or CANCELLED");
      }
    } else if (absl::ConsumePrefix(&value, "name=")) {
      if (!result.name.empty() || result.name_is_prefix) return bad("name is given twice");
      result.name_is_prefix = absl::ConsumeSuffix(&value, "*");
      if (value.empty() && !result.name_is_prefix) return bad("the name is empty");
      result.name = std::string(value);
    } else {
      return bad("must be state=STATE, name=NAME or name=PREFIX*, joined by AND");
    }
  }
  return result;
}

std::string MakePageToken(const std::string& scope, const std::string& key) {
  return absl::WebSafeBase64Escape(absl::StrCat(core::Sha256Hex(scope + "\n" + key).substr(0, 8), key));
}

absl::StatusOr<std::string> ParsePageToken(const std::string& scope, const std::string& token) {
  if (token.empty()) return std::string();
  std::string text;
  if (token.size() > 1000 || !absl::WebSafeBase64Unescape(token, &text) || text.size() <= 8 ||
      core::Sha256Hex(scope + "\n" + text.substr(8)).substr(0, 8) != text.substr(0, 8)) {
    return InvalidFields({{"page_token", "is not a token of this list with this filter"}});
  }
  return text.substr(8);
}

absl::StatusOr<int> CheckPageSize(int page_size) {
  if (page_size < 0) return InvalidFields({{"page_size", absl::StrCat("is ", page_size, "; must be 0 or more")}});
  return page_size == 0 ? 50 : std::min(page_size, 1000);
}

}  // namespace bitstair::server
