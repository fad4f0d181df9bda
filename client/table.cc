#include "client/table.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace bitstair::client {
namespace {

bool StartsCodePoint(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
}

size_t Columns(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), StartsCodePoint));
}

}  // namespace

std::string Harmless(const std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // C1 controls arrive as 0xC2 0x80..0x9F; terminals obey them too.
    const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) >= 0x80 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1) ++i;
    result += c1 || byte == 0x7F || (byte < 0x20 && byte != '\n' && byte != '\t') ? '?' : text[i];
  }
  return result;
}

std::string Fit(const std::string& text, int width) {
  int columns = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (StartsCodePoint(text[i]) && ++columns > width) return text.substr(0, i);
  }
  return text;
}

std::string Table(const std::vector<std::string>& header, const std::vector<Align>& align, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::vector<std::string>> all{header};
  all.insert(all.end(), rows.begin(), rows.end());
  std::vector<size_t> widths(align.size(), 0);
  for (auto& row : all) {
    for (size_t i = 0; i < align.size(); ++i) {
      row[i] = Harmless(row[i]);
      std::replace_if(
          row[i].begin(), row[i].end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
      widths[i] = std::max(widths[i], Columns(row[i]));
    }
  }
  std::string result;
  for (const auto& row : all) {
    std::string line;
    for (size_t i = 0; i < align.size(); ++i) {
      const std::string blanks(widths[i] - Columns(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (align[i] == Align::kRight ? blanks + row[i] : row[i] + blanks);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result += line + "\n";
  }
  return result;
}

std::string Duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto whole = static_cast<long>(std::lround(seconds));
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace bitstair::client
