#include "core/training/stochastic_precision.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/random/philox.h"

namespace bitstair::core {

double QuantizedShareAt(const StochasticPrecisionOptions& options, int64_t step, int64_t steps) {
  const double done = static_cast<double>(step) / (options.full_share_at * static_cast<double>(steps));
  return options.start_share + (1 - options.start_share) * std::min(1.0, done);
}

std::vector<bool> ChooseRoundedUnits(uint64_t seed, uint32_t epoch, int64_t batch, size_t units, double share) {
  std::vector<size_t> order(units);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto rounded_count = static_cast<size_t>(std::rint(share * static_cast<double>(units)));
  std::vector<bool> rounded(units);
  for (size_t i = 0; i < rounded_count && i < units; ++i) {
    const uint32_t j =
        UniformInteger(seed, Purpose::kStochasticPrecision, epoch, static_cast<uint32_t>(batch), static_cast<uint32_t>(i), static_cast<uint32_t>(units - i));
    std::swap(order[i], order[i + j]);
    rounded[order[i]] = true;
  }
  return rounded;
}

}  // namespace bitstair::core
