// What this host can train on, and how exactly it computes.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/fleet.pb.h"

namespace bitstair::worker {

struct Devices {
  // GPUs if there are any that this build can use (index = the driver's ordinal), else shares of the CPU cores.
  std::vector<v1::Slot> slots;
  // Equal on two hosts only if they compute the same bits (DESIGN section 7): device and instruction set, threads per rank, LibTorch, numerics.
  std::string numeric_profile;
  // For people: "no GPU found; offering 2 CPU slots of 1 thread".
  std::string summary;
};

// cpu_slots: CPU slots to offer; 0: as many as this process may use cores, or the GPUs where there are any. With more slots than cores each has one thread.
// The driver is looked for at run time (libcuda.so.1); nothing is linked.
Devices FindDevices(int cpu_slots);

// Cores that this process may run on.
int UsableCores();

// `slots` CPU slots, each with an equal share of `cores`, at least one thread, and the machine's memory.
std::vector<v1::Slot> CpuSlots(int slots, int cores);

// "cpu-avx512_vnni-threads1-libtorch2.11.0-numerics2"
std::string NumericProfile(const std::string& device, int threads);

}  // namespace bitstair::worker
