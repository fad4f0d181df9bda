#include "core/quant/weight_pass.h"

#include <algorithm>
#include <cmath>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

namespace bitstair::core {
namespace {

constexpr int64_t kBlock = 8192;  // a gradient of it fits the first-level cache

struct Block {
  size_t tensor;
  int64_t begin, size;
};

// Blocks of the tensors that `wanted` names.
template <typename Item, typename F>
std::vector<Block> BlocksOf(const std::vector<Item>& items, F&& wanted) {
  std::vector<Block> blocks;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!wanted(items[i])) continue;
    const int64_t size = items[i].latent.numel();
    for (int64_t begin = 0; begin < size; begin += kBlock) blocks.push_back({i, begin, std::min(kBlock, size - begin)});
  }
  return blocks;
}

// f(index of the block, block)
template <typename F>
void ForBlocks(const std::vector<Block>& blocks, F&& f) {
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i, blocks[i]);
  });
}

const char* At(const at::Tensor& tensor, int64_t element) {
  return static_cast<const char*>(tensor.const_data_ptr()) + element * static_cast<int64_t>(tensor.element_size());
}
char* MutableAt(const at::Tensor& tensor, int64_t element) {
  return static_cast<char*>(tensor.mutable_data_ptr()) + element * static_cast<int64_t>(tensor.element_size());
}
WeightBlock LatentOf(const at::Tensor& latent, const Block& block) {
  return {At(latent, block.begin), latent.scalar_type(), block.size};
}

// The sums of the blocks' summaries, by tensor. add(item, sum, block)
template <typename Item, typename F>
std::vector<WeightSummary> Sum(const std::vector<Item>& items, const std::vector<Block>& blocks, const std::vector<WeightSummary>& partial, F&& add) {
  std::vector<WeightSummary> all(items.size());
  for (size_t i = 0; i < blocks.size(); ++i) add(items[blocks[i].tensor], all[blocks[i].tensor], partial[i]);
  return all;
}

void Check(const at::Tensor& latent, const at::Tensor& other) {
  TORCH_CHECK(latent.is_cpu() && latent.is_contiguous() && other.is_contiguous() && latent.sizes() == other.sizes() &&
                  (latent.scalar_type() == at::kFloat || latent.scalar_type() == at::kDouble),
              "weights: contiguous CPU tensors of one shape are needed, got ", latent.sizes(), " of ", latent.scalar_type(), " and ", other.sizes());
}

}  // namespace

std::optional<size_t> QuantizeWeights(const std::vector<WeightToQuantize>& weights) {
  for (const WeightToQuantize& w : weights) Check(w.latent, w.codes);
  const std::vector<Block> blocks = BlocksOf(weights, [](const WeightToQuantize&) { return true; });
  std::vector<WeightSummary> partial(blocks.size());
  ForBlocks(blocks, [&](int64_t i, const Block& b) { partial[i] = weights[b.tensor].quantizer->Summarize(LatentOf(weights[b.tensor].latent, b)); });
  const std::vector<WeightSummary> all =
      Sum(weights, blocks, partial, [](const WeightToQuantize& w, WeightSummary& sum, const WeightSummary& block) { w.quantizer->Add(sum, block); });
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::isnan(all[i][0])) return i;
  }
  ForBlocks(blocks, [&](int64_t, const Block& b) {
    const WeightToQuantize& w = weights[b.tensor];
    if (!w.rounded) return w.quantizer->WriteValues(LatentOf(w.latent, b), all[b.tensor], MutableAt(w.codes, b.begin));
    w.quantizer->WriteCodes(LatentOf(w.latent, b), all[b.tensor], MutableAt(w.codes, b.begin), w.codes.scalar_type());
  });
  return std::nullopt;
}

void UpdateWeights(const std::vector<WeightToUpdate>& weights) {
  for (const WeightToUpdate& w : weights) {
    Check(w.latent, w.gradient);
    Check(w.latent, w.momentum);
    TORCH_CHECK(w.gradient.scalar_type() == w.latent.scalar_type() && w.momentum.scalar_type() == w.latent.scalar_type(), "a gradient of ",
                w.gradient.scalar_type(), " for weights of ", w.latent.scalar_type());
  }
  const std::vector<Block> quantized = BlocksOf(weights, [](const WeightToUpdate& w) { return w.quantizer != nullptr; });
  std::vector<WeightSummary> partial(quantized.size());
  const std::vector<Block> needy = BlocksOf(weights, [](const WeightToUpdate& w) { return w.quantizer != nullptr && w.quantizer->gradient_needs_values(); });
  ForBlocks(needy, [&](int64_t i, const Block& b) { partial[i] = weights[b.tensor].quantizer->Summarize(LatentOf(weights[b.tensor].latent, b)); });
  const std::vector<WeightSummary> values =
      Sum(weights, needy, partial, [](const WeightToUpdate& w, WeightSummary& sum, const WeightSummary& block) { w.quantizer->Add(sum, block); });
  ForBlocks(quantized, [&](int64_t i, const Block& b) {
    const WeightToUpdate& w = weights[b.tensor];
    partial[i] = w.quantizer->SummarizeGradient(LatentOf(w.latent, b), values[b.tensor], At(w.gradient, b.begin));
  });
  const std::vector<WeightSummary> all =
      Sum(weights, quantized, partial, [](const WeightToUpdate& w, WeightSummary& sum, const WeightSummary& block) { w.quantizer->AddGradient(sum, block); });
  for (size_t i = 0; i < weights.size(); ++i) {
    at::Tensor to = weights[i].step_gradient;
    if (to.defined()) to.fill_(weights[i].quantizer->LearnedGradient(all[i], weights[i].latent.numel()));
  }
  ForBlocks(BlocksOf(weights, [](const WeightToUpdate&) { return true; }), [&](int64_t, const Block& b) {
    const WeightToUpdate& w = weights[b.tensor];
    AT_DISPATCH_FLOATING_TYPES(w.latent.scalar_type(), "UpdateWeights", [&] {
      const auto* gradient = reinterpret_cast<const scalar_t*>(At(w.gradient, b.begin));
      scalar_t of_latent[kBlock];
      if (w.quantizer != nullptr) {
        w.quantizer->WriteGradient(LatentOf(w.latent, b), values[b.tensor], gradient, all[b.tensor], of_latent);
        gradient = of_latent;
      }
      UpdateSgd(gradient, w.factors, b.size, reinterpret_cast<scalar_t*>(MutableAt(w.latent, b.begin)),
                reinterpret_cast<scalar_t*>(MutableAt(w.momentum, b.begin)));
    });
  });
}

at::Tensor WeightCodes(const WeightQuantizer& quantizer, const at::Tensor& latent, c10::ScalarType type) {
  at::Tensor codes = at::empty(latent.sizes(), latent.options().dtype(type));
  TORCH_CHECK(!QuantizeWeights({{&quantizer, latent, codes}}).has_value(), "a weight is not a number");
  return codes;
}

at::Tensor WeightGradient(const WeightQuantizer& quantizer, const at::Tensor& latent, const at::Tensor& grad_values) {
  Check(latent, grad_values);
  const WeightBlock whole{latent.const_data_ptr(), latent.scalar_type(), latent.numel()};
  at::Tensor grad = at::empty_like(latent);
  const WeightSummary values = quantizer.gradient_needs_values() ? quantizer.Summarize(whole) : WeightSummary{};
  const void* g = grad_values.const_data_ptr();
  quantizer.WriteGradient(whole, values, g, quantizer.SummarizeGradient(whole, values, g), grad.mutable_data_ptr());
  return grad;
}

}  // namespace bitstair::core
