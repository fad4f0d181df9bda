#include "worker/devices.h"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/version/numerics_version.h"

namespace bitstair::worker {
namespace {

constexpr char kLibTorchVersion[] = "2.11.0";
// CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
constexpr int kMajor = 75;
constexpr int kMinor = 76;
constexpr char kMemoryLimit[] = "/sys/fs/cgroup/memory.max";
#if defined(__x86_64__)
constexpr unsigned kAmxTile = 1u << 24;  // cpuid leaf 7, edx
#endif

struct Gpu {
  std::string name;
  int compute_capability = 0;  // 90 for 9.0
  int64_t memory_bytes = 0;
};

// Of this machine, or of the container that this process is in. 0: not known.
int64_t MachineMemory() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  int64_t bytes = pages > 0 && page > 0 ? pages * page : 0;
  int64_t limit = 0;
  if (std::ifstream file(kMemoryLimit); file >> limit && limit > 0) bytes = bytes == 0 ? limit : std::min(bytes, limit);
  return bytes;
}

// Asks the driver through its C interface, which is stable since its first versions. Empty where there is no driver or no GPU.
std::vector<Gpu> FindGpus() {
  using Init = int (*)(unsigned);
  using Count = int (*)(int*);
  using Get = int (*)(int*, int);
  using Name = int (*)(char*, int, int);
  using Attribute = int (*)(int*, int, int);
  using Memory = int (*)(size_t*, int);
  std::vector<Gpu> gpus;
  // Never closed: the driver does not like it, and the process asks once.
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return gpus;
  const auto init = reinterpret_cast<Init>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<Count>(dlsym(driver, "cuDeviceGetCount"));
  const auto get = reinterpret_cast<Get>(dlsym(driver, "cuDeviceGet"));
  const auto name = reinterpret_cast<Name>(dlsym(driver, "cuDeviceGetName"));
  const auto attribute = reinterpret_cast<Attribute>(dlsym(driver, "cuDeviceGetAttribute"));
  const auto memory = reinterpret_cast<Memory>(dlsym(driver, "cuDeviceTotalMem_v2"));
  int devices = 0;
  if (!init || !count || !get || !name || !attribute || init(0) != 0 || count(&devices) != 0) return gpus;
  for (int i = 0; i < devices; ++i) {
    int device = 0;
    int major = 0;
    int minor = 0;
    char text[256] = "";
    if (get(&device, i) != 0 || name(text, sizeof(text), device) != 0) continue;
    attribute(&major, kMajor, device);
    attribute(&minor, kMinor, device);
    size_t bytes = 0;
    if (memory == nullptr || memory(&bytes, device) != 0) bytes = 0;
    gpus.push_back({text, 10 * major + minor, static_cast<int64_t>(bytes)});
  }
  return gpus;
}

// The widest instruction set that ATen and oneDNN choose their kernels by.
std::string InstructionSet() {
#if defined(__x86_64__)
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  if (__builtin_cpu_supports("avx512vnni")) {
    // As FastFloat() of core/kernels/convolution.h chooses the type of gradients.
    if ((edx & kAmxTile) != 0) return "avx512_amx";
    return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bf16") ? "avx512_bf16" : "avx512_vnni";
  }
  if (__builtin_cpu_supports("avx512bw")) return "avx512";
  if (__builtin_cpu_supports("avx2")) return "avx2";
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "generic";
#endif
}

}  // namespace

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1u, std::thread::hardware_concurrency());
}

std::vector<v1::Slot> CpuSlots(int slots, int cores) {
  std::vector<v1::Slot> result;
  const int64_t memory = MachineMemory();
  for (int i = 0; i < slots; ++i) {
    v1::Slot slot;
    slot.set_index(i);
    slot.set_kind(v1::SLOT_KIND_CPU);
    slot.set_threads(std::max(1, cores / slots));
    slot.set_memory_bytes(memory);
    result.push_back(std::move(slot));
  }
  return result;
}

std::string NumericProfile(const std::string& device, int threads) {
  return absl::StrCat(device, "-threads", threads, "-libtorch", kLibTorchVersion, "-numerics", core::kNumericsVersion);
}

Devices FindDevices(int cpu_slots) {
  Devices devices;
  const std::vector<Gpu> gpus = cpu_slots > 0 ? std::vector<Gpu>{} : FindGpus();
  const int cores = UsableCores();
  if (!gpus.empty() && BITSTAIR_WITH_CUDA) {
    int capability = 0;
    for (size_t i = 0; i < gpus.size(); ++i) {
      v1::Slot slot;
      slot.set_index(static_cast<int>(i));
      slot.set_kind(v1::SLOT_KIND_GPU);
      slot.set_threads(std::max(1, cores / static_cast<int>(gpus.size())));
      slot.set_device(absl::StrCat(gpus[i].name, " ", i));
      slot.set_memory_bytes(gpus[i].memory_bytes);
      capability = gpus[i].compute_capability;
      devices.slots.push_back(std::move(slot));
    }
    // Gradients are summed through the GPU, all else is computed on the CPU: both decide about the bits.
    devices.numeric_profile = NumericProfile(absl::StrCat("cuda-sm", capability, "-", InstructionSet()), devices.slots[0].threads());
    devices.summary = absl::StrCat("offering ", gpus.size(), " GPU slot", gpus.size() == 1 ? "" : "s", " (", gpus[0].name, ")");
    return devices;
  }
  const int slots = cpu_slots > 0 ? cpu_slots : cores;
  devices.slots = CpuSlots(slots, cores);
  const int threads = devices.slots[0].threads();
  devices.numeric_profile = NumericProfile(absl::StrCat("cpu-", InstructionSet()), threads);
  const std::string why = cpu_slots > 0 ? "CPU slots as asked" : gpus.empty() ? "no GPU found" : "this build cannot use GPUs (build it with the preset cuda)";
  devices.summary = absl::StrCat(why, "; offering ", slots, " CPU slot", slots == 1 ? "" : "s", " of ", threads, " thread", threads == 1 ? "" : "s");
  return devices;
}

}  // namespace bitstair::worker
