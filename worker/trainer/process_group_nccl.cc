// libbitstair_nccl.so: see nccl_backend.h. Without the preset `cuda` there are no CUDA headers, and tools that look at this file alone find nothing in it.
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <c10/cuda/CUDAFunctions.h>

#include "worker/trainer/nccl_backend.h"

using bitstair::trainer::GpuCountFunction;
using bitstair::trainer::MakeNcclBackendFunction;

// The names are the symbols of nccl_backend.h. C names with C++ types: both sides come from one build.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wreturn-type-c-linkage"
extern "C" {

__attribute__((visibility("default"))) int BitstairGpuCount() {
  return c10::cuda::device_count();
}

__attribute__((visibility("default"))) c10::intrusive_ptr<c10d::Backend> BitstairMakeNcclBackend(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                                                                                 int world_size, int device,
                                                                                                 std::chrono::milliseconds timeout) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, options);
  backend->setBoundDeviceId(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)));
  return backend;
}
}
#pragma GCC diagnostic pop

static_assert(std::is_same_v<decltype(BitstairGpuCount), GpuCountFunction> && std::is_same_v<decltype(BitstairMakeNcclBackend), MakeNcclBackendFunction>);

#endif  // USE_C10D_NCCL
