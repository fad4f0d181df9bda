// The one source file that sees Gloo's headers. They are Debian's, the library is LibTorch's own copy of Gloo: no gloo:: class may be constructed or derived
// here, so that none of its vtables is defined in our objects (.ci/check_gloo_vtables).
#include "worker/trainer/process_group.h"

#include <dlfcn.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <utility>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "absl/strings/str_cat.h"
#include "worker/trainer/nccl_backend.h"
#include "worker/trainer/rendezvous.h"

namespace bitstair::trainer {
namespace {

MakeNcclBackendFunction* make_nccl_backend = nullptr;

}  // namespace

absl::Status LoadGpuBackend(int device) {
  void* library = dlopen("libbitstair_nccl.so", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return absl::FailedPreconditionError(absl::StrCat("no GPU found: the trainer's GPU part cannot be loaded (", dlerror(), ")"));
  const auto count = reinterpret_cast<GpuCountFunction*>(dlsym(library, kGpuCountSymbol));
  make_nccl_backend = reinterpret_cast<MakeNcclBackendFunction*>(dlsym(library, kMakeNcclBackendSymbol));
  if (count == nullptr || make_nccl_backend == nullptr) return absl::FailedPreconditionError("libbitstair_nccl.so is of another version");
  if (device < 0 || device >= count()) return absl::FailedPreconditionError(absl::StrCat("no GPU found with number ", device, ": this machine has ", count()));
  return absl::OkStatus();
}

struct ProcessGroup::Impl {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
};

ProcessGroup::ProcessGroup() : impl_(std::make_unique<Impl>()) {}

ProcessGroup::ProcessGroup(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, const std::string& data_address, std::optional<int> gpu)
    : rank_(rank), world_size_(world_size), gpu_(gpu), impl_(std::make_unique<Impl>()) {
  auto options = c10d::ProcessGroupGloo::Options::create(kRendezvousTimeout);
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(data_address));
  auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world_size, options);
  gloo->setTimeout(kCollectiveTimeout);
  impl_->group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, world_size);
  impl_->group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
  impl_->group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
  if (gpu.has_value()) {
    TORCH_CHECK(make_nccl_backend != nullptr, "LoadGpuBackend comes first");
    impl_->group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL,
                             make_nccl_backend(c10::make_intrusive<c10d::PrefixStore>("nccl/", store), rank, world_size, *gpu, kCollectiveTimeout));
  }
}

ProcessGroup::~ProcessGroup() {
  if (!gpu_.has_value() || impl_->group == nullptr) return;
  // NCCL's own threads must end before the store goes. Abort waits for no peer, which may be gone; after the last collective there is nothing to lose.
  try {
    impl_->group->getBackend(c10::DeviceType::CUDA)->abort();
  } catch (const std::exception& e) {
    spdlog::warn("leaving NCCL: {}", e.what());
  }
}

c10::Device ProcessGroup::device() const {
  return gpu_.has_value() ? c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(*gpu_)) : c10::Device(c10::DeviceType::CPU);
}

const c10::intrusive_ptr<c10d::ProcessGroup>& ProcessGroup::group() const {
  return impl_->group;
}

std::vector<at::Tensor> ProcessGroup::AllGather(const at::Tensor& tensor) {
  if (world_size_ == 1) return {tensor};
  std::vector<std::vector<at::Tensor>> outputs(1);
  for (int i = 0; i < world_size_; ++i) outputs[0].push_back(at::empty_like(tensor));
  std::vector<at::Tensor> inputs{tensor};
  impl_->group->allgather(outputs, inputs)->wait();
  return std::move(outputs[0]);
}

void ProcessGroup::Barrier() {
  // Gloo's own barrier would do as well; an all-gather is one thing less that NCCL could be asked for instead.
  AllGather(at::zeros({1}, at::kByte));
}

}  // namespace bitstair::trainer
