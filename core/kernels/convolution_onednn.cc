#include "core/kernels/convolution.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "core/kernels/fused/fused_norm.h"
#include "core/kernels/step_clock.h"
#include "core/kernels/weight_gradient.h"

namespace bitstair::core {
namespace {

using dnnl::memory;
using Type = memory::data_type;

const dnnl::engine& Engine() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}
dnnl::stream& Stream() {
  thread_local dnnl::stream stream(Engine());
  return stream;
}

Type TypeOf(c10::ScalarType type) {
  return type == at::kBFloat16 ? Type::bf16 : Type::f32;
}

memory::desc Describe(std::array<int64_t, 4> nchw, Type type, memory::format_tag tag) {
  return {memory::dims(nchw.begin(), nchw.end()), type, tag};
}
memory Wrap(const memory::desc& desc, const at::Tensor& tensor) {
  return {desc, Engine(), const_cast<void*>(tensor.const_data_ptr())};
}

// Scratchpads are ours, so that they are gone after the call: a primitive's own one would stay as long as the primitive.
dnnl::primitive_attr Attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

void Run(const dnnl::primitive& primitive, const dnnl::primitive_desc_base& desc, std::unordered_map<int, memory> arguments) {
  const memory::desc scratchpad = desc.scratchpad_desc();
  at::Tensor bytes = at::empty({static_cast<int64_t>(scratchpad.get_size())}, at::kByte);
  arguments[DNNL_ARG_SCRATCHPAD] = Wrap(scratchpad, bytes);
  primitive.execute(Stream(), arguments);
  Stream().wait();
}

// oneDNN decides about threads when it makes a primitive: while this lives, for one.
class ForOneThread {
 public:
  explicit ForOneThread(bool wanted) : before_(omp_get_max_threads()) {
    if (wanted) omp_set_num_threads(1);
  }
  ForOneThread(const ForOneThread&) = delete;
  ForOneThread& operator=(const ForOneThread&) = delete;
  ~ForOneThread() { omp_set_num_threads(before_); }

 private:
  const int before_;
};

bool CpuHas(const char* flag) {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("flags")) return (line + " ").find(std::string(" ") + flag + " ") != std::string::npos;
  }
  return false;
}

bool IsAmd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
}

// What oneDNN uses, which ONEDNN_MAX_CPU_ISA may lower. Greater sets have the bits of lesser ones.
unsigned EffectiveIsa() {
  return static_cast<unsigned>(dnnl::get_effective_cpu_isa());
}

std::atomic<c10::ScalarType> fast_float{at::kHalf};  // half: as the processor likes it

constexpr int64_t kOddWeightsPadding = 16;  // the channel of ones comes with 15 of zeros, so that rows stay a whole number of registers

}  // namespace

c10::ScalarType FastFloat() {
  if (const auto chosen = fast_float.load(std::memory_order_relaxed); chosen != at::kHalf) return chosen;
  static const bool bfloat16 =
      (EffectiveIsa() & static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16)) == static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16) &&
      (CpuHas("amx_bf16") || IsAmd());
  return bfloat16 ? at::kBFloat16 : at::kFloat;
}

bool SetFastFloat(c10::ScalarType type) {
  if (type == at::kBFloat16 && (EffectiveIsa() & static_cast<unsigned>(dnnl::cpu_isa::avx512_core)) != static_cast<unsigned>(dnnl::cpu_isa::avx512_core))
    return false;
  fast_float = type;
  return true;
}

namespace {

// The primitives of one convolution, made either for the whole pool or for one thread.
class Primitives {
 public:
  Primitives(ConvolutionShape shape, bool alone) : shape_(shape), alone_(alone) {}

  void SetWeights(const at::Tensor& operand, int64_t greatest) {
    operand_ = operand;
    greatest_ = greatest;
    packed_codes_.stale = packed_forward_.stale = packed_float32_.stale = true;
  }

  void SumCodes(const at::Tensor& codes, int64_t greatest_activation, at::Tensor& sums) {
    const bool odd = greatest_ > 128;  // 128: -128 to 127, which fit as they are
    const int64_t weight_bound = odd ? 128 : greatest_;
    if (IntegerSumsAreExact(greatest_activation, weight_bound)) {
      SumWhole(codes, odd, sums);
      return;
    }
    // a = 16 high + low
    SumWhole(at::bitwise_right_shift(codes, 4), odd, sums);
    at::Tensor low = at::empty_like(sums);
    SumWhole(at::bitwise_and(codes, 15), odd, low);
    sums.mul_(16).add_(low);
  }

  void DropPackedCodes() { packed_codes_ = {}; }

  void Forward(const at::Tensor& x, at::Tensor& y) {
    if (x.scalar_type() != FastFloat()) {
      ForwardFloat32(x, y);
      return;
    }
    OfSize& p = For(x);
    Run(p.forward, p.forward_desc,
        {{DNNL_ARG_SRC, Wrap(p.forward_desc.src_desc(), x)},
         {DNNL_ARG_WEIGHTS, Pack(packed_forward_, p.forward_desc.weights_desc(), false)},
         {DNNL_ARG_DST, Wrap(p.forward_desc.dst_desc(), y)}});
  }

  void DropPackedBackward() { packed_backward_ = packed_codes_backward_ = {}; }

  void InputGradient(const at::Tensor& grad_y, at::Tensor& grad_x) {
    OfSize& p = For(grad_x);
    Once(p.input_gradient, [&] {
      const auto [src, weights, dst] = FloatDescs(grad_x, FastFloat());
      p.input_desc = {Engine(),
                      dnnl::algorithm::convolution_direct,
                      src,
                      backward_layout_.value_or(weights),
                      dst,
                      Pair(shape_.stride),
                      Pair(shape_.padding),
                      Pair(shape_.padding),
                      p.forward_desc,
                      Attributes()};
      p.input_gradient = dnnl::convolution_backward_data(p.input_desc);
      backward_layout_ = p.input_desc.weights_desc();
    });
    Run(p.input_gradient, p.input_desc,
        {{DNNL_ARG_DIFF_SRC, Wrap(p.input_desc.diff_src_desc(), grad_x)},
         {DNNL_ARG_WEIGHTS, Pack(packed_backward_, p.input_desc.weights_desc(), false)},
         {DNNL_ARG_DIFF_DST, Wrap(p.input_desc.diff_dst_desc(), grad_y)}});
  }

  void InputGradientOfCodes(const at::Tensor& codes, at::Tensor& grad_x) {
    DeconvolutionPrimitive& p = At(deconvolutions_, grad_x);
    const int64_t in = shape_.in_channels, out = shape_.out_channels, k = shape_.kernel;
    const memory::desc plain({in, out, k, k}, Type::f32, memory::dims{k * k, in * k * k, k, 1});
    Once(p.forward, [&] {
      const auto nhwc = memory::format_tag::nhwc;
      const auto src = Describe({codes.size(0), out, codes.size(1), codes.size(2)}, Type::s8, nhwc);
      const auto dst = Describe({grad_x.size(0), in, grad_x.size(1), grad_x.size(2)}, TypeOf(FastFloat()), nhwc);
      const memory::desc any({in, out, k, k}, Type::s8, memory::format_tag::any);
      const auto after = [&](int64_t y, int64_t x) { return (y - 1) * shape_.stride + k - x - shape_.padding; };
      p.desc = {Engine(),
                dnnl::prop_kind::forward_inference,
                dnnl::algorithm::deconvolution_direct,
                src,
                codes_backward_layout_.value_or(any),
                dst,
                Pair(shape_.stride),
                Pair(shape_.padding),
                {after(codes.size(1), grad_x.size(1)), after(codes.size(2), grad_x.size(2))},
                Attributes()};
      p.forward = dnnl::deconvolution_forward(p.desc);
      codes_backward_layout_ = p.desc.weights_desc();
    });
    const memory packed = PackOnce(packed_codes_backward_, p.desc.weights_desc(), [&](memory& to) {
      const at::Tensor weights = operand_.detach().to(at::kFloat).contiguous();
      Reorder(Wrap(plain, weights), to);
    });
    Run(p.forward, p.desc, {{DNNL_ARG_SRC, Wrap(p.desc.src_desc(), codes)}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, Wrap(p.desc.dst_desc(), grad_x)}});
  }

  void AddWeightGradient(const at::Tensor& x, const at::Tensor& grad_y, at::Tensor& sum) {
    OfSize& p = For(x);
    Once(p.weight_gradient, [&] {
      const auto [src, weights, dst] = FloatDescs(x, FastFloat());
      const memory::desc any(weights.get_dims(), Type::f32, memory::format_tag::any);
      p.weight_desc = {Engine(),
                       dnnl::algorithm::convolution_direct,
                       src,
                       gradient_layout_.value_or(any),
                       dst,
                       Pair(shape_.stride),
                       Pair(shape_.padding),
                       Pair(shape_.padding),
                       p.forward_desc,
                       Attributes()};
      p.weight_gradient = dnnl::convolution_backward_weights(p.weight_desc);
      gradient_layout_ = p.weight_desc.diff_weights_desc();
    });
    const memory::desc layout = p.weight_desc.diff_weights_desc();
    at::Tensor chunk = at::empty({static_cast<int64_t>(layout.get_size() / sizeof(float))}, at::kFloat);
    Run(p.weight_gradient, p.weight_desc,
        {{DNNL_ARG_SRC, Wrap(p.weight_desc.src_desc(), x)},
         {DNNL_ARG_DIFF_WEIGHTS, Wrap(layout, chunk)},
         {DNNL_ARG_DIFF_DST, Wrap(p.weight_desc.diff_dst_desc(), grad_y)}});
    if (sum.defined()) {
      sum.add_(chunk);
    } else {
      sum = chunk;
    }
  }

  // In PyTorch's order. sum: of AddWeightGradient; may be undefined.
  at::Tensor PlainWeightGradient(const at::Tensor& sum, double scale) {
    at::Tensor plain = at::empty({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}, at::kFloat);
    if (!sum.defined()) return plain.zero_();  // no images
    at::Tensor factor = at::full({1}, scale, at::kFloat);
    Reorder(Wrap(*gradient_layout_, sum), Wrap(PlainWeights(Type::f32), plain), &factor);
    return plain;
  }

 private:
  // For one size of input.
  struct OfSize {
    dnnl::convolution_forward::primitive_desc forward_desc;
    dnnl::convolution_forward forward;
    dnnl::convolution_backward_data::primitive_desc input_desc;
    dnnl::convolution_backward_data input_gradient;
    dnnl::convolution_backward_weights::primitive_desc weight_desc;
    dnnl::convolution_backward_weights weight_gradient;
  };
  struct ForwardPrimitive {
    dnnl::convolution_forward::primitive_desc desc;
    dnnl::convolution_forward forward;
  };
  struct DeconvolutionPrimitive {
    dnnl::deconvolution_forward::primitive_desc desc;
    dnnl::deconvolution_forward forward;
  };
  using Size = std::array<int64_t, 3>;  // N, H, W

  static memory::dims Pair(int64_t x) { return {x, x}; }
  static Size SizeOf(const at::Tensor& nhwc) { return {nhwc.size(0), nhwc.size(1), nhwc.size(2)}; }

  memory::desc PlainWeights(Type type) const {
    return Describe({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}, type, memory::format_tag::oihw);
  }

  static void Reorder(memory from, memory to, const at::Tensor* scale = nullptr) {
    dnnl::primitive_attr attributes = Attributes();
    std::unordered_map<int, memory> arguments{{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    if (scale != nullptr) {
      attributes.set_scales_mask(DNNL_ARG_SRC, 0);
      arguments[DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC] = Wrap(memory::desc({1}, Type::f32, memory::format_tag::x), *scale);
    }
    // Made for several threads and run by one, it would add up what the others never wrote: a share of the sums of int8 weights that each thread has.
    const ForOneThread for_one(at::in_parallel_region());
    const dnnl::reorder::primitive_desc desc(from, to, attributes);
    Run(dnnl::reorder(desc), desc, std::move(arguments));
  }

  std::array<memory::desc, 3> FloatDescs(const at::Tensor& x, c10::ScalarType of) const {
    const Type type = TypeOf(of);
    const auto nhwc = memory::format_tag::nhwc;
    return {Describe({x.size(0), shape_.in_channels, x.size(1), x.size(2)}, type, nhwc),
            Describe({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}, type, memory::format_tag::any),
            Describe({x.size(0), shape_.out_channels, shape_.Out(x.size(1)), shape_.Out(x.size(2))}, type, nhwc)};
  }

  // The entry for x's size; it stays where it is.
  template <typename T>
  T& At(std::map<Size, T>& entries, const at::Tensor& x) {
    const std::lock_guard lock(mutex_);
    return entries[SizeOf(x)];
  }

  // make(), unless the primitive exists.
  template <typename F>
  void Once(const dnnl::primitive& primitive, F&& make) {
    const std::lock_guard lock(mutex_);
    if (primitive) return;
    const ForOneThread for_one(alone_);
    make();
  }

  OfSize& For(const at::Tensor& x) {
    OfSize& p = At(sizes_, x);
    Once(p.forward, [&] {
      p.forward_desc = FloatForwardDesc(x, FastFloat(), dnnl::prop_kind::forward_training, forward_layout_);
      p.forward = dnnl::convolution_forward(p.forward_desc);
    });
    return p;
  }

  // layout: of the weights; chosen if there is none yet.
  dnnl::convolution_forward::primitive_desc FloatForwardDesc(const at::Tensor& x, c10::ScalarType of, dnnl::prop_kind kind,
                                                             std::optional<memory::desc>& layout) const {
    const auto [src, weights, dst] = FloatDescs(x, of);
    dnnl::convolution_forward::primitive_desc desc(Engine(), kind, dnnl::algorithm::convolution_direct, src, layout.value_or(weights), dst, Pair(shape_.stride),
                                                   Pair(shape_.padding), Pair(shape_.padding), Attributes());
    layout = desc.weights_desc();
    return desc;
  }

  void ForwardFloat32(const at::Tensor& x, at::Tensor& y) {
    ForwardPrimitive& p = At(float32_, x);
    Once(p.forward, [&] {
      p.desc = FloatForwardDesc(x, at::kFloat, dnnl::prop_kind::forward_inference, float32_layout_);
      p.forward = dnnl::convolution_forward(p.desc);
    });
    Run(p.forward, p.desc,
        {{DNNL_ARG_SRC, Wrap(p.desc.src_desc(), x)},
         {DNNL_ARG_WEIGHTS, Pack(packed_float32_, p.desc.weights_desc(), false)},
         {DNNL_ARG_DST, Wrap(p.desc.dst_desc(), y)}});
  }

  // odd: the operand holds odd codes of 8 bits, which go in as h with o = 2h + 1, with one more channel of ones.
  void SumWhole(const at::Tensor& codes, bool odd, at::Tensor& sums) {
    const int64_t out = shape_.out_channels + (odd ? kOddWeightsPadding : 0);
    ForwardPrimitive& p = At(integer_, codes);
    Once(p.forward, [&] {
      const auto src = Describe({codes.size(0), shape_.in_channels, codes.size(1), codes.size(2)}, Type::u8, memory::format_tag::nhwc);
      const auto weights = Describe({out, shape_.in_channels, shape_.kernel, shape_.kernel}, Type::s8, memory::format_tag::any);
      const auto dst = Describe({codes.size(0), out, shape_.Out(codes.size(1)), shape_.Out(codes.size(2))}, Type::s32, memory::format_tag::nhwc);
      p.desc = {Engine(),
                dnnl::prop_kind::forward_inference,
                dnnl::algorithm::convolution_direct,
                src,
                codes_layout_.value_or(weights),
                dst,
                Pair(shape_.stride),
                Pair(shape_.padding),
                Pair(shape_.padding),
                Attributes()};
      p.forward = dnnl::convolution_forward(p.desc);
      codes_layout_ = p.desc.weights_desc();
    });
    at::Tensor all = odd ? at::empty({sums.size(0), sums.size(1), sums.size(2), out}, at::kInt) : sums;
    Run(p.forward, p.desc,
        {{DNNL_ARG_SRC, Wrap(p.desc.src_desc(), codes)},
         {DNNL_ARG_WEIGHTS, Pack(packed_codes_, p.desc.weights_desc(), odd)},
         {DNNL_ARG_DST, Wrap(p.desc.dst_desc(), all)}});
    if (odd) {
      JoinOddWeights(all.const_data_ptr<int32_t>(), out, {sums.numel() / shape_.out_channels, shape_.out_channels}, sums.mutable_data_ptr<int32_t>());
    }
  }

  // Weights in the order a primitive wants. Memory that lasts is filled anew instead of freed: that would leave holes between what lives for a step.
  struct Packed {
    memory data;
    bool stale = true;
  };

  // What `fill` writes in the layout and type of desc, until it is stale.
  template <typename F>
  memory PackOnce(Packed& packed, const memory::desc& desc, F&& fill) {
    const std::lock_guard lock(mutex_);
    if (!packed.data || packed.data.get_desc() != desc) packed = {memory(desc, Engine()), true};
    if (packed.stale) fill(packed.data);
    packed.stale = false;
    return packed.data;
  }

  // operand_ in the layout and type of desc. odd: with what SumWhole says.
  memory Pack(Packed& packed, const memory::desc& desc, bool odd) {
    return PackOnce(packed, desc, [&](memory& to) {
      at::Tensor plain = operand_.detach().reshape({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel});
      if (odd) {
        plain = plain.to(at::kFloat);
        const at::Tensor more = at::zeros({kOddWeightsPadding, shape_.in_channels, shape_.kernel, shape_.kernel});
        more[0].fill_(1);
        plain = at::cat({(plain - 1) / 2, more});
      } else if (plain.scalar_type() != at::kChar) {
        plain = plain.to(at::kFloat);
      }
      plain = plain.contiguous();
      const Type type = plain.scalar_type() == at::kChar ? Type::s8 : Type::f32;
      Reorder(Wrap(Describe({plain.size(0), plain.size(1), plain.size(2), plain.size(3)}, type, memory::format_tag::oihw), plain), to);
    });
  }

  const ConvolutionShape shape_;
  const bool alone_;
  at::Tensor operand_;
  int64_t greatest_ = 0;
  std::mutex mutex_;  // of what follows; what it has given out is used without it
  Packed packed_codes_, packed_forward_, packed_float32_, packed_backward_, packed_codes_backward_;
  // Of the first size seen; others follow it.
  std::optional<memory::desc> codes_layout_, forward_layout_, float32_layout_, backward_layout_, codes_backward_layout_, gradient_layout_;
  std::map<Size, OfSize> sizes_;
  std::map<Size, ForwardPrimitive> integer_, float32_;
  std::map<Size, DeconvolutionPrimitive> deconvolutions_;
};

}  // namespace

class Convolution::Impl {
 public:
  explicit Impl(ConvolutionShape shape) : shape_(shape), pool_(shape, false), alone_(shape, true) {}

  const ConvolutionShape& shape() const { return shape_; }
  Primitives& here() { return at::in_parallel_region() ? alone_ : pool_; }

  template <typename F>
  void Both(F&& f) {
    f(pool_);
    f(alone_);
  }

  // Instead of oneDNN's.
  bool own_weight_gradient() const { return FastFloat() == at::kBFloat16 && HasWeightGradientKernel(shape_); }

  void AddWeightGradient(const at::Tensor& x, const at::Tensor& grad_y, WeightGradientSum& sum) {
    sum.alone = at::in_parallel_region();
    if (!own_weight_gradient()) {
      here().AddWeightGradient(x, grad_y, sum.data);
      return;
    }
    const bool fresh = !sum.data.defined();
    if (fresh) sum.data = at::empty({WeightGradientSize(shape_)}, at::kFloat);
    const ConstArray inputs{x.const_data_ptr(), x.scalar_type() == at::kByte ? Stored::kCodes : Stored::kBfloat16};
    bitstair::core::AddWeightGradient(shape_, inputs, static_cast<const uint16_t*>(grad_y.const_data_ptr()), x.size(0), x.size(1), x.size(2), fresh,
                                      sum.data.mutable_data_ptr<float>());
  }

  at::Tensor TakeWeightGradient(std::vector<WeightGradientSum> sums, double scale) {
    at::Tensor all;
    bool alone = false;
    for (WeightGradientSum& sum : sums) {
      if (!sum.data.defined()) continue;
      TORCH_CHECK(!all.defined() || sum.alone == alone, "weight gradients were summed on one thread and on several");
      alone = sum.alone;
      if (all.defined()) {
        all.add_(sum.data);
      } else {
        all = std::move(sum.data);
      }
    }
    if (!own_weight_gradient() || !all.defined()) return (alone ? alone_ : pool_).PlainWeightGradient(all, scale);
    at::Tensor plain = at::empty({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}, at::kFloat);
    bitstair::core::PlainWeightGradient(shape_, all.const_data_ptr<float>(), static_cast<float>(scale), plain.mutable_data_ptr<float>());
    return plain;
  }

 private:
  const ConvolutionShape shape_;
  Primitives pool_, alone_;
};

bool IntegerSumsAreExact(int64_t greatest_activation, int64_t greatest_weight) {
  greatest_weight = std::min<int64_t>(greatest_weight, 127);  // h = -128 fits wherever 127 does: the greatest activations are 2^k - 1
  // oneDNN's own instruction set, which ONEDNN_MAX_CPU_ISA may lower, decides; so it is asked.
  thread_local std::map<std::pair<int64_t, int64_t>, bool> known;
  const auto [entry, is_new] = known.emplace(std::pair(greatest_activation, greatest_weight), true);
  if (!is_new) return entry->second;
  const int64_t channels = 64;
  for (const int64_t sign : {1, -1}) {
    Convolution check({channels, 16, 1, 1, 0});
    check.SetWeights(at::full({16, channels, 1, 1}, sign * greatest_weight, at::kFloat), greatest_weight);
    at::Tensor sums = at::empty({1, 4, 4, 16}, at::kInt);
    check.SumCodes(at::full({1, 4, 4, channels}, greatest_activation, at::kByte), greatest_activation, sums);
    const int64_t expected = sign * channels * greatest_activation * greatest_weight;
    if (!sums.eq(expected).all().item<bool>()) known[{greatest_activation, greatest_weight}] = false;
  }
  return known.at({greatest_activation, greatest_weight});
}

Convolution::Convolution(ConvolutionShape shape) : impl_(std::make_unique<Impl>(shape)) {}
Convolution::~Convolution() = default;
Convolution::Convolution(Convolution&&) noexcept = default;
const ConvolutionShape& Convolution::shape() const {
  return impl_->shape();
}
void Convolution::SetWeights(const at::Tensor& operand, int64_t greatest) {
  impl_->Both([&](Primitives& p) { p.SetWeights(operand, greatest); });
}
void Convolution::SumCodes(const at::Tensor& codes, int64_t greatest_activation, at::Tensor& sums) {
  const StepTimer timer(StepPart::kConvForward);
  impl_->here().SumCodes(codes, greatest_activation, sums);
}
void Convolution::DropPackedCodes() {
  impl_->Both([](Primitives& p) { p.DropPackedCodes(); });
}
void Convolution::Forward(const at::Tensor& x, at::Tensor& y) {
  const StepTimer timer(StepPart::kConvForward);
  impl_->here().Forward(x, y);
}
void Convolution::BeginBackward() {
  impl_->Both([](Primitives& p) { p.DropPackedBackward(); });
}
void Convolution::InputGradient(const at::Tensor& grad_y, at::Tensor& grad_x) {
  const StepTimer timer(StepPart::kConvBackward);
  impl_->here().InputGradient(grad_y, grad_x);
}
void Convolution::InputGradientOfCodes(const at::Tensor& codes, at::Tensor& grad_x) {
  const StepTimer timer(StepPart::kConvBackward);
  impl_->here().InputGradientOfCodes(codes, grad_x);
}
bool Convolution::WeightGradientTakesCodes() const {
  return impl_->own_weight_gradient();
}
void Convolution::AddWeightGradient(const at::Tensor& x, const at::Tensor& grad_y, WeightGradientSum& sum) {
  const StepTimer timer(StepPart::kConvBackward);
  impl_->AddWeightGradient(x, grad_y, sum);
}
at::Tensor Convolution::TakeWeightGradient(std::vector<WeightGradientSum> sums, double scale) {
  const StepTimer timer(StepPart::kConvBackward);
  at::Tensor gradient = impl_->TakeWeightGradient(std::move(sums), scale);
  impl_->Both([](Primitives& p) { p.DropPackedBackward(); });
  return gradient;
}

}  // namespace bitstair::core
