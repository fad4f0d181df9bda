#include "worker/devices.h"

#include <gtest/gtest.h>

namespace bitstair::worker {
namespace {

TEST(DevicesTest, CpuSlotsShareTheCores) {
  const auto slots = CpuSlots(2, 9);
  EXPECT_GT(slots[0].memory_bytes(), int64_t{1} << 28);
  EXPECT_EQ(slots[0].memory_bytes(), slots[1].memory_bytes()) << "the machine's, which they share";
  ASSERT_EQ(slots.size(), 2u);
  EXPECT_EQ(slots[0].index(), 0);
  EXPECT_EQ(slots[1].index(), 1);
  EXPECT_EQ(slots[1].kind(), v1::SLOT_KIND_CPU);
  EXPECT_EQ(slots[1].threads(), 4);
}

TEST(DevicesTest, MoreSlotsThanCoresHaveOneThreadEach) {
  EXPECT_EQ(CpuSlots(4, 2)[3].threads(), 1);
}

TEST(DevicesTest, AskedForSlotsAreOffered) {
  const Devices devices = FindDevices(3);
  EXPECT_EQ(devices.slots.size(), 3u);
  EXPECT_NE(devices.summary.find("3 CPU slots of"), std::string::npos) << devices.summary;
}

TEST(DevicesTest, TheProfileNamesAllThatDecidesTheBits) {
  EXPECT_EQ(NumericProfile("cpu-avx2", 4), "cpu-avx2-threads4-libtorch2.11.0-numerics6");
  const Devices one = FindDevices(1);
  EXPECT_EQ(one.numeric_profile.rfind("cpu-", 0), 0u) << one.numeric_profile;
  EXPECT_NE(one.numeric_profile.find("-threads" + std::to_string(UsableCores()) + "-"), std::string::npos) << one.numeric_profile;
}

}  // namespace
}  // namespace bitstair::worker
