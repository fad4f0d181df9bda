// The border between the trainer and libbitstair_nccl.so, the only part that is linked to CUDA and NCCL (docs/adr/0002).
#pragma once

#include <chrono>

#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace bitstair::trainer {

inline constexpr char kGpuCountSymbol[] = "BitstairGpuCount";
inline constexpr char kMakeNcclBackendSymbol[] = "BitstairMakeNcclBackend";

using GpuCountFunction = int();
// May throw c10::Error.
using MakeNcclBackendFunction = c10::intrusive_ptr<c10d::Backend>(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, int device,
                                                                  std::chrono::milliseconds timeout);

}  // namespace bitstair::trainer
