#include "core/nn/tape.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

namespace bitstair::core {
namespace {

class Step final : public torch::autograd::Node {
 public:
  explicit Step(std::function<std::vector<at::Tensor>(const at::Tensor&)> backward) : backward_(std::move(backward)) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    TORCH_CHECK(backward_, "the backward pass ran twice");
    const at::AutoGradMode no_grad(false);
    const auto backward = std::exchange(backward_, nullptr);
    return backward(grads.at(0));
  }
  void release_variables() override { backward_ = nullptr; }
  std::string name() const override { return "bitstair::Step"; }

 private:
  std::function<std::vector<at::Tensor>(const at::Tensor&)> backward_;
};

}  // namespace

void Record(const std::vector<at::Tensor>& inputs, at::Tensor& output, std::function<std::vector<at::Tensor>(const at::Tensor& grad)> backward) {
  bool needed = false;
  for (const at::Tensor& input : inputs) needed = needed || (input.defined() && input.requires_grad());
  if (!needed || !at::GradMode::is_enabled()) return;
  const std::shared_ptr<Step> step(new Step(std::move(backward)), torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  for (const at::Tensor& input : inputs) edges.push_back(input.defined() ? torch::autograd::impl::gradient_edge(input) : torch::autograd::Edge());
  step->set_next_edges(std::move(edges));
  torch::autograd::set_history(output, step);
}

at::Tensor NewToken() {
  return at::zeros({});
}

}  // namespace bitstair::core
