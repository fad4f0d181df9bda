#include "bench/lines.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

namespace bitstair::bench {

double Quantile(std::vector<double> numbers, double at) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[static_cast<size_t>(at * static_cast<double>(numbers.size() - 1) + 0.5)];
}

void Line(const std::string& name, double value, const std::string& unit) {
  std::cout << nlohmann::json{{"name", name}, {"value", value}, {"unit", unit}} << std::endl;
}

void Comparison(const std::string& name, const std::string& peer, const std::vector<double>& ours, const std::vector<double>& theirs) {
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / theirs[i]);
  const double ratio = Quantile(ratios);
  std::cout << nlohmann::json{{"name", name},
                              {"value", ratio},
                              {"unit", "ratio"},
                              {"peer", peer},
                              {"ratio", ratio},
                              {"low", Quantile(ratios, 0.25)},
                              {"high", Quantile(ratios, 0.75)}}
            << std::endl;
}

}  // namespace bitstair::bench
