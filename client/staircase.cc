#include "client/staircase.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bitstair::client {
namespace {

// A label such as "92.4" or "32/32" and the column of the riser.
constexpr int kLeastStep = 6;
constexpr int kMostStep = 12;
constexpr int kStepForHundredths = 7;
// Differences below it are noise, and would look like stairs.
constexpr double kLeastRange = 0.5;

struct Glyphs {
  const char *tread, *riser, *down_from, *down_to, *up_from, *up_to, *floor;
};
constexpr Glyphs kAscii{"=", "|", "+", "+", "+", "+", "-"};
constexpr Glyphs kUnicode{"━", "┃", "┓", "┗", "┛", "┏", "─"};

const v1::Stage* Find(const v1::Job& job, const std::string& name) {
  const auto found = std::find_if(job.stages().begin(), job.stages().end(), [&](const v1::Stage& stage) { return stage.spec().name() == name; });
  return found == job.stages().end() ? nullptr : &*found;
}

int Bits(const v1::Stage& stage) {
  return stage.spec().weight_bits() + stage.spec().activation_bits();
}

// From the first stage to the narrowest; of equals to the last.
std::vector<const v1::Stage*> WayDown(const v1::Job& job) {
  const v1::Stage* at = nullptr;
  for (const v1::Stage& stage : job.stages()) {
    if (at == nullptr || Bits(stage) <= Bits(*at)) at = &stage;
  }
  std::vector<const v1::Stage*> way;
  while (at != nullptr && way.size() <= static_cast<size_t>(job.stages_size())) {
    way.push_back(at);
    at = at->spec().parent().empty() ? nullptr : Find(job, at->spec().parent());
  }
  std::reverse(way.begin(), way.end());
  return way;
}

// Characters by row and column.
class Canvas {
 public:
  Canvas(int rows, int columns) : cells_(static_cast<size_t>(rows), std::vector<std::string>(static_cast<size_t>(columns), " ")) {}

  void Put(int row, int column, const std::string& glyph) { cells_.at(static_cast<size_t>(row)).at(static_cast<size_t>(column)) = glyph; }
  void Write(int row, int column, const std::string& ascii) {
    for (const char c : ascii) Put(row, column++, std::string(1, c));
  }
  std::vector<std::string> Lines() const {
    std::vector<std::string> lines;
    for (const auto& row : cells_) {
      std::string& line = lines.emplace_back();
      for (const std::string& glyph : row) line += glyph;
      line.erase(line.find_last_not_of(' ') + 1);
    }
    return lines;
  }

 private:
  std::vector<std::vector<std::string>> cells_;
};

}  // namespace

std::vector<std::string> Staircase(const v1::Job& job, const StaircaseStyle& style) {
  std::vector<const v1::Stage*> way = WayDown(job);
  const size_t room = static_cast<size_t>(std::max(2, (style.width - 1) / kLeastStep));
  const size_t left_out = way.size() > room ? way.size() - room : 0;
  if (left_out > 0) way.erase(way.begin() + 1, way.begin() + 1 + static_cast<std::ptrdiff_t>(left_out));
  double low = 0;
  double high = 0;
  bool any = false;
  const auto top1 = [](const v1::Stage& stage) { return stage.epochs(stage.epochs_size() - 1).test_top1(); };
  for (const v1::Stage* stage : way) {
    if (stage->epochs().empty() || !std::isfinite(top1(*stage))) continue;
    low = any ? std::min(low, top1(*stage)) : top1(*stage);
    high = any ? std::max(high, top1(*stage)) : top1(*stage);
    any = true;
  }
  if (!any) return {};
  const double range = std::max(kLeastRange, high - low);

  const Glyphs& glyphs = style.unicode ? kUnicode : kAscii;
  const int count = static_cast<int>(way.size());
  const int step = std::clamp((style.width - 1) / count, kLeastStep, kMostStep);
  const int height = std::max(2, style.height);
  Canvas canvas(height + 3, count * step + 1);  // labels above the highest step, floor and bits below the lowest
  int before = -1;                              // row of the step on the left
  for (int i = 0; i < count; ++i) {
    const v1::Stage& stage = *way[static_cast<size_t>(i)];
    const int left = i * step;
    const std::string bits = absl::StrCat(stage.spec().weight_bits(), "/", stage.spec().activation_bits());
    canvas.Write(height + 2, left + std::max(0, (step - static_cast<int>(bits.size())) / 2), bits);
    for (int column = left; column < left + step; ++column) canvas.Put(height + 1, column, glyphs.floor);
    if (stage.epochs().empty() || !std::isfinite(top1(stage))) {
      before = -1;
      continue;
    }
    const int row = 1 + static_cast<int>(std::lround((high - top1(stage)) / range * (height - 1)));
    for (int column = left + (before < 0 ? 0 : 1); column < left + step; ++column) canvas.Put(row, column, glyphs.tread);
    const std::string label = step < kStepForHundredths ? absl::StrFormat("%.1f", top1(stage)) : absl::StrFormat("%.2f", top1(stage));
    canvas.Write(row - 1, left + std::max(1, (step - static_cast<int>(label.size()) + 1) / 2), label);
    if (before == row) canvas.Put(row, left, glyphs.tread);
    if (before >= 0 && before != row) {
      const bool down = row > before;
      canvas.Put(before, left, down ? glyphs.down_from : glyphs.up_from);
      for (int between = std::min(row, before) + 1; between < std::max(row, before); ++between) canvas.Put(between, left, glyphs.riser);
      canvas.Put(row, left, down ? glyphs.down_to : glyphs.up_to);
    }
    before = row;
  }
  std::vector<std::string> lines = canvas.Lines();
  const std::string title = "top-1 (%) by bits of weights/activations";
  lines.insert(lines.begin(), title.substr(0, static_cast<size_t>(std::max(0, style.width))));
  if (left_out > 0) lines.push_back(absl::StrCat("(", left_out, left_out == 1 ? " stage" : " stages", " left out)"));
  return lines;
}

}  // namespace bitstair::client
