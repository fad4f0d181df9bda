// What a bench prints: one JSON object per line (bench/run).
#pragma once

#include <string>
#include <vector>

namespace bitstair::bench {

// The value at a share of the sorted numbers; the median by default.
double Quantile(std::vector<double> numbers, double at = 0.5);

void Line(const std::string& name, double value, const std::string& unit);

// The median of ours / theirs, round by round, with its quartiles.
void Comparison(const std::string& name, const std::string& peer, const std::vector<double>& ours, const std::vector<double>& theirs);

}  // namespace bitstair::bench
