#include "client/top/columns.h"

#include <algorithm>

namespace bitstair::client::top {
namespace {

constexpr int kGap = 2;

std::string Padded(const std::string& text, int width, Align align, bool unicode) {
  const std::string cut = Shorten(text, width, unicode);
  const std::string blanks(static_cast<size_t>(std::max(0, width - Columns(cut))), ' ');
  return align == Align::kRight ? blanks + cut : cut + blanks;
}

// Appends as much as fits.
void Append(Line& line, int& used, std::string text, Tone tone, int width, bool unicode) {
  if (used >= width || text.empty()) return;
  if (used + Columns(text) > width) {
    text.erase(text.find_last_not_of(' ') + 1);  // blanks at the end are no loss
    text = Shorten(text, width - used, unicode);
  }
  used += Columns(text);
  line.spans.push_back({std::move(text), tone});
}

}  // namespace

std::vector<Line> Layout(const std::vector<Column>& columns, const std::vector<Row>& rows, int width, bool unicode) {
  std::vector<int> widths;
  std::vector<bool> shown(columns.size(), true);
  for (size_t i = 0; i < columns.size(); ++i) {
    int needed = Columns(columns[i].title);
    for (const Row& row : rows) {
      if (i < row.cells.size()) needed = std::max(needed, Columns(row.cells[i].text));
    }
    widths.push_back(std::min(needed, std::max(columns[i].max_width, Columns(columns[i].title))));
  }
  while (true) {
    int total = -kGap;
    size_t least = columns.size();
    for (size_t i = 0; i < columns.size(); ++i) {
      if (!shown[i]) continue;
      total += widths[i] + kGap;
      if (columns[i].rank > 0 && (least == columns.size() || columns[i].rank > columns[least].rank)) least = i;
    }
    if (total <= width || least == columns.size()) break;
    shown[least] = false;
  }

  std::vector<Line> lines;
  const auto add = [&](const Row& row, bool header) {
    Line line;
    line.selected = row.selected;
    int used = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
      if (!shown[i]) continue;
      if (i >= row.cells.size() && !row.rest.empty()) break;
      const Cell cell = i < row.cells.size() ? row.cells[i] : Cell();
      Append(line, used, std::string(used == 0 ? 0 : kGap, ' '), Tone::kPlain, width, unicode);
      Append(line, used, Padded(cell.text, widths[i], columns[i].align, unicode), header ? Tone::kFaint : cell.tone, width, unicode);
    }
    if (!row.rest.empty()) Append(line, used, "  " + Shorten(row.rest, std::max(0, width - used - kGap), unicode), Tone::kPlain, width, unicode);
    Append(line, used, std::string(static_cast<size_t>(std::max(0, width - used)), ' '), Tone::kPlain, width, unicode);
    lines.push_back(std::move(line));
  };
  Row header;
  for (const Column& column : columns) header.cells.push_back({column.title, Tone::kFaint});
  add(header, true);
  for (const Row& row : rows) add(row, false);
  return lines;
}

}  // namespace bitstair::client::top
