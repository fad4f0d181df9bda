// The frame of a page: styles for light, dark and print.
#pragma once

#include <string>

namespace bitstair::client {

// body: HTML. title: text.
std::string Page(const std::string& title, const std::string& body);

}  // namespace bitstair::client
