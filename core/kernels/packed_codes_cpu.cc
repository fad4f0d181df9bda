#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "core/kernels/packed_codes.h"

namespace bitstair::core {
namespace {

constexpr int kMostBits = 16;

}  // namespace

int64_t PackedBytes(int64_t count, int bits) {
  return (count * bits + 7) / 8;
}

at::Tensor PackCodes(const at::Tensor& codes, int bits) {
  TORCH_CHECK(bits >= 1 && bits <= kMostBits && codes.scalar_type() == at::kFloat && codes.is_contiguous(), "codes of ", bits, " bits in ",
              codes.scalar_type());
  const int64_t count = codes.numel();
  at::Tensor packed = at::empty({PackedBytes(count, bits)}, at::kByte);
  const auto* from = codes.const_data_ptr<float>();
  auto* to = packed.mutable_data_ptr<uint8_t>();
  const auto greatest = static_cast<float>((1 << bits) - 1);
  uint32_t pending = 0;
  int held = 0;  // bits of `pending`
  for (int64_t i = 0; i < count; ++i) {
    const float code = from[i] > 0 ? (from[i] < greatest ? from[i] : greatest) : 0;
    pending |= static_cast<uint32_t>(code) << held;
    for (held += bits; held >= 8; held -= 8) {
      *to++ = static_cast<uint8_t>(pending);
      pending >>= 8;
    }
  }
  if (held > 0) *to = static_cast<uint8_t>(pending);
  return packed;
}

at::Tensor UnpackCodes(const at::Tensor& packed, at::IntArrayRef shape, int bits) {
  at::Tensor codes = at::empty(shape, at::kFloat);
  const int64_t count = codes.numel();
  TORCH_CHECK(bits >= 1 && bits <= kMostBits && packed.numel() == PackedBytes(count, bits), packed.numel(), " bytes are not ", count, " codes of ", bits,
              " bits");
  const auto* from = packed.const_data_ptr<uint8_t>();
  auto* to = codes.mutable_data_ptr<float>();
  const uint32_t mask = (uint32_t{1} << bits) - 1;
  uint32_t pending = 0;
  int held = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (; held < bits; held += 8) pending |= static_cast<uint32_t>(*from++) << held;
    to[i] = static_cast<float>(pending & mask);
    pending >>= bits;
    held -= bits;
  }
  return codes;
}

}  // namespace bitstair::core
