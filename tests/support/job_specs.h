// Recipes that tests start from.
#pragma once

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>

#include "bitstair/v1/job.pb.h"

namespace bitstair::testing {

// Widths 32, 8, 4 with two-stage training on a named data set; 2 ranks.
inline v1::JobSpec SmallSpec() {
  v1::JobSpec spec;
  spec.set_name("small");
  spec.set_network("convnet28");
  spec.mutable_data()->set_name("fashion_mnist");
  spec.set_ranks(2);
  for (const int bits : {32, 8, 4}) spec.add_widths(bits);
  spec.set_two_stage(true);
  spec.mutable_pretrain()->set_epochs(3);
  spec.mutable_quantized()->set_epochs(8);
  return spec;
}

// One stage, W32A32, of `epochs` epochs.
inline v1::JobSpec OneStageSpec(int ranks = 1, int epochs = 2) {
  v1::JobSpec spec;
  spec.set_name("one");
  spec.set_network("convnet28");
  spec.mutable_data()->set_name("fashion_mnist");
  spec.set_ranks(ranks);
  spec.set_batch_size(60);
  spec.add_widths(32);
  spec.mutable_pretrain()->set_epochs(epochs);
  return spec;
}

inline const std::string kDigestA(64, 'a');
inline const std::string kDigestB(64, 'b');

}  // namespace bitstair::testing
