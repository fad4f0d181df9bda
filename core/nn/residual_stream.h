// The values that a pre-activation network carries past its blocks: sums of convolutions, each with its own scale, added up as floats. Both numerics compute
// them with one function (kernels/stream_sum.h), so codes behind them stay equal where statistics are (DESIGN section 4, docs/adr/0007).
#pragma once

#include "core/nn/features.h"

namespace bitstair::core {

// stream + sums.scale * S, of the network's dtype (numerics fast: float32, also where other floats are bfloat16). Null: the stream begins. Differentiable.
Features AddToStream(const Sums& sums, const Features* stream, c10::ScalarType dtype, bool training);

// The stream as a batch norm takes it. Differentiable; training: with moments in numerics fast.
Sums StreamSums(const Features& stream, bool training);

}  // namespace bitstair::core
