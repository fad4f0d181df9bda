// What this build is; for --version. Known at build time, so that programs without LibTorch can name its version.
#pragma once

#include <string>
#include <string_view>

namespace bitstair::core {

// "PROGRAM 0.1.0", then one line each for the commit, LibTorch, CUDA and the features. No newline at the end.
std::string VersionText(std::string_view program);

}  // namespace bitstair::core
