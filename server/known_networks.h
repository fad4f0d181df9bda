// What of core/nn a recipe can name. This program does not link core/nn; a test of the trainer compares the two.
#pragma once

#include <string>
#include <vector>

namespace bitstair::server {

// Networks, sorted: those that core/nn/network.cc can make.
const std::vector<std::string>& KnownNetworks();

// Hint points of a guided pair, in the network's order; empty: not known.
std::vector<std::string> KnownHintPoints(const std::string& network);

}  // namespace bitstair::server
