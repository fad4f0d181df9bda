// A table that gives way: where room is short, the least important columns go.
#pragma once

#include <string>
#include <vector>

#include "client/table.h"
#include "client/top/frame.h"

namespace bitstair::client::top {

struct Column {
  std::string title;
  Align align = Align::kLeft;
  int max_width = 12;
  // The highest goes first; 0 stays.
  int rank = 0;
};

struct Cell {
  std::string text;
  Tone tone = Tone::kPlain;
};

struct Row {
  std::vector<Cell> cells;  // of the first columns; the others are empty
  // In place of all further columns, to the end of the line.
  std::string rest;
  bool selected = false;
};

// A header and the rows, columns two blanks apart; no line is wider than `width`. Every line of a row is padded to `width`, so that a selection shows.
std::vector<Line> Layout(const std::vector<Column>& columns, const std::vector<Row>& rows, int width, bool unicode);

}  // namespace bitstair::client::top
