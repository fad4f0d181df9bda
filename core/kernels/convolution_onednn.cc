#include "core/kernels/convolution.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "core/kernels/fused/fused_norm.h"

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

void Run(const dnnl::primitive& primitive, const std::unordered_map<int, memory>& arguments) {
  primitive.execute(Stream(), arguments);
  Stream().wait();
}

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

constexpr int64_t kOddWeightsPadding = 16;  // the channel of ones comes with 15 of zeros, so that rows stay a whole number of registers

}  // namespace

c10::ScalarType FastFloat() {
  static const bool bfloat16 = CpuHas("amx_bf16") || (IsAmd() && CpuHas("avx512_bf16"));
  return bfloat16 ? at::kBFloat16 : at::kFloat;
}

class Convolution::Impl {
 public:
  explicit Impl(ConvolutionShape shape) : shape_(shape) {}

  const ConvolutionShape& shape() const { return shape_; }

  void SetWeights(const at::Tensor& operand, int64_t greatest) {
    operand_ = operand;
    greatest_ = greatest;
    packed_codes_ = packed_forward_ = packed_backward_ = memory();
  }

  void SumCodes(const at::Tensor& codes, int64_t greatest_activation, at::Tensor& sums) {
    const bool odd = greatest_ > 127;
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

  void Forward(const at::Tensor& x, at::Tensor& y) {
    Primitives& p = For(x);
    Pack(p.forward_desc.weights_desc(), &packed_forward_);
    Run(p.forward,
        {{DNNL_ARG_SRC, Wrap(p.forward_desc.src_desc(), x)}, {DNNL_ARG_WEIGHTS, packed_forward_}, {DNNL_ARG_DST, Wrap(p.forward_desc.dst_desc(), y)}});
  }

  void InputGradient(const at::Tensor& grad_y, at::Tensor& grad_x) {
    Primitives& p = For(grad_x);
    if (!p.input_gradient) {
      const auto [src, weights, dst] = FloatDescs(grad_x);
      p.input_desc = {Engine(),
                      dnnl::algorithm::convolution_direct,
                      src,
                      packed_backward_ ? packed_backward_.get_desc() : weights,
                      dst,
                      Pair(shape_.stride),
                      Pair(shape_.padding),
                      Pair(shape_.padding),
                      p.forward_desc};
      p.input_gradient = dnnl::convolution_backward_data(p.input_desc);
    }
    Pack(p.input_desc.weights_desc(), &packed_backward_);
    Run(p.input_gradient, {{DNNL_ARG_DIFF_SRC, Wrap(p.input_desc.diff_src_desc(), grad_x)},
                           {DNNL_ARG_WEIGHTS, packed_backward_},
                           {DNNL_ARG_DIFF_DST, Wrap(p.input_desc.diff_dst_desc(), grad_y)}});
  }

  void WeightGradient(const at::Tensor& x, const at::Tensor& grad_y, at::Tensor& grad_weight) {
    Primitives& p = For(x);
    if (!p.weight_gradient) {
      const auto [src, weights, dst] = FloatDescs(x);
      const memory::desc any(weights.get_dims(), Type::f32, memory::format_tag::any);
      p.weight_desc = {Engine(),      dnnl::algorithm::convolution_direct, src, any, dst, Pair(shape_.stride), Pair(shape_.padding), Pair(shape_.padding),
                       p.forward_desc};
      p.weight_gradient = dnnl::convolution_backward_weights(p.weight_desc);
      if (p.weight_desc.diff_weights_desc() != PlainWeights()) p.weight_buffer = memory(p.weight_desc.diff_weights_desc(), Engine());
    }
    memory plain = Wrap(PlainWeights(), grad_weight);
    memory out = p.weight_buffer ? p.weight_buffer : plain;
    Run(p.weight_gradient,
        {{DNNL_ARG_SRC, Wrap(p.weight_desc.src_desc(), x)}, {DNNL_ARG_DIFF_WEIGHTS, out}, {DNNL_ARG_DIFF_DST, Wrap(p.weight_desc.diff_dst_desc(), grad_y)}});
    if (p.weight_buffer) dnnl::reorder(out, plain).execute(Stream(), out, plain);
    Stream().wait();
  }

 private:
  // For one size of input.
  struct Primitives {
    dnnl::convolution_forward::primitive_desc forward_desc;
    dnnl::convolution_forward forward;
    dnnl::convolution_backward_data::primitive_desc input_desc;
    dnnl::convolution_backward_data input_gradient;
    dnnl::convolution_backward_weights::primitive_desc weight_desc;
    dnnl::convolution_backward_weights weight_gradient;
    memory weight_buffer;
  };
  struct IntegerPrimitive {
    dnnl::convolution_forward::primitive_desc desc;
    dnnl::convolution_forward forward;
  };
  using Size = std::array<int64_t, 3>;  // N, H, W

  static memory::dims Pair(int64_t x) { return {x, x}; }
  static Size SizeOf(const at::Tensor& nhwc) { return {nhwc.size(0), nhwc.size(1), nhwc.size(2)}; }

  memory::desc PlainWeights() const {
    return Describe({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}, Type::f32, memory::format_tag::oihw);
  }

  std::array<memory::desc, 3> FloatDescs(const at::Tensor& x) const {
    const Type type = TypeOf(FastFloat());
    const auto nhwc = memory::format_tag::nhwc;
    return {Describe({x.size(0), shape_.in_channels, x.size(1), x.size(2)}, type, nhwc),
            Describe({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}, type, memory::format_tag::any),
            Describe({x.size(0), shape_.out_channels, shape_.Out(x.size(1)), shape_.Out(x.size(2))}, type, nhwc)};
  }

  Primitives& For(const at::Tensor& x) {
    Primitives& p = primitives_[SizeOf(x)];
    if (!p.forward) {
      const auto [src, weights, dst] = FloatDescs(x);
      p.forward_desc = {Engine(),
                        dnnl::prop_kind::forward_training,
                        dnnl::algorithm::convolution_direct,
                        src,
                        packed_forward_ ? packed_forward_.get_desc() : weights,
                        dst,
                        Pair(shape_.stride),
                        Pair(shape_.padding),
                        Pair(shape_.padding)};
      p.forward = dnnl::convolution_forward(p.forward_desc);
    }
    return p;
  }

  // odd: the operand holds odd codes of 8 bits, which go in as h with o = 2h + 1, with one more channel of ones.
  void SumWhole(const at::Tensor& codes, bool odd, at::Tensor& sums) {
    const int64_t out = shape_.out_channels + (odd ? kOddWeightsPadding : 0);
    IntegerPrimitive& p = integer_[SizeOf(codes)];
    if (!p.forward) {
      const auto src = Describe({codes.size(0), shape_.in_channels, codes.size(1), codes.size(2)}, Type::u8, memory::format_tag::nhwc);
      const auto weights = Describe({out, shape_.in_channels, shape_.kernel, shape_.kernel}, Type::s8, memory::format_tag::any);
      const auto dst = Describe({codes.size(0), out, shape_.Out(codes.size(1)), shape_.Out(codes.size(2))}, Type::s32, memory::format_tag::nhwc);
      p.desc = {Engine(),
                dnnl::prop_kind::forward_inference,
                dnnl::algorithm::convolution_direct,
                src,
                packed_codes_ ? packed_codes_.get_desc() : weights,
                dst,
                Pair(shape_.stride),
                Pair(shape_.padding),
                Pair(shape_.padding)};
      p.forward = dnnl::convolution_forward(p.desc);
    }
    if (!packed_codes_) packed_codes_ = PackCodes(p.desc.weights_desc(), odd);
    at::Tensor all = odd ? at::empty({sums.size(0), sums.size(1), sums.size(2), out}, at::kInt) : sums;
    Run(p.forward, {{DNNL_ARG_SRC, Wrap(p.desc.src_desc(), codes)}, {DNNL_ARG_WEIGHTS, packed_codes_}, {DNNL_ARG_DST, Wrap(p.desc.dst_desc(), all)}});
    if (odd) {
      JoinOddWeights(all.const_data_ptr<int32_t>(), out, {sums.numel() / shape_.out_channels, shape_.out_channels}, sums.mutable_data_ptr<int32_t>());
    }
  }

  memory PackCodes(const memory::desc& desc, bool odd) const {
    at::Tensor plain = operand_.detach().to(at::kFloat).reshape({shape_.out_channels, shape_.in_channels, shape_.kernel, shape_.kernel}).contiguous();
    if (odd) {
      const at::Tensor more = at::zeros({kOddWeightsPadding, shape_.in_channels, shape_.kernel, shape_.kernel});
      more[0].fill_(1);
      plain = at::cat({(plain - 1) / 2, more});
    }
    memory from = Wrap(Describe({plain.size(0), plain.size(1), plain.size(2), plain.size(3)}, Type::f32, memory::format_tag::oihw), plain);
    memory packed(desc, Engine());
    dnnl::reorder(from, packed).execute(Stream(), from, packed);
    Stream().wait();
    return packed;
  }

  // operand_ in the layout and type of desc.
  void Pack(const memory::desc& desc, memory* packed) const {
    if (*packed && packed->get_desc() == desc) return;
    const at::Tensor plain = operand_.detach().to(at::kFloat).contiguous();
    memory from = Wrap(PlainWeights(), plain);
    *packed = memory(desc, Engine());
    dnnl::reorder(from, *packed).execute(Stream(), from, *packed);
    Stream().wait();
  }

  const ConvolutionShape shape_;
  at::Tensor operand_;
  int64_t greatest_ = 0;
  memory packed_codes_, packed_forward_, packed_backward_;
  std::map<Size, Primitives> primitives_;
  std::map<Size, IntegerPrimitive> integer_;
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
  impl_->SetWeights(operand, greatest);
}
void Convolution::SumCodes(const at::Tensor& codes, int64_t greatest_activation, at::Tensor& sums) {
  impl_->SumCodes(codes, greatest_activation, sums);
}
void Convolution::Forward(const at::Tensor& x, at::Tensor& y) {
  impl_->Forward(x, y);
}
void Convolution::InputGradient(const at::Tensor& grad_y, at::Tensor& grad_x) {
  impl_->InputGradient(grad_y, grad_x);
}
void Convolution::WeightGradient(const at::Tensor& x, const at::Tensor& grad_y, at::Tensor& grad_weight) {
  impl_->WeightGradient(x, grad_y, grad_weight);
}

}  // namespace bitstair::core
