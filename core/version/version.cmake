# version/: what --version prints. LibTorch's version is a text here, so that every program can print it.
set(libtorch_version "none")
set(cuda_version "no CUDA")
set(features "")
if(BITSTAIR_TORCH)
  file(STRINGS ${BITSTAIR_TORCH_DIR}/version.py line REGEX "^__version__ = ")
  string(REGEX REPLACE "^__version__ = '(.*)'.*" "\\1" libtorch_version "${line}")
  file(STRINGS ${ONEDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h lines REGEX "#define DNNL_VERSION_(MAJOR|MINOR) ")
  string(REGEX REPLACE "[^0-9]+([0-9]+)[^0-9]+([0-9]+).*" "\\1.\\2" onednn_version "${lines}")
  list(APPEND features "Gloo" "oneDNN ${onednn_version}")
  # Compiled in; which of them run is decided by the processor.
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND features "AVX-512 kernels" "AVX-512 BF16 kernels")
  endif()
endif()
if(BITSTAIR_CUDA)
  file(STRINGS ${CUDA_INCLUDE_DIR}/cuda_runtime_api.h line REGEX "#define CUDART_VERSION ")
  string(REGEX REPLACE ".*CUDART_VERSION +([0-9]+)([0-9][0-9])[0-9].*" "\\1.\\2" cuda_version "${line}")
  string(REPLACE ".0" "." cuda_version "${cuda_version}")
  list(APPEND features "NCCL")
endif()
if(BITSTAIR_SANITIZE)
  list(APPEND features "sanitizers ${BITSTAIR_SANITIZE}")
endif()
if(NOT features)
  set(features "none")
endif()
string(REPLACE ";" ", " features "${features}")

# The commit at the time of the build, not of the configuration. Written only when it differs, so that most builds compile nothing.
add_custom_target(bitstair_commit BYPRODUCTS ${CMAKE_CURRENT_BINARY_DIR}/generated/core/version/commit.inc
  COMMAND ${CMAKE_COMMAND} -D SOURCE=${CMAKE_SOURCE_DIR} -D COMMIT=${BITSTAIR_COMMIT} -D OUT=${CMAKE_CURRENT_BINARY_DIR}/generated/core/version/commit.inc
    -P ${CMAKE_CURRENT_SOURCE_DIR}/version/write_commit.cmake VERBATIM)
bitstair_library(bitstair_version SOURCES version/version.cc)
add_dependencies(bitstair_version bitstair_commit)
target_include_directories(bitstair_version PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
target_compile_definitions(bitstair_version PRIVATE BITSTAIR_VERSION="${PROJECT_VERSION}" BITSTAIR_LIBTORCH_VERSION="${libtorch_version}"
  BITSTAIR_CUDA_VERSION="${cuda_version}" BITSTAIR_FEATURES="${features}")
