// Numerics fast against numerics reference: codes by ==, gradients within a bound.
#include "core/nn/fast_layers.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/kernels/fused/fused_norm.h"
#include "core/nn/batch_norm.h"
#include "core/nn/fast_arrays.h"
#include "core/nn/layered_network.h"
#include "core/nn/quantized_conv2d.h"
#include "core/quant/dorefa.h"
#include "core/quant/lsq.h"

namespace bitstair::core {
namespace {

// Float32 sums in another order, over a few thousand terms.
constexpr double kGradientBound = 2e-5;
// bfloat16 keeps 8 bits.
double GradientBound() {
  return FastFloat() == at::kBFloat16 ? 2e-2 : kGradientBound;
}

void ExpectClose(const at::Tensor& got, const at::Tensor& expected, const std::string& what) {
  const double scale = expected.abs().max().item<double>(), error = (got.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
  EXPECT_LE(error, GradientBound() * scale) << what;
}

// Runs the test's body with each float type that this processor can compute in.
class FloatTypes {
 public:
  template <typename F>
  static void ForEach(F&& f) {
    for (const c10::ScalarType type : {at::kFloat, at::kBFloat16}) {
      if (!SetFastFloat(type)) continue;
      SCOPED_TRACE(c10::toString(type));
      f();
    }
    SetFastFloat(at::kHalf);
  }
};

// One convolution, batch norm, shortcut and activation, in both numerics, from the same codes.
struct Layer {
  int64_t in, out, kernel, stride, padding, size, images;
  int weight_bits, activation_bits;
  bool shortcut;
};

std::unique_ptr<Weight> MakeWeight(const at::Tensor& latent, int bits, bool fast) {
  return std::make_unique<Weight>("w", latent.clone(), bits == 32 ? nullptr : MakeDorefaWeightQuantizer(bits, {}), fast);
}

void Compare(const Layer& l) {
  SCOPED_TRACE("W" + std::to_string(l.weight_bits) + "A" + std::to_string(l.activation_bits) + " " + std::to_string(l.in) + "->" + std::to_string(l.out) +
               " k" + std::to_string(l.kernel) + " s" + std::to_string(l.stride) + " size " + std::to_string(l.size));
  at::manual_seed(l.weight_bits * 100 + l.activation_bits + l.in);
  const int64_t n = (int64_t{1} << l.activation_bits) - 1;
  const at::Tensor latent = at::randn({l.out, l.in, l.kernel, l.kernel}) * 0.3;
  const at::Tensor codes = at::randint(n + 1, {l.images, l.in, l.size, l.size}, at::kFloat);
  const int64_t out_size = (l.size + 2 * l.padding - l.kernel) / l.stride + 1;
  const at::Tensor shortcut_codes = at::randint(n + 1, {l.images, l.out, out_size, out_size}, at::kFloat);
  const at::Tensor grad = at::randn({l.images, l.out, out_size, out_size});

  // Reference.
  QuantizedConv2d conv(MakeWeight(latent, l.weight_bits, false), l.stride, l.padding);
  BatchNorm norm("bn", l.out, at::kFloat);
  std::shared_ptr<const ActivationQuantizer> quantizer = MakeDorefaActivationQuantizer(l.activation_bits, {});
  Activation activation(ActivationFunction::kClip, quantizer);
  Features x{codes.clone().set_requires_grad(true), 1.0 / n, n};
  Features shortcut{shortcut_codes.clone().set_requires_grad(true), 1.0 / n, n};
  const Sums sums = conv.Forward(x);
  const Features y = activation.Forward(norm.Forward(sums, l.shortcut ? &shortcut : nullptr, true));
  (y.tensor * grad).sum().backward();

  // Fast.
  const auto channels_last = [](const at::Tensor& t) { return t.permute({0, 2, 3, 1}).contiguous(); };
  const auto planes = [](const at::Tensor& t) { return t.permute({0, 3, 1, 2}); };
  QuantizedConv2d fast_conv(MakeWeight(latent, l.weight_bits, true), l.stride, l.padding);
  BatchNorm fast_norm("bn", l.out, at::kFloat);
  const auto fast_features = [&](const at::Tensor& t) {
    Features f{{}, 1.0 / n, n, std::make_shared<FastFeatures>()};
    f.fast->numbers = channels_last(t).to(at::kByte);
    f.fast->token = at::zeros({}).set_requires_grad(true);
    return f;
  };
  const Features fx = fast_features(codes), fs = fast_features(shortcut_codes);
  const Sums fast_sums = fast_conv.Forward(fx);
  EXPECT_EQ(fast_sums.bound, sums.bound);
  ASSERT_TRUE(planes(fast_sums.fast->sums.to(at::kDouble)).equal(sums.tensor.detach().to(at::kDouble))) << "sums differ";
  const at::Tensor exact = sums.tensor.detach().to(at::kDouble);
  const at::Tensor stored = fast_sums.fast->sums;
  const FastNorm own = fast_norm.fast();
  fast_norm.UpdateStatistics(fast_sums.fast->mean, fast_sums.fast->variance, fast_sums.scale, exact.numel() / l.out);
  const Features fy = FastNormalize(own, fast_sums, l.shortcut ? &fs : nullptr, nullptr, nullptr, activation.fast(), true);
  const at::Tensor different = planes(fy.fast->numbers).to(at::kFloat).ne(y.tensor.detach());
  EXPECT_EQ(different.sum().item<int64_t>(), 0) << "codes differ";
  fy.fast->parts->push_back({channels_last(grad).to(FastFloat()), 1});
  fy.fast->token.backward();

  std::vector<Parameter> ours, theirs;
  fast_norm.AddParameters(ours);
  norm.AddParameters(theirs);
  for (size_t i = 0; i < ours.size(); ++i) ExpectClose(ours[i].leaf.grad(), theirs[i].leaf.grad(), ours[i].name);
  std::vector<Buffer> our_buffers, their_buffers;
  fast_norm.AddBuffers(our_buffers);
  norm.AddBuffers(their_buffers);
  for (size_t i = 0; i < our_buffers.size(); ++i) EXPECT_TRUE(our_buffers[i].value.equal(their_buffers[i].value)) << our_buffers[i].name;
  ExpectClose(fast_conv.weight().leaf().grad(), conv.weight().leaf().grad(), "weight");
  ASSERT_EQ(fx.fast->parts->size(), 1);
  ExpectClose(planes(fx.fast->parts->at(0).gradient), x.tensor.grad(), "input");
  if (l.shortcut) {
    ASSERT_EQ(fs.fast->parts->size(), 1);
    ExpectClose(planes(fs.fast->parts->at(0).gradient.to(at::kFloat)) * fs.fast->parts->at(0).scale, shortcut.tensor.grad(), "shortcut");
  }

  // Evaluation: batch norm folded from the running statistics, same codes.
  const at::NoGradGuard no_grad;
  const Features eval = activation.Forward(norm.Forward(conv.Forward({codes, 1.0 / n, n}), nullptr, false));
  const Features fast_eval = FastNormalize(own, fast_conv.Forward(fx), nullptr, nullptr, nullptr, activation.fast(), false);
  EXPECT_TRUE(planes(fast_eval.fast->numbers).to(at::kFloat).equal(eval.tensor));
}

TEST(FastLayersTest, EveryPairOfWidthsGivesTheReferencesCodes) {
  for (int weight_bits = 1; weight_bits <= 8; ++weight_bits) {
    for (int activation_bits = 1; activation_bits <= 8; ++activation_bits) Compare({16, 32, 3, 1, 1, 6, 3, weight_bits, activation_bits, true});
  }
}

// More images than a chunk of the backward pass holds, and not a multiple of it.
TEST(FastLayersTest, BatchesOfSeveralChunks) {
  FloatTypes::ForEach([] {
    Compare({16, 32, 3, 1, 1, 32, 37, 4, 4, true});
    Compare({5, 7, 3, 2, 1, 61, 70, 4, 4, false});
    Compare({32, 8, 1, 1, 0, 64, 9, 8, 3, false});
  });
}

TEST(FastLayersTest, SizesStridesAndTails) {
  FloatTypes::ForEach([] {
    for (const bool shortcut : {false, true}) {
      Compare({16, 16, 3, 1, 1, 9, 5, 4, 4, shortcut});
      Compare({16, 32, 3, 2, 1, 7, 3, 4, 4, shortcut});
      Compare({32, 64, 1, 2, 0, 8, 2, 4, 4, shortcut});
      Compare({64, 64, 3, 1, 1, 5, 2, 2, 2, shortcut});
      Compare({5, 7, 3, 1, 1, 5, 3, 4, 4, shortcut});
      Compare({3, 1, 5, 1, 2, 6, 2, 8, 8, shortcut});
      Compare({576, 128, 1, 1, 0, 1, 9, 4, 4, shortcut});
      Compare({16, 48, 3, 1, 1, 4, 2, 3, 5, shortcut});
    }
  });
}

// The first layer of a network of few bits: pixels and full-precision weights.
TEST(FastLayersTest, Float32SumsWhereTheOutputIsRounded) {
  FloatTypes::ForEach([] {
    at::manual_seed(3);
    const at::Tensor pixels = at::randn({3, 3, 9, 9}), latent = at::randn({24, 3, 3, 3}) * 0.3, grad = at::randn({3, 24, 9, 9});
    const at::Tensor weights = latent.clone().set_requires_grad(true);
    const at::Tensor expected = at::conv2d(pixels.to(at::kDouble), weights.to(at::kDouble), {}, 1, 1);
    QuantizedConv2d conv(MakeWeight(latent, 32, true), 1, 1, {}, true);
    const Features x = FastImages(pixels);
    const auto error = [&](const at::Tensor& sums) { return (sums.permute({0, 3, 1, 2}).to(at::kDouble) - expected.detach()).abs().max().item<double>(); };
    const Sums sums = conv.Forward(x);
    JoinSums(*sums.fast);
    EXPECT_EQ(sums.fast->sums.scalar_type(), at::kFloat);
    EXPECT_LT(error(sums.fast->sums), 1e-5);
    {
      const at::NoGradGuard no_grad;
      EXPECT_LT(error(conv.Forward(x).fast->make(0, 3)), 1e-5);
    }
    SumsGradient& gradient = *sums.fast->gradient;
    gradient.parts = {{grad.permute({0, 2, 3, 1}).contiguous().to(FastFloat()), 1}};
    gradient.sums = sums.fast->sums;
    gradient.a.assign(24, 1);
    for (std::vector<float>* zeros : {&gradient.mean, &gradient.b, &gradient.c}) zeros->assign(24, 0);
    sums.fast->token.backward();
    (expected * grad.to(at::kDouble)).sum().backward();
    ExpectClose(conv.weight().leaf().grad(), weights.grad(), "weight");
  });
}

// Float32 is for the codes. What waits for the backward pass is no wider than the gradients, but where a quantiser computes its codes' u once more.
// More images than are joined at once, and a last chunk that ends within a word of the mask.
TEST(FastLayersTest, SumsOfTheFirstLayerWaitForTheBackwardPassAsGradientsAreStored) {
  FloatTypes::ForEach([] {
    at::manual_seed(3);
    const int64_t images = 301;
    const at::Tensor pixels = at::randn({images, 3, 9, 9}), latent = at::randn({24, 3, 3, 3}) * 0.3, grad = at::randn({images, 9, 9, 24});
    const Features x = FastImages(pixels);
    const std::shared_ptr<const ActivationQuantizer> dorefa = MakeDorefaActivationQuantizer(4, {}), lsq = MakeLsqActivationQuantizer(4, {});
    std::vector<at::Tensor> codes, gradients;
    std::vector<int64_t> passed;
    for (const auto& quantizer : {dorefa, lsq}) {
      QuantizedConv2d conv(MakeWeight(latent, 32, true), 1, 1, {}, true);
      BatchNorm norm("bn", 24, at::kFloat);
      norm.fast().beta.detach().fill_(0.5);
      const Sums sums = conv.Forward(x);
      ASSERT_EQ(sums.fast->sums.scalar_type(), FastFloat());
      EXPECT_EQ(sums.fast->lower.defined(), FastFloat() != at::kFloat);
      const at::Tensor before = sums.fast->lower.defined() ? JoinedSums(*sums.fast, 0, images) : sums.fast->sums;
      const FastActivation activation = Activation(ActivationFunction::kClip, quantizer).fast();
      const Features y = FastNormalize(norm.fast(), sums, nullptr, nullptr, nullptr, activation, true, nullptr, &passed.emplace_back());
      EXPECT_FALSE(sums.fast->lower.defined());
      EXPECT_EQ(sums.fast->sums.scalar_type(), quantizer == lsq ? at::kFloat : FastFloat());
      EXPECT_TRUE(sums.fast->sums.equal(before.to(sums.fast->sums.scalar_type())));
      codes.push_back(y.fast->numbers);
      y.fast->parts->push_back({grad.to(FastFloat()), 1});
      y.fast->token.backward();
      gradients.push_back(conv.weight().leaf().grad());
    }
    EXPECT_TRUE(codes[0].equal(codes[1]));  // a step of 1/15 before it learned anything
    EXPECT_EQ(passed[0], passed[1]);
    ExpectClose(gradients[0], gradients[1], "weight");
  });
}

// K = 512 * 9 = 4608 with the greatest codes everywhere: sums beyond 2^24, and the statistics beyond int16.
TEST(FastLayersTest, AllMaximumCodesAreSummedExactly) {
  for (int weight_bits = 1; weight_bits <= 8; ++weight_bits) {
    for (int activation_bits = 1; activation_bits <= 8; ++activation_bits) {
      const int64_t a = (1 << activation_bits) - 1, w = (1 << weight_bits) - 1;
      for (const int64_t sign : {1, -1}) {
        Convolution conv({512, 16, 3, 1, 0});
        conv.SetWeights(at::full({16, 512, 3, 3}, sign * w, at::kFloat), w);
        at::Tensor sums = at::empty({1, 1, 1, 16}, at::kInt);
        conv.SumCodes(at::full({1, 3, 3, 512}, a, at::kByte), a, sums);
        ASSERT_TRUE(sums.eq(sign * 4608 * a * w).all().item<bool>()) << weight_bits << "/" << activation_bits << ": " << sums[0][0][0][0].item<int>();
      }
    }
  }
}

TEST(FastLayersTest, PlainLanesGiveTheSameCodes) {
  SetLanes("plain");
  Compare({16, 32, 3, 1, 1, 6, 3, 4, 4, true});
  Compare({5, 7, 3, 1, 1, 5, 3, 8, 8, false});
  SetLanes("");
}

enum class Run { kReference, kFast, kRounded };

// Loss and gradients of a network's first step. kRounded: the reference, its images and full-precision parameters rounded to bfloat16.
std::pair<double, std::vector<at::Tensor>> FirstStep(NetworkConfig config, Run run, at::Tensor images, const at::Tensor& labels) {
  config.numerics = run == Run::kFast ? Numerics::kFast : Numerics::kReference;
  const auto network = CreateNetwork(config).value();
  const auto rounded = [](const at::Tensor& t) { return t.to(at::kBFloat16).to(at::kFloat); };
  if (run == Run::kRounded) {
    images = rounded(images);
    for (const Parameter& p : network->parameters()) {
      if (p.quantizer == nullptr) p.latent.detach().copy_(rounded(p.latent.detach()));
    }
  }
  const at::Tensor loss = at::cross_entropy_loss(network->Forward(images, true), labels);
  loss.backward();
  std::vector<at::Tensor> grads;
  for (const Parameter& p : network->parameters()) grads.push_back(p.leaf.grad());
  const at::NoGradGuard no_grad;
  EXPECT_EQ(network->Forward(images, false).sizes(), (std::vector<int64_t>{images.size(0), config.classes}));
  return {loss.item<double>(), grads};
}

// Whole networks. In float32 both numerics do nearly the same. In bfloat16, fast stays as near to the reference as the reference itself does when only its
// inputs are rounded to bfloat16 (times 5: fast rounds in every layer): codes flip, and a deep untrained network of few bits has quite another gradient after a
// few flips.
void CompareNetworks(const std::string& name, int weight_bits, int activation_bits, ActivationFunction activation, int size, int64_t images,
                     void (*options)(NetworkConfig&) = nullptr) {
  SCOPED_TRACE(name + " W" + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
  NetworkConfig config;
  config.network = name;
  config.image_channels = name == "convnet28" ? 1 : 3;
  config.image_height = config.image_width = size;
  config.classes = 10;
  if (name.starts_with("alexnet") || name == "resnet50") config.channel_divisor = 4;
  config.weight_bits = weight_bits;
  config.activation_bits = activation_bits;
  config.activation = activation;
  if (options != nullptr) options(config);
  at::manual_seed(7);
  const at::Tensor x = at::randn({images, config.image_channels, size, size});
  const at::Tensor labels = at::randint(10, {images}, at::kLong);
  const auto [loss, grads] = FirstStep(config, Run::kReference, x, labels);
  const auto [fast_loss, fast_grads] = FirstStep(config, Run::kFast, x, labels);
  const bool bfloat16 = FastFloat() == at::kBFloat16;
  EXPECT_NEAR(fast_loss, loss, (bfloat16 ? 0.02 : 1e-4) * std::abs(loss));
  std::vector<at::Tensor> rounded_grads;
  if (bfloat16) rounded_grads = FirstStep(config, Run::kRounded, x, labels).second;
  const auto cosine = [](const at::Tensor& a, const at::Tensor& b) { return at::cosine_similarity(a.flatten(), b.flatten(), 0).item<double>(); };
  for (size_t i = 0; i < grads.size(); ++i) {
    ASSERT_TRUE(fast_grads[i].defined()) << i;
    const double bound = bfloat16 ? 1 - 5 * (1 - cosine(grads[i], rounded_grads[i])) - 0.01 : 0.999;
    EXPECT_GT(cosine(grads[i], fast_grads[i]), bound) << "parameter " << i;
  }
}

TEST(FastLayersTest, NetworksTrainAlikeInBothNumerics) {
  FloatTypes::ForEach([] {
    CompareNetworks("convnet28", 4, 4, ActivationFunction::kClip, 28, 16);
    CompareNetworks("convnet28", 32, 32, ActivationFunction::kRelu, 28, 16);
    CompareNetworks("convnet28", 4, 32, ActivationFunction::kClip, 28, 16);
    CompareNetworks("resnet20", 4, 4, ActivationFunction::kClip, 16, 16);
    CompareNetworks("resnet20", 32, 32, ActivationFunction::kRelu, 16, 16);
    CompareNetworks("resnet20_b", 4, 4, ActivationFunction::kClip, 16, 16);
    CompareNetworks("preresnet20", 4, 4, ActivationFunction::kClip, 16, 16);
    CompareNetworks("resnet50", 4, 4, ActivationFunction::kClip, 64, 8);
    CompareNetworks("resnet18", 4, 4, ActivationFunction::kClip, 64, 8);
    CompareNetworks("resnet18", 32, 32, ActivationFunction::kRelu, 64, 8);
  });
}

// In bfloat16 the batch norms of these two see statistics too uncertain for a bound: floats all along the stream, and 16 images without positions.
TEST(FastLayersTest, NetworksTrainAlikeInFloat32) {
  SetFastFloat(at::kFloat);
  CompareNetworks("preresnet20", 32, 32, ActivationFunction::kRelu, 16, 16);
  CompareNetworks("preresnet20", 2, 32, ActivationFunction::kClip, 16, 16);
  CompareNetworks("alexnet_cifar", 4, 4, ActivationFunction::kClip, 32, 16);
  const auto float_shortcuts = [](NetworkConfig& c) { c.shortcut_values = ShortcutValues::kFloat; };
  CompareNetworks("resnet20", 4, 4, ActivationFunction::kClip, 16, 16, float_shortcuts);
  CompareNetworks("resnet20_b", 4, 4, ActivationFunction::kClip, 16, 16, float_shortcuts);
  CompareNetworks("resnet20", 4, 4, ActivationFunction::kClip, 16, 16, [](NetworkConfig& c) { c.layer_widths = {{"layer1.*", 8}, {"*.conv2", 32}}; });
  CompareNetworks("resnet20", 2, 4, ActivationFunction::kClip, 16, 16, [](NetworkConfig& c) { c.weight_norm = WeightNorm::kStd; });
  CompareNetworks("alexnet", 32, 32, ActivationFunction::kRelu, 127, 8);
  SetFastFloat(at::kHalf);
}

}  // namespace
}  // namespace bitstair::core
