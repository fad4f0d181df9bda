// What core_dump and guided_dump share: tensors by name into a file for Python, and the gradients of a first step.
#pragma once

#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "core/checkpoint/safetensors.h"
#include "core/files/durable_file.h"
#include "core/nn/network.h"
#include "core/training/gradient_sink.h"

namespace bitstair::core {

using Tensors = std::map<std::string, at::Tensor>;

// False, with a message on stderr, if it did not work.
inline bool WriteTensors(const std::string& path, const Tensors& tensors) {
  SafetensorsFile file;
  for (const auto& [name, tensor] : tensors) file.tensors[name] = tensor.detach().contiguous();
  const absl::StatusOr<std::string> bytes = EncodeSafetensors(file);
  const absl::Status status = bytes.ok() ? WriteFileDurably(path, *bytes) : bytes.status();
  if (!status.ok()) std::fprintf(stderr, "%s: %s\n", path.c_str(), status.ToString().c_str());
  return status.ok();
}

// Keeps the gradients of the first step, under `prefix`NAME.
class FirstGradients final : public GradientSink {
 public:
  FirstGradients(Network& network, Tensors& out, std::string prefix) : network_(network), out_(out), prefix_(std::move(prefix)) {}
  void PrepareForward() override {}
  void PrepareBackward(const at::Tensor&) override {}
  void Finish() override {
    if (seen_) return;
    seen_ = true;
    for (const Parameter& p : network_.parameters()) {
      if (p.leaf.grad().defined()) out_[prefix_ + p.name] = p.leaf.grad().clone();
    }
  }

 private:
  Network& network_;
  Tensors& out_;
  const std::string prefix_;
  bool seen_ = false;
};

}  // namespace bitstair::core
