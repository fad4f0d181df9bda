#include "client/report/svg.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bitstair::client {
namespace {

constexpr int kPalette = 8;
constexpr double kWidth = 560, kHeight = 280;
constexpr double kRow = 24, kNames = 200;  // of bars of shares
constexpr double kBoxWidth = 216, kBoxHeight = 74, kGapX = 44, kGapY = 14;
constexpr size_t kNameLength = 34;
constexpr double kLeft = 56, kRight = 12, kTop = 12, kBottom = 44;

// Not blown up where the page has more room than it needs.
std::string Open(double width, double height, const std::string& title, const std::string& id) {
  return absl::StrFormat(
      "<figure id=\"%s\"><figcaption>%s</figcaption><svg viewBox=\"0 0 %.0f %.0f\" style=\"max-width:%.0fpx\" role=\"img\" aria-label=\"%s\">", Escape(id),
      Escape(title), width, height, 1.3 * width, Escape(title));
}

// At most so many characters, as far as they are ASCII.
std::string Shortened(const std::string& text, size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 3) + "...";
}

std::string Text(double x, double y, const std::string& text, const char* anchor = "middle", const char* extra = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>%s</text>", x, y, anchor, extra, Escape(text));
}

std::string Colour(int number) {
  return absl::StrCat("var(--c", number % kPalette, ")");
}

// A step of 1, 2 or 5 times a power of ten, so that about `count` of them cover `range`.
double NiceStep(double range, int count) {
  const double raw = range / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return !(low <= high); }
  // So that no line lies on the frame, and a flat one has room.
  void Widen() {
    const double margin = high > low ? 0.05 * (high - low) : std::max(0.5, 0.05 * std::abs(high));
    low -= margin;
    high += margin;
  }
};

class Axes {
 public:
  Axes(const LinePlot& plot, Range x, Range y) : plot_(plot), x_(x), y_(y) {}
  double X(double value) const { return kLeft + (value - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight); }
  double Y(double value) const { return kHeight - kBottom - (value - y_.low) / (y_.high - y_.low) * (kHeight - kTop - kBottom); }

  std::string Draw() const {
    std::string out;
    const double step = NiceStep(y_.high - y_.low, 5);
    for (double value = std::ceil(y_.low / step) * step; value <= y_.high; value += step) {
      out += absl::StrFormat("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", kLeft, kWidth - kRight, Y(value), Y(value));
      out += Text(kLeft - 6, Y(value) + 4, absl::StrFormat("%.4g", std::abs(value) < step / 1e6 ? 0 : value), "end");
    }
    if (plot_.x_marks.empty()) {
      const double x_step = std::max(1.0, NiceStep(x_.high - x_.low, 8));
      for (double value = std::ceil(x_.low / x_step) * x_step; value <= x_.high; value += x_step) out += XMark(value, absl::StrFormat("%.4g", value));
    }
    for (const auto& [value, name] : plot_.x_marks) out += XMark(value, name);
    out += Text((kLeft + kWidth - kRight) / 2, kHeight - 6, plot_.x_label);
    out += Text(14, (kTop + kHeight - kBottom) / 2, plot_.y_label, "middle",
                absl::StrFormat("transform=\"rotate(-90 14 %.1f)\"", (kTop + kHeight - kBottom) / 2).c_str());
    return out;
  }

 private:
  std::string XMark(double value, const std::string& name) const {
    return absl::StrFormat("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", X(value), X(value), kTop, kHeight - kBottom) +
           Text(X(value), kHeight - kBottom + 16, name);
  }

  const LinePlot& plot_;
  const Range x_, y_;
};

std::string Legend(const std::vector<std::pair<std::string, int>>& entries) {
  std::string out = "<p class=\"legend\">";
  for (const auto& [name, colour] : entries) absl::StrAppend(&out, "<span><i style=\"background:", Colour(colour), "\"></i>", Escape(name), "</span>");
  return out + "</p>";
}

}  // namespace

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        // Control characters other than line breaks have no place in a page.
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') out += c;
    }
  }
  return out;
}

std::string Svg(const LinePlot& plot, const std::string& id) {
  Range x, y;
  for (const Line& line : plot.lines) {
    for (const auto& [px, py] : line.points) {
      if (!std::isfinite(py)) continue;
      x.Add(px);
      y.Add(py);
    }
  }
  for (const auto& mark : plot.x_marks) x.Add(mark.first);
  std::string out = Open(kWidth, kHeight, plot.title, id);
  if (y.empty()) return out + Text(kWidth / 2, kHeight / 2, "nothing was measured yet") + "</svg></figure>";
  x.Widen();
  y.Widen();
  const Axes axes(plot, x, y);
  out += axes.Draw();
  std::vector<std::pair<std::string, int>> legend;
  for (const Line& line : plot.lines) {
    std::string path;
    bool pen_down = false;
    for (const auto& [px, py] : line.points) {
      if (!std::isfinite(py)) {
        pen_down = false;
        continue;
      }
      absl::StrAppendFormat(&path, "%s%.1f %.1f", pen_down ? "L" : "M", axes.X(px), axes.Y(py));
      pen_down = true;
      if (plot.dots || line.points.size() == 1) {
        absl::StrAppendFormat(&out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>%s: %.4g</title></circle>", axes.X(px), axes.Y(py),
                              Colour(line.colour), Escape(line.name), py);
      }
    }
    absl::StrAppendFormat(&out, "<path class=\"line\" d=\"%s\" stroke=\"%s\"%s><title>%s</title></path>", path, Colour(line.colour),
                          line.dashed ? " stroke-dasharray=\"5 4\"" : "", Escape(line.name));
    if (!line.dashed || line.name.find("full precision") != std::string::npos) legend.emplace_back(line.name, line.colour);
  }
  return out + "</svg>" + Legend(legend) + "</figure>";
}

std::string Svg(const SharePlot& plot, const std::string& id) {
  const double height = 8 + kRow * static_cast<double>(std::max<size_t>(1, plot.rows.size()));
  std::string out = Open(kWidth, height, plot.title, id);
  if (plot.rows.empty()) return out + Text(kWidth / 2, height / 2, "nothing was measured yet") + "</svg></figure>";
  for (size_t r = 0; r < plot.rows.size(); ++r) {
    const auto& [name, shares] = plot.rows[r];
    const double y = 4 + kRow * static_cast<double>(r);
    out += Text(kNames - 6, y + 15, Shortened(name, 32), "end");
    double x = kNames;
    for (size_t i = 0; i < shares.size(); ++i) {
      const double width = std::clamp(std::isfinite(shares[i]) ? shares[i] : 0.0, 0.0, 1.0) * (kWidth - kNames - kRight);
      absl::StrAppendFormat(&out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>%s, %s: %.1f %%</title></rect>", x, y, width,
                            kRow - 6, Colour(static_cast<int>(i)), Escape(name), Escape(i < plot.parts.size() ? plot.parts[i] : ""), 100 * shares[i]);
      x += width;
    }
  }
  std::vector<std::pair<std::string, int>> legend;
  for (size_t i = 0; i < plot.parts.size(); ++i) legend.emplace_back(plot.parts[i], static_cast<int>(i));
  return out + "</svg>" + (plot.parts.size() > 1 ? Legend(legend) : "") + "</figure>";
}

std::string Svg(const GraphPlot& plot, const std::string& id) {
  std::map<std::string, std::pair<int, int>> places;  // column and row
  std::vector<int> rows;
  for (const GraphPlot::Box& box : plot.boxes) {
    const auto parent = places.find(box.parent);
    const int column = parent == places.end() ? 0 : parent->second.first + 1;
    if (static_cast<size_t>(column) >= rows.size()) rows.resize(static_cast<size_t>(column) + 1);
    // Not above its parent, so that arrows seldom cross.
    int& next = rows[static_cast<size_t>(column)];
    if (parent != places.end()) next = std::max(next, parent->second.second);
    places[box.name] = {column, next++};
  }
  const int most = rows.empty() ? 1 : *std::max_element(rows.begin(), rows.end());
  const double width = std::max(1.0, static_cast<double>(rows.size())) * (kBoxWidth + kGapX), height = most * (kBoxHeight + kGapY) + kGapY;
  std::string out = Open(width, height, plot.title, id);
  const auto left = [&](const std::string& name) { return 4 + places.at(name).first * (kBoxWidth + kGapX); };
  const auto top = [&](const std::string& name) { return kGapY + places.at(name).second * (kBoxHeight + kGapY); };
  for (const GraphPlot::Box& box : plot.boxes) {
    if (places.count(box.parent) > 0) {
      const double x1 = left(box.parent) + kBoxWidth, y1 = top(box.parent) + kBoxHeight / 2, x2 = left(box.name), y2 = top(box.name) + kBoxHeight / 2;
      absl::StrAppendFormat(&out, "<path class=\"edge\" d=\"M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f\"/>", x1, y1, x1 + kGapX / 2, y1, x2 - kGapX / 2, y2, x2,
                            y2);
    }
    absl::StrAppendFormat(&out, "<g class=\"box%s%s\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"6\"/>", box.shared ? " shared" : "",
                          box.good ? "" : " bad", left(box.name), top(box.name), kBoxWidth, kBoxHeight);
    absl::StrAppend(&out, "<title>", Escape(box.name), "</title>");
    // "W4A4.seed-2": the widths first, what makes it differ below.
    const size_t dot = box.name.find('.');
    const double middle = left(box.name) + kBoxWidth / 2;
    out += Text(middle, top(box.name) + 18, Shortened(box.name.substr(0, dot), kNameLength), "middle", "class=\"strong\"");
    if (dot != std::string::npos) out += Text(middle, top(box.name) + 33, Shortened(box.name.substr(dot + 1), kNameLength));
    for (size_t i = 0; i < box.lines.size() && i < 2; ++i) out += Text(middle, top(box.name) + 49 + 15 * static_cast<double>(i), box.lines[i]);
    out += "</g>";
  }
  return out + "</svg></figure>";
}

}  // namespace bitstair::client
