// Draws `bitstair top`: model and size in, lines out. Pure.
#pragma once

#include "client/top/frame.h"
#include "client/top/model.h"

namespace bitstair::client::top {

// The whole picture. With size.rows > 0 it has exactly so many lines, the last one naming the keys; else everything, without them. No line is wider than
// size.columns (at least 20), as far as code points tell.
Frame Render(const Model& model, const View& view, Size size, bool unicode);

}  // namespace bitstair::client::top
