#include "core/quant/quantizer.h"

#include <c10/util/Exception.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/quant/dorefa.h"
#include "core/quant/lsq.h"
#include "core/quant/pact.h"

namespace bitstair::core {
namespace {

// To add a quantiser: one header, one source, one line here.
const std::vector<QuantizerFamily>& Families() {
  static const auto* families = new std::vector<QuantizerFamily>{
      {"dorefa", MakeDorefaWeightQuantizer, MakeDorefaActivationQuantizer},
      {"lsq", MakeLsqWeightQuantizer, MakeLsqActivationQuantizer, /*learns=*/true, /*least_weight_bits=*/2},
      {"pact", MakeDorefaWeightQuantizer, MakePactActivationQuantizer, /*learns=*/true},
  };
  return *families;
}

}  // namespace

absl::StatusOr<QuantizerFamily> FindQuantizer(const std::string& name) {
  std::string known;
  for (const QuantizerFamily& family : Families()) {
    if (family.name == name) return family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", family.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown quantizer \"", name, "\"; known: ", known));
}

void WeightQuantizer::WriteValues(WeightBlock, const WeightSummary&, void*) const {
  TORCH_CHECK(false, "this weight quantiser has no values before rounding");
}

bool IsLegalWidth(int bits) {
  return (bits >= 1 && bits <= 8) || bits == 16 || bits == 32;
}

}  // namespace bitstair::core
