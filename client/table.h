// Columns of text for people.
#pragma once

#include <string>
#include <vector>

namespace bitstair::client {

enum class Align { kLeft, kRight };

// Rows under a header, columns two blanks apart, no trailing blanks; every row has as many cells as `align`. Cells lose control characters and line breaks.
std::string Table(const std::vector<std::string>& header, const std::vector<Align>& align, const std::vector<std::vector<std::string>>& rows);

// "59 s", "3:05", "1:02:03"; "?" if negative or not finite.
std::string Duration(double seconds);

// `text` without control characters other than line breaks and tabs, so that nobody's log or error message steers the terminal.
std::string Harmless(const std::string& text);

// `text` cut to `width` columns (UTF-8 counted by code points).
std::string Fit(const std::string& text, int width);

}  // namespace bitstair::client
