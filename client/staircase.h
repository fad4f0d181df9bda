// A job's way down its bit-widths as a picture for the terminal.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"

namespace bitstair::client {

struct StaircaseStyle {
  int width = 72;        // columns; at least 20
  int height = 6;        // rows between the best and the worst top-1
  bool unicode = false;  // lines of box-drawing characters instead of ASCII
};

// Steps from left to right, one for each stage on the way to the job's narrowest stage, at the height of their top-1 after their newest epoch, with the bits of
// weights and activations below. Stages without a result have no step. Empty where none has one. Lines without trailing blanks, height + 4 of them, or 5 where
// stages had to be left out; none is wider than `width`.
std::vector<std::string> Staircase(const v1::Job& job, const StaircaseStyle& style);

}  // namespace bitstair::client
