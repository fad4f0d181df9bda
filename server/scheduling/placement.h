// Where a gang goes: best fit by topology.
#pragma once

#include <vector>

#include "server/scheduling/fleet.h"
#include "server/scheduling/shapes.h"

namespace bitstair::server::scheduling {

// `ranks` matching slots of the workers, in rank order; empty if there are not enough. Workers with the preferred numeric profile are tried alone first. Then:
// one island of one worker, else one worker, else one host, else one subnet with the fewest workers, else the fewest workers; among equals those that leave the
// fewest slots over, then the first by id. workers: indexes in `fleet`, by id.
std::vector<SlotRef> ChooseSlots(const Fleet& fleet, const ShapeKey& shape, const std::vector<int>& workers, const SlotFilter& filter, int ranks);

}  // namespace bitstair::server::scheduling
