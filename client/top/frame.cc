#include "client/top/frame.h"

#include <algorithm>
#include <cmath>

#include "client/table.h"

namespace bitstair::client::top {

int Columns(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string Shorten(const std::string& text, int width, bool unicode) {
  std::string line = Harmless(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  if (Columns(line) <= width) return line;
  return width <= 0 ? "" : Fit(line, width - 1) + (unicode ? "…" : "~");
}

std::string Bar(double share, int width, bool unicode) {
  const int full = static_cast<int>(std::lround((std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0) * width));
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? (unicode ? "█" : "#") : (unicode ? "░" : "-");
  return bar;
}

std::string PlainText(const Frame& frame) {
  std::string text;
  for (const Line& line : frame) {
    std::string out;
    for (const Span& span : line.spans) out += span.text;
    out.erase(out.find_last_not_of(' ') + 1);
    text += out + "\n";
  }
  return text;
}

}  // namespace bitstair::client::top
