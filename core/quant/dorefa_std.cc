#include "core/quant/dorefa_std.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <c10/util/Exception.h>

#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

// By bits: (2^bits - 1) / 2 times the step of least error, in standard deviations; for 16 bits where nearly nothing is clipped.
constexpr double kClip[] = {0.7979, 1.4936, 2.0510, 2.5140, 2.9161, 3.2782, 3.6108, 3.9205};
constexpr double kClip16 = 6;

double ClipOf(int bits) {
  return bits <= 8 ? kClip[bits - 1] : kClip16;
}

template <typename F>
decltype(auto) WithType(c10::ScalarType type, F&& f) {
  TORCH_CHECK(type == c10::ScalarType::Float || type == c10::ScalarType::Double, "weights of type ", type);
  return type == c10::ScalarType::Float ? f(float{}) : f(double{});
}

class StdWeightQuantizer final : public WeightQuantizer {
 public:
  StdWeightQuantizer(int bits, bool detach) : n_(GreatestCode(bits)), clip_(ClipOf(bits)), detach_(detach) {}

  // {sum of squares, count}
  WeightSummary Summarize(WeightBlock latent) const override {
    return WithType(latent.type, [&](auto t) -> WeightSummary {
      const auto* w = static_cast<const decltype(t)*>(latent.data);
      double sum = 0;
      for (int64_t i = 0; i < latent.size; ++i) sum += static_cast<double>(w[i]) * static_cast<double>(w[i]);
      return {std::isfinite(sum) ? sum : std::numeric_limits<double>::quiet_NaN(), static_cast<double>(latent.size)};
    });
  }
  void Add(WeightSummary& sum, const WeightSummary& block) const override {
    sum[0] += block[0];
    sum[1] += block[1];
  }
  void WriteCodes(WeightBlock latent, const WeightSummary& all, void* codes, c10::ScalarType type) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      if (type == c10::ScalarType::Char) {
        Write(w, latent.size, all, static_cast<int8_t*>(codes));
      } else if (type == c10::ScalarType::Short) {
        Write(w, latent.size, all, static_cast<int16_t*>(codes));
      } else {
        Write(w, latent.size, all, static_cast<T*>(codes));
      }
    });
  }

  void WriteValues(WeightBlock latent, const WeightSummary& all, void* values) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      const T r = Factor<T>(all);
      for (int64_t i = 0; i < latent.size; ++i) static_cast<T*>(values)[i] = std::clamp(w[i] * r, T{-1}, T{1});
    });
  }

  bool gradient_needs_values() const override { return true; }
  // {sum of g w over the weights that are not clipped}
  WeightSummary SummarizeGradient(WeightBlock latent, const WeightSummary& values, const void* grad_values) const override {
    return WithType(latent.type, [&](auto t) -> WeightSummary {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      const auto* g = static_cast<const T*>(grad_values);
      const T r = Factor<T>(values);
      double dot = 0;
      for (int64_t i = 0; i < latent.size; ++i) {
        if (Passes(w[i], r)) dot += static_cast<double>(g[i]) * static_cast<double>(w[i]);
      }
      return {dot};
    });
  }
  void AddGradient(WeightSummary& sum, const WeightSummary& block) const override { sum[0] += block[0]; }
  // dL/dw_j = g_j [not clipped] / (c sigma) - (sum_i g_i w_i [not clipped]) w_j / (c N sigma^3)
  void WriteGradient(WeightBlock latent, const WeightSummary& values, const void* grad_values, const WeightSummary& all, void* grad_latent) const override {
    WithType(latent.type, [&](auto t) {
      using T = decltype(t);
      const auto* w = static_cast<const T*>(latent.data);
      const auto* g = static_cast<const T*>(grad_values);
      auto* out = static_cast<T*>(grad_latent);
      const T r = Factor<T>(values);
      const double through_norm = detach_ || values[0] <= 0 ? 0 : -all[0] / (clip_ * values[0] * std::sqrt(values[0] / values[1]));
      for (int64_t i = 0; i < latent.size; ++i) {
        out[i] = static_cast<T>((Passes(w[i], r) ? static_cast<double>(g[i]) * r : 0.0) + through_norm * static_cast<double>(w[i]));
      }
    });
  }

  int64_t greatest_code() const override { return n_; }
  double scale() const override { return 1.0 / static_cast<double>(n_); }

 private:
  // 1 / (c sigma), rounded once; 0 if all weights are 0.
  template <typename T>
  T Factor(const WeightSummary& values) const {
    return values[0] > 0 ? static_cast<T>(1 / (clip_ * std::sqrt(values[0] / values[1]))) : T{0};
  }
  template <typename T>
  static bool Passes(T w, T r) {
    return std::abs(w * r) <= T{1};
  }
  template <typename T, typename C>
  void Write(const T* w, int64_t size, const WeightSummary& all, C* codes) const {
    const T r = Factor<T>(all), n = static_cast<T>(n_);
    for (int64_t i = 0; i < size; ++i) {
      const T x = w[i] * r;
      codes[i] = static_cast<C>(OddWeightCode(x < T{-1} ? T{-1} : (x > T{1} ? T{1} : x), T{1}, n));
    }
  }

  const int64_t n_;
  const double clip_;
  const bool detach_;
};

}  // namespace

std::unique_ptr<WeightQuantizer> MakeStdWeightQuantizer(int bits, bool detach_norm) {
  return std::make_unique<StdWeightQuantizer>(bits, detach_norm);
}

}  // namespace bitstair::core
