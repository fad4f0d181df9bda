// The ranks of a gang, joined: the few collectives that the trainer needs besides the gradients' all-reduce.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

#include "absl/status/status.h"

namespace c10d {
class ProcessGroup;
class Store;
}  // namespace c10d

namespace bitstair::trainer {

// A collective that takes longer than this has lost a peer. (A dead peer shows at once; this is for a silent network.)
inline constexpr std::chrono::seconds kCollectiveTimeout{120};

// libbitstair_nccl.so beside the program, for a trainer on a GPU slot. To be loaded before any tensor exists, since LibTorch looks for CUDA once
// (docs/adr/0002). FAILED_PRECONDITION: this build has no GPU parts, its libraries are missing, or the machine has no such GPU ("no GPU found").
absl::Status LoadGpuBackend(int device);

// Gloo for CPU tensors; on a GPU slot also NCCL for CUDA tensors. Collectives block, must be called in the same order on all ranks and from one thread at a
// time, and throw (c10::Error or what Gloo throws) when a peer is lost. Groups of one process may not be used by several threads: c10d's flight recorder adds
// to a map of groups outside its lock (pytorch/pytorch#179449); TORCH_FR_BUFFER_SIZE=0 turns it off.
class ProcessGroup {
 public:
  // A gang of one: no store, no sockets.
  ProcessGroup();
  // Returns when all ranks have joined. data_address: the local address that Gloo binds. gpu: this rank's device, after LoadGpuBackend.
  ProcessGroup(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, const std::string& data_address, std::optional<int> gpu = std::nullopt);
  ~ProcessGroup();

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  // tensor: CPU, contiguous, of one shape and dtype on all ranks. Returns every rank's copy, in rank order.
  std::vector<at::Tensor> AllGather(const at::Tensor& tensor);
  void Barrier();

  // Null for a gang of one.
  const c10::intrusive_ptr<c10d::ProcessGroup>& group() const;
  std::optional<int> gpu() const { return gpu_; }
  // Where a tensor must be to travel the fast way: this rank's GPU, through NCCL, or the CPU, through Gloo.
  c10::Device device() const;

 private:
  struct Impl;
  int rank_ = 0;
  int world_size_ = 1;
  std::optional<int> gpu_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitstair::trainer
