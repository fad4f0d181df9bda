// Stochastic precision: at each step a part of the layers is quantised, a growing one (DESIGN section 3, "Journal version"). Functions without state: which
// layers follows from seed and position alone, so all ranks agree and a resumed run goes on alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitstair::core {

struct StochasticPrecisionOptions {
  double start_share = 0.5;    // [0, 1]
  double full_share_at = 0.8;  // (0, 1], of the stage's steps
};

// start + (1 - start) min(1, step / (full_share_at steps)), for step 0..steps - 1 of a stage.
double QuantizedShareAt(const StochasticPrecisionOptions& options, int64_t step, int64_t steps);

// rint(share units) of the units, each choice as likely as any other: the first ones of a permutation by Philox kStochasticPrecision
// (docs/formats/random.md). epoch: the epoch word. batch: of the global batch within its epoch. For Network::set_rounded_units.
std::vector<bool> ChooseRoundedUnits(uint64_t seed, uint32_t epoch, int64_t batch, size_t units, double share);

}  // namespace bitstair::core
