// write_sample_checkpoint DIRECTORY: saves a small checkpoint and prints its path, for the test that opens it with the official reader.
#include <ATen/ATen.h>

#include <cstdio>

#include "core/checkpoint/checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  bitstair::core::Checkpoint sample;
  sample.stage_key = "key";
  sample.stage_name = "W4A8";
  sample.network = "convnet28";
  sample.epoch = 3;
  sample.tensors["conv1.weight"] = at::arange(27, at::kFloat).view({3, 3, 3}) / 8;
  sample.tensors["bn1.running_mean"] = at::arange(5, at::kDouble) / 4;
  sample.tensors["counts"] = at::arange(4);
  sample.tensors["bytes"] = at::arange(3).to(at::kByte);
  const auto saved = bitstair::core::SaveCheckpoint(argv[1], sample, "cpu");
  if (!saved.ok()) {
    std::fprintf(stderr, "%s\n", saved.status().ToString().c_str());
    return 1;
  }
  std::puts(saved->path.c_str());
}
