#include "client/top/screen.h"

#define NCURSES_NOMACROS 1
#include <curses.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace bitstair::client::top {
namespace {

constexpr int kEscapeDelayMs = 50;  // a lone Esc is a key; arrows arrive faster, also over ssh
enum Pair : short { kGoodPair = 1, kWaitingPair, kBadPair };

attr_t AttributeOf(Tone tone, bool color) {
  const auto colored = [color](Pair pair, attr_t otherwise) { return color ? static_cast<attr_t>(COLOR_PAIR(pair)) : otherwise; };
  switch (tone) {
    case Tone::kPlain:
      return A_NORMAL;
    case Tone::kStrong:
      return A_BOLD;
    case Tone::kFaint:
      return A_DIM;
    case Tone::kGood:
      return colored(kGoodPair, A_NORMAL);
    case Tone::kWaiting:
      return colored(kWaitingPair, A_NORMAL);
    case Tone::kBad:
      return colored(kBadPair, A_BOLD) | A_BOLD;
  }
  return A_NORMAL;
}

// Draws as many of its characters as fit before column `columns`; what the locale or the terminal cannot show becomes '?'.
void Put(const std::string& text, int columns, int& column) {
  std::mbstate_t state{};
  for (size_t at = 0; at < text.size();) {
    wchar_t wide = L'?';
    size_t bytes = std::mbrtowc(&wide, text.data() + at, text.size() - at, &state);
    if (bytes == 0 || bytes > text.size() - at) {
      state = {};
      wide = L'?';
      bytes = 1;
      while (at + bytes < text.size() && (static_cast<unsigned char>(text[at + bytes]) & 0xC0U) == 0x80U) ++bytes;
    }
    at += bytes;
    int width = wcwidth(wide);
    if (width < 0) {
      wide = L'?';
      width = 1;
    }
    if (column + width > columns) return;
    addnwstr(&wide, 1);
    column += width;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Screen>> Screen::Open(bool color) {
  std::setlocale(LC_CTYPE, "");
  SCREEN* screen = newterm(nullptr, stdout, stdin);
  if (screen == nullptr) {
    const char* term = std::getenv("TERM");
    return absl::FailedPreconditionError(
        absl::StrCat("the terminal's type \"", term == nullptr ? "" : term, "\" (TERM) is not known here; --once prints one picture"));
  }
  set_term(screen);
  cbreak();
  noecho();
  nonl();
  intrflush(nullptr, FALSE);
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
  set_escdelay(kEscapeDelayMs);
  curs_set(0);
  color = color && has_colors();
  if (color) {
    start_color();
    use_default_colors();
    init_pair(kGoodPair, COLOR_GREEN, -1);
    init_pair(kWaitingPair, COLOR_YELLOW, -1);
    init_pair(kBadPair, COLOR_RED, -1);
  }
  return std::unique_ptr<Screen>(new Screen(screen, color));
}

Screen::~Screen() {
  endwin();
  delscreen(static_cast<SCREEN*>(screen_));
}

Size Screen::size() const {
  return {getmaxy(stdscr), getmaxx(stdscr)};
}

void Screen::Resize() {
  winsize now{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &now) != 0 || now.ws_row == 0 || now.ws_col == 0) return;
  resizeterm(now.ws_row, now.ws_col);
  clearok(stdscr, TRUE);  // what the terminal made of the old picture is anyone's guess
}

void Screen::Draw(const Frame& frame) {
  const Size room = size();
  erase();
  for (int row = 0; row < std::min(room.rows, static_cast<int>(frame.size())); ++row) {
    const Line& line = frame[static_cast<size_t>(row)];
    move(row, 0);
    int column = 0;
    // The last column of the last line stays free: writing it scrolls some terminals.
    const int columns = row == room.rows - 1 ? room.columns - 1 : room.columns;
    for (const Span& span : line.spans) {
      attrset(static_cast<NCURSES_ATTR_T>(line.selected ? A_REVERSE : AttributeOf(span.tone, color_)));
      Put(span.text, columns, column);
    }
  }
  attrset(A_NORMAL);
  refresh();
}

Key Screen::ReadKey() {
  switch (getch()) {
    case ERR:
      return Key::kNone;
    case KEY_UP:
    case 'k':
      return Key::kUp;
    case KEY_DOWN:
    case 'j':
      return Key::kDown;
    case KEY_PPAGE:
      return Key::kPageUp;
    case KEY_NPAGE:
    case ' ':
      return Key::kPageDown;
    case KEY_HOME:
    case 'g':
      return Key::kHome;
    case KEY_END:
    case 'G':
      return Key::kEnd;
    case KEY_ENTER:
    case '\r':
    case '\n':
    case KEY_RIGHT:
      return Key::kEnter;
    case KEY_BACKSPACE:
    case KEY_LEFT:
    case 0x1B:
    case 0x7F:
      return Key::kBack;
    case 'w':
      return Key::kWorkers;
    case '?':
    case 'h':
      return Key::kHelp;
    case 'q':
    case 'Q':
      return Key::kQuit;
    default:
      return Key::kOther;
  }
}

}  // namespace bitstair::client::top
