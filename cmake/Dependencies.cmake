# Every library that is not ours, each as one target.

find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(LibLZMA REQUIRED)
find_package(JPEG REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(CLI11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
# The wide one: it draws UTF-8.
set(CURSES_NEED_WIDE TRUE)
find_package(Curses REQUIRED)
add_library(bitstair_curses INTERFACE)
target_include_directories(bitstair_curses SYSTEM INTERFACE ${CURSES_INCLUDE_DIRS})
target_link_libraries(bitstair_curses INTERFACE ${CURSES_LIBRARIES})
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

# Asio without the deprecated parts of Boost 1.74; <utility> must precede boost/asio/awaitable.hpp with GCC 12.
add_library(bitstair_asio INTERFACE)
target_link_libraries(bitstair_asio INTERFACE Boost::headers Threads::Threads)
target_compile_options(bitstair_asio INTERFACE "SHELL:-include utility")
target_compile_definitions(bitstair_asio INTERFACE BOOST_ASIO_NO_DEPRECATED)

if(NOT BITSTAIR_DEPS)
  # Where ./dev setup puts it unless told otherwise.
  if(DEFINED ENV{BITSTAIR_CACHE})
    set(BITSTAIR_DEPS $ENV{BITSTAIR_CACHE}/deps)
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(BITSTAIR_DEPS $ENV{XDG_CACHE_HOME}/bitstair/deps)
  else()
    set(BITSTAIR_DEPS $ENV{HOME}/.cache/bitstair/deps)
  endif()
endif()
if(NOT EXISTS ${BITSTAIR_DEPS}/googleapis/google/rpc/error_details.proto)
  message(FATAL_ERROR "BITSTAIR_DEPS=${BITSTAIR_DEPS} has no googleapis/google/rpc/error_details.proto. Run ./dev setup, then configure with a preset through ./dev build.")
endif()

if(BITSTAIR_TORCH)
  set(BITSTAIR_TORCH_DIR ${BITSTAIR_DEPS}/libtorch/torch)
  if(NOT EXISTS ${BITSTAIR_TORCH_DIR}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "No LibTorch in ${BITSTAIR_DEPS}/libtorch. Run ./dev setup.")
  endif()
  # LibTorch's CPU half, from the PyPI wheel. Its include folders come after the system's, since they hold an older protobuf.
  add_library(bitstair_torch INTERFACE)
  target_compile_options(bitstair_torch INTERFACE "SHELL:-idirafter ${BITSTAIR_TORCH_DIR}/include" "SHELL:-idirafter ${BITSTAIR_TORCH_DIR}/include/torch/csrc/api/include")
  target_compile_definitions(bitstair_torch INTERFACE USE_C10D_GLOO USE_DISTRIBUTED)
  # at::parallel_for lives in a header and is a plain loop unless it is compiled for OpenMP.
  target_compile_options(bitstair_torch INTERFACE -fopenmp)
  target_link_libraries(bitstair_torch INTERFACE ${BITSTAIR_TORCH_DIR}/lib/libtorch_cpu.so ${BITSTAIR_TORCH_DIR}/lib/libc10.so gomp)

  # oneDNN for the convolutions of core/kernels: LibTorch's own copy is hidden inside it. Built for the same OpenMP runtime, which LibTorch brings along
  # (docs/adr/0005).
  find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp PATHS ${BITSTAIR_DEPS}/onednn/onednn_devel_cpu_gomp-2023.2.0.data/data/include REQUIRED NO_DEFAULT_PATH)
  find_file(ONEDNN_LIBRARY libdnnl.so.3 PATHS ${BITSTAIR_DEPS}/onednn/onednn_cpu_gomp-2023.2.0.data/data/lib REQUIRED NO_DEFAULT_PATH)
  add_library(bitstair_onednn INTERFACE)
  target_compile_options(bitstair_onednn INTERFACE "SHELL:-isystem ${ONEDNN_INCLUDE_DIR}")
  target_link_libraries(bitstair_onednn INTERFACE ${ONEDNN_LIBRARY})

  # The allocator of programs that train: it keeps what a step frees for the next one, with fewer holes than glibc's (docs/adr/0006). Sanitizers bring their own.
  add_library(bitstair_malloc INTERFACE)
  if(NOT BITSTAIR_SANITIZE)
    find_library(TCMALLOC_LIBRARY tcmalloc_minimal REQUIRED)
    target_link_options(bitstair_malloc INTERFACE "SHELL:-Wl,--no-as-needed ${TCMALLOC_LIBRARY} -Wl,--as-needed")
  endif()
endif()

if(BITSTAIR_CUDA)
  # Headers are all that is needed so far: of the toolkit that nvcc or CUDAToolkit_ROOT names (./dev build cuda fetches one as wheels where there is none).
  find_program(NVCC nvcc HINTS ENV CUDAToolkit_ROOT PATH_SUFFIXES bin REQUIRED)
  # The nvcc on the path may be a wrapper; a dry run tells where the toolkit is.
  file(WRITE ${CMAKE_BINARY_DIR}/empty.cu "")
  execute_process(COMMAND ${NVCC} --dryrun -c ${CMAKE_BINARY_DIR}/empty.cu ERROR_VARIABLE nvcc_plan OUTPUT_QUIET)
  string(REGEX MATCH "_THERE_=([^\n]*)" unused "${nvcc_plan}")
  set(cuda_root ${CMAKE_MATCH_1}/..)
  find_path(CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ENV CUDAToolkit_ROOT ${cuda_root} PATH_SUFFIXES include targets/x86_64-linux/include REQUIRED)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDA_INCLUDE_DIR} ${BITSTAIR_DEPS}/cuda/nvidia/nccl/include REQUIRED)
  # The GPU half. LibTorch's own GPU dependencies (cuBLAS, cuDNN, ...) are needed to run it, not to link it.
  add_library(bitstair_torch_cuda INTERFACE)
  target_compile_definitions(bitstair_torch_cuda INTERFACE USE_C10D_NCCL)
  target_compile_options(bitstair_torch_cuda INTERFACE "SHELL:-isystem ${CUDA_INCLUDE_DIR}" "SHELL:-isystem ${NCCL_INCLUDE_DIR}")
  target_link_libraries(bitstair_torch_cuda INTERFACE bitstair_torch)
  target_link_options(bitstair_torch_cuda INTERFACE -Wl,--allow-shlib-undefined)
  target_link_libraries(bitstair_torch_cuda INTERFACE -Wl,--no-as-needed ${BITSTAIR_TORCH_DIR}/lib/libtorch_cuda.so ${BITSTAIR_TORCH_DIR}/lib/libc10_cuda.so)
endif()
