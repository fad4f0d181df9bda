// One picture of `bitstair top`: lines of text with tones, free of any terminal.
#pragma once

#include <string>
#include <vector>

namespace bitstair::client::top {

// What a piece of text means; the screen decides what that looks like.
enum class Tone { kPlain, kStrong, kFaint, kGood, kWaiting, kBad };

struct Span {
  std::string text;
  Tone tone = Tone::kPlain;
};

struct Line {
  std::vector<Span> spans;
  bool selected = false;
};

using Frame = std::vector<Line>;

// 0 rows: as many as there is something to show.
struct Size {
  int rows = 0;
  int columns = 80;
};

// Code points of UTF-8; the screen cuts what turns out wider.
int Columns(const std::string& text);

// `text` in one line and harmless, cut to `width` columns with a mark at the end where something is missing.
std::string Shorten(const std::string& text, int width, bool unicode);

// A bar of `width` columns, `share` (0 to 1) of it full.
std::string Bar(double share, int width, bool unicode);

// The lines as plain text, without trailing blanks.
std::string PlainText(const Frame& frame);

}  // namespace bitstair::client::top
