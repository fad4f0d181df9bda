#include "worker/trainer/gradient_allreduce.h"

#include <ATen/ATen.h>

#include <numeric>
#include <utility>

#include <torch/csrc/distributed/c10d/reducer.hpp>

namespace bitstair::trainer {
namespace {

constexpr int64_t kFirstBucketBytes = int64_t{1} << 20;
constexpr int64_t kBucketBytes = int64_t{25} << 20;

class LocalAllreduce final : public GradientAllreduce {
 public:
  void PrepareForward() override {}
  void PrepareBackward(const at::Tensor&) override {}
  void Finish() override {}
  void Average() override {}
  void Abstain() override {}
  int64_t bytes_sent() const override { return 0; }
};

// Carries a bucket to the GPU, sums it there through NCCL, and brings it back: the nets' tensors are on the CPU.
class NcclHook final : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  explicit NcclHook(const ProcessGroup& group) : CppCommHookInterface(group.group()), device_(group.device()) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    std::vector<at::Tensor> tensors{bucket.getBufferRef().to(device_)};
    state_->allreduce(tensors)->wait();
    at::Tensor mean = tensors[0].to(at::kCPU).div_(state_->getSize());
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::TensorType::get());
    future->markCompleted(at::IValue(mean));
    return future;
  }

 private:
  const at::Device device_;
};

class ReducerAllreduce final : public GradientAllreduce {
 public:
  ReducerAllreduce(std::vector<at::Tensor> leaves, ProcessGroup& group)
      : leaves_(std::move(leaves)),
        bytes_per_step_(Bytes() * 2 * (group.world_size() - 1) / group.world_size()),
        reducer_(leaves_, Buckets(), group.group(), std::vector<bool>(leaves_.size(), false), kBucketBytes, /*find_unused_parameters=*/false,
                 /*gradient_as_bucket_view=*/false, /*param_names=*/{}, kFirstBucketBytes, /*skip_all_reduce_unused_params=*/false,
                 /*use_python_reducer=*/false,
                 /*bucket_bytes_cap_list=*/{}) {
    if (group.gpu().has_value()) reducer_.register_comm_hook(std::make_unique<NcclHook>(group));
  }

  ~ReducerAllreduce() noexcept override {}  // the Reducer's own may throw in theory

  void PrepareForward() override { reducer_.prepare_for_forward(); }
  void PrepareBackward(const at::Tensor& loss) override { reducer_.prepare_for_backward({loss}); }
  // The Reducer waits for its buckets in a callback at the end of the backward pass: here every leaf holds the mean already.
  void Finish() override { bytes_sent_ += bytes_per_step_; }
  void Average() override {}

  void Abstain() override {
    at::Tensor zero = at::zeros({});
    for (const at::Tensor& leaf : leaves_) zero = zero + (leaf * 0).sum();
    PrepareBackward(zero);
    zero.backward();
    Finish();
  }

  int64_t bytes_sent() const override { return bytes_sent_; }

 private:
  std::vector<int64_t> ParameterBytes() const {
    std::vector<int64_t> bytes;
    for (const at::Tensor& leaf : leaves_) bytes.push_back(static_cast<int64_t>(leaf.nbytes()));
    return bytes;
  }
  int64_t Bytes() const {
    const std::vector<int64_t> bytes = ParameterBytes();
    return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  }
  std::vector<std::vector<size_t>> Buckets() const { return GradientBuckets(ParameterBytes(), kFirstBucketBytes, kBucketBytes); }

  const std::vector<at::Tensor> leaves_;
  const int64_t bytes_per_step_;
  c10d::Reducer reducer_;
  int64_t bytes_sent_ = 0;
};

}  // namespace

std::vector<std::vector<size_t>> GradientBuckets(const std::vector<int64_t>& parameter_bytes, int64_t first_cap, int64_t cap) {
  std::vector<std::vector<size_t>> buckets;
  int64_t held = 0;
  for (size_t i = parameter_bytes.size(); i-- > 0;) {
    const int64_t limit = buckets.size() <= 1 ? first_cap : cap;
    if (buckets.empty() || held + parameter_bytes[i] > limit) {
      buckets.emplace_back();
      held = 0;
    }
    buckets.back().push_back(i);
    held += parameter_bytes[i];
  }
  return buckets;
}

std::vector<at::Tensor> ReducedLeaves(const std::vector<core::Parameter>& parameters) {
  std::vector<at::Tensor> leaves;
  for (const core::Parameter& parameter : parameters) {
    // Of a weight's step nothing needs to travel: its gradient follows from that of the weight.
    if (parameter.scalar != core::Scalar::kWeightStep) leaves.push_back(parameter.leaf);
  }
  return leaves;
}

std::unique_ptr<GradientAllreduce> MakeGradientAllreduce(const std::vector<core::Parameter>& parameters, ProcessGroup& group) {
  if (group.world_size() == 1) return std::make_unique<LocalAllreduce>();
  return std::make_unique<ReducerAllreduce>(ReducedLeaves(parameters), group);
}

}  // namespace bitstair::trainer
