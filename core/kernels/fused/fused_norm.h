// Batch norm with everything around it, for numerics "fast": one pass forward after the statistics, one reduction and one apply pass backward.
//
//   x = fma(S, alpha_c, beta_c) [+ shortcut]      code = rint(n clip(x, 0, 1)), or a float activation; mask = 1 bit: does the gradient pass
//   g = mask * (scale1 part1 + scale2 part2)      dL/dbeta-like sums: sum g, sum g (S - mean_c);   dL/dS = g a_c + (S - mean_c) b_c + c_c
//
// The expressions of x and code are those of kernels/quant_math.h, so codes equal those of numerics "reference" for equal S, alpha and beta (DESIGN section 4).
// Arrays are channels-last: `rows` (images times positions) of `channels`, contiguous. Nothing is allocated but the partial sums. Work is cut into chunks by
// shape alone and partial sums are added in the order of the chunks, so results do not depend on the number of threads. CPU only; runs on LibTorch's
// intra-op pool. AVX-512 where the processor has it, else plain loops (lanes_*.h), with equal results but for the order of float sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitstair::core {

// How numbers lie in memory.
enum class Stored : uint8_t { kNone, kCodes /* uint8 */, kInt16, kInt32, kBfloat16, kFloat32 };
size_t BytesOf(Stored type);

struct ConstArray {
  const void* data = nullptr;
  Stored type = Stored::kNone;
};
struct MutableArray {
  void* data = nullptr;
  Stored type = Stored::kNone;
};

struct RowShape {
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t size() const { return rows * channels; }
};

// Bytes of a mask: a bit per element, element i in bit i % 16 of the 16-bit word i / 16.
inline int64_t MaskBytes(RowShape shape) {
  return (shape.size() + 15) / 16 * 2;
}

// (a) Sums of S and S^2 per channel. Integers: exact. Floats: float32 over at most 512 rows, then float64.
class ChannelMoments {
 public:
  explicit ChannelMoments(int64_t channels);
  // sums: kInt32 of at most `bound` < 2^31, or kBfloat16 or kFloat32. compact: kInt16 takes the sums too, or nothing. False if a sum does not fit int16;
  // `compact` is then not usable.
  bool Add(ConstArray sums, int64_t bound, RowShape shape, MutableArray compact);
  // Adds another's rows.
  void Add(const ChannelMoments& other);
  // Biased variance; E[S^2] - E[S]^2 in float64, at least 0.
  void Finish(double* mean, double* variance) const;
  int64_t count() const { return count_; }

 private:
  int64_t count_ = 0;
  bool integers_ = true;
  std::vector<int64_t> sum_;
  __extension__ typedef unsigned __int128 Wide;
  std::vector<Wide> squares_;
  std::vector<double> float_sum_, float_squares_;
};

// S[r, o] = 2 s[r, o] + s[r, out]: 8-bit weights o = 2h + 1, with sum(a) in one more channel of s, whose rows have `stride` elements (DESIGN section 4).
void JoinOddWeights(const int32_t* s, int64_t stride, RowShape shape, int32_t* sums);

struct Affine {
  ConstArray sums;               // S: kInt16, kInt32, kBfloat16 or kFloat32
  const float* alpha = nullptr;  // per channel
  const float* beta = nullptr;
};

enum class Nonlinearity : uint8_t { kClip, kRelu };

// (b)
struct NormalizeArgs {
  RowShape shape;
  Affine main;
  // At most one of the two: values (kCodes or floats, with a scale), or a second affine (a convolution shortcut with its own batch norm), its sums stored
  // like main's.
  ConstArray shortcut;
  double shortcut_scale = 1;
  int64_t shortcut_greatest = 255;  // of codes
  Affine shortcut_affine;
  Nonlinearity nonlinearity = Nonlinearity::kClip;
  float n = 0;               // > 0: round to multiples of 1/n
  MutableArray out;          // kCodes: rint(n clip(x)); kBfloat16, kFloat32: values
  uint16_t* mask = nullptr;  // may be null: no backward pass will follow
};
// False if an x is not a number: the outputs are then not usable.
bool Normalize(const NormalizeArgs& args);

struct GradientPart {
  ConstArray gradient;  // kBfloat16 or kFloat32; both parts alike
  float scale = 1;
};

// (c), first pass.
struct NormGradientArgs {
  RowShape shape;
  GradientPart parts[2];           // g before the mask; the second may be empty
  const uint16_t* mask = nullptr;  // null: the gradient passes everywhere
  ConstArray sums;                 // S
  const float* mean = nullptr;     // of S, per channel
  ConstArray other_sums;           // of shortcut_affine, stored like `sums`; may be empty
  const float* other_mean = nullptr;
  MutableArray masked;  // takes g, for a shortcut or for the second pass; may be empty
};
// dot[c] = sum g (S - mean), float64.
void NormGradientSums(const NormGradientArgs& args, double* grad_sum, double* grad_dot, double* other_dot);

// (c), second pass: grad_sums = dL/dS. May be the same memory as a part, if the element types are equal.
struct NormApplyArgs {
  RowShape shape;
  GradientPart parts[2];
  const uint16_t* mask = nullptr;
  ConstArray sums;
  const float* mean = nullptr;
  const float* a = nullptr;
  const float* b = nullptr;
  const float* c = nullptr;
  MutableArray grad_sums;  // kBfloat16 or kFloat32
};
void NormGradientApply(const NormApplyArgs& args);

// out[i] = float(codes[i]), exact. out: kBfloat16 or kFloat32.
void ExpandCodes(const uint8_t* codes, int64_t size, MutableArray out);

// sum[i] = scale1 part1[i] + scale2 part2[i], in float32, rounded once. May be the same memory as a part, if the element types are equal.
void AddParts(const GradientPart (&parts)[2], int64_t size, MutableArray sum);

// The name of the lanes in use: "avx512_bf16", "avx512" or "plain".
std::string LanesName();
// For tests: other lanes, "" for the widest again. False, and the widest, where the processor lacks them.
bool SetLanes(const std::string& name);

}  // namespace bitstair::core
