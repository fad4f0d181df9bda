// What the terminal and the locale allow.
#pragma once

namespace bitstair::client {

// Whether `fd` is a terminal that can do more than print lines.
bool IsTerminal(int fd);

// False where NO_COLOR is set (no-color.org).
bool HasColor();

// Columns of the terminal at `fd`; where it is none those that COLUMNS names, else `otherwise`.
int TerminalWidth(int fd, int otherwise = 80);

// Whether the locale of the environment writes UTF-8, so that lines and blocks can be drawn.
bool IsUtf8Locale();

}  // namespace bitstair::client
