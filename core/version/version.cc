#include "core/version/version.h"

#include "core/version/commit.inc"

namespace bitstair::core {

std::string VersionText(std::string_view program) {
  return std::string(program) + " " BITSTAIR_VERSION "\ncommit    " BITSTAIR_COMMIT "\nLibTorch  " BITSTAIR_LIBTORCH_VERSION
                                "\nCUDA      " BITSTAIR_CUDA_VERSION "\nfeatures  " BITSTAIR_FEATURES;
}

}  // namespace bitstair::core
