#include "core/kernels/quant_math.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace bitstair::core {
namespace {

// Tanh promises 3 units in the last place; libm's own tanh may be 2 off.
constexpr double kTanhRelative = 5 * 0x1p-52;

TEST(QuantMathTest, TanhAgreesWithLibm) {
  for (double x = -25; x <= 25; x += 0.000937) EXPECT_NEAR(Tanh(x), std::tanh(x), kTanhRelative * std::abs(std::tanh(x))) << x;
  for (double x = 1e-300; x < 1; x *= 1.7) {
    EXPECT_NEAR(Tanh(x), std::tanh(x), kTanhRelative * std::tanh(x)) << x;
    EXPECT_EQ(Tanh(-x), -Tanh(x));
  }
}

TEST(QuantMathTest, TanhAtTheEdges) {
  EXPECT_EQ(Tanh(0.0), 0.0);
  EXPECT_EQ(Tanh(19.5), 1.0);
  EXPECT_EQ(Tanh(-1e300), -1.0);
  EXPECT_EQ(Tanh(std::numeric_limits<double>::infinity()), 1.0);
  EXPECT_TRUE(std::isnan(Tanh(std::numeric_limits<double>::quiet_NaN())));
  EXPECT_EQ(Tanh(std::numeric_limits<double>::denorm_min()), std::numeric_limits<double>::denorm_min());
}

TEST(QuantMathTest, RoundingTiesGoToEven) {
  EXPECT_EQ(ActivationCode(0.5f, 1.0f), 0.0f);
  EXPECT_EQ(ActivationCode(0.5f, 3.0f), 2.0f);
  EXPECT_EQ(ActivationCode(0.5f / 3.0f, 3.0f), 0.0f);
  EXPECT_EQ(ActivationCode(0.5f, 15.0f), 8.0f);
  EXPECT_EQ(ActivationCode(0.5f, 255.0f), 128.0f);
  EXPECT_EQ(OddWeightCode(0.0f, 1.0f, 1.0f), -1.0f);  // rint(1/2) = 0
  EXPECT_EQ(OddWeightCode(0.0f, 1.0f, 3.0f), 1.0f);   // rint(3/2) = 2
}

TEST(QuantMathTest, NanStaysVisible) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(ActivationCode(nan, 15.0f)));
  EXPECT_TRUE(std::isnan(Clip01(nan)));
  EXPECT_TRUE(std::isnan(Relu(nan)));
  EXPECT_TRUE(std::isnan(OddWeightCode(nan, 1.0f, 15.0f)));
  EXPECT_FALSE(ClipPasses(nan));
}

TEST(QuantMathTest, CodeValuesAreTheCorrectlyRoundedQuotients) {
  for (int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    const int64_t n = GreatestCode(bits);
    for (int64_t c = 0; c <= n; ++c) ASSERT_EQ(CodeValue(static_cast<float>(c), 1.0 / static_cast<double>(n)), static_cast<float>(c) / static_cast<float>(n));
  }
}

}  // namespace
}  // namespace bitstair::core
