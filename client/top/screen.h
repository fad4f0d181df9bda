// The terminal of `bitstair top`, by way of ncurses.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "client/top/frame.h"
#include "client/top/model.h"

namespace bitstair::client::top {

// Has the terminal for itself from Open until it is destroyed, which gives it back as it was. One at a time; for one thread.
class Screen {
 public:
  // FAILED_PRECONDITION where the terminal's type is not known.
  static absl::StatusOr<std::unique_ptr<Screen>> Open(bool color);
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  Size size() const;
  // Takes over the size that the terminal has now (SIGWINCH).
  void Resize();
  void Draw(const Frame& frame);
  // The next key that was pressed; kNone if there is none, kOther for keys without a meaning.
  Key ReadKey();

 private:
  Screen(void* screen, bool color) : screen_(screen), color_(color) {}

  void* screen_;  // SCREEN; ncurses' names stay out of this header
  bool color_;
};

}  // namespace bitstair::client::top
