// Plots as SVG inside of a page. Colours are CSS variables of the page (client/report/page.cc), so that they follow light, dark and print. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace bitstair::client {

// Text for HTML and SVG.
std::string Escape(const std::string& text);

// A line over numbers; gaps where y is not finite.
struct Line {
  std::string name;
  std::vector<std::pair<double, double>> points;
  int colour = 0;  // of the page's palette
  bool dashed = false;
};

struct LinePlot {
  std::string title, x_label, y_label;
  std::vector<Line> lines;
  // Marks on the x axis, by x; empty: round numbers.
  std::vector<std::pair<double, std::string>> x_marks;
  bool dots = false;
};
// `id` is the plot's id in the page. A plot without a finite point says so.
std::string Svg(const LinePlot& plot, const std::string& id);

// Bars of shares (0 to 1) that lie side by side in one row each.
struct SharePlot {
  std::string title;
  std::vector<std::string> parts;  // names, in the order of their colours
  std::vector<std::pair<std::string, std::vector<double>>> rows;
};
std::string Svg(const SharePlot& plot, const std::string& id);

// Boxes with arrows from their parents, in columns by their distance from a root.
struct GraphPlot {
  struct Box {
    std::string name;
    std::vector<std::string> lines;  // below the name
    std::string parent;              // empty: a root
    bool shared = false;             // trained by another job
    bool good = true;                // else it failed
  };
  std::string title;
  std::vector<Box> boxes;  // parents before their children
};
std::string Svg(const GraphPlot& plot, const std::string& id);

}  // namespace bitstair::client
