#include "worker/trainer_environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace bitstair::worker {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

TEST(TrainerEnvironmentTest, TheSlotsThreadsWinOverTheRecipe) {
  setenv("OMP_NUM_THREADS", "77", 1);
  const auto environment = TrainerEnvironment({{"OMP_NUM_THREADS", "5"}, {"NCCL_DEBUG", "INFO"}}, 2);
  unsetenv("OMP_NUM_THREADS");
  ASSERT_TRUE(environment.ok());
  EXPECT_THAT(*environment, Contains("OMP_NUM_THREADS=2"));
  EXPECT_THAT(*environment, Contains("MKL_NUM_THREADS=2"));
  EXPECT_THAT(*environment, Contains("NCCL_DEBUG=INFO"));
  EXPECT_THAT(*environment, Contains(HasSubstr("PATH=")));
}

TEST(TrainerEnvironmentTest, RefusesWhatIsNotOnTheListOrNamesAFile) {
  for (const char* name : {"LD_PRELOAD", "PATH", "NCCL_TOPO_FILE", "NCCL_NET_PLUGIN", "OMP_TOOL_LIBRARIES", "NCCL_DEBUG_FILE", "NCCL_x", "GLOO_A=B", ""}) {
    EXPECT_FALSE(CheckRecipeVariable(name, "1").ok()) << name;
  }
  EXPECT_FALSE(CheckRecipeVariable("NCCL_DEBUG", "/etc/passwd").ok());
  EXPECT_TRUE(CheckRecipeVariable("GLOO_SOCKET_IFNAME", "eth0").ok());
  EXPECT_THAT(std::string(TrainerEnvironment({{"LD_PRELOAD", "x"}}, 1).status().message()), HasSubstr("LD_PRELOAD"));
}

}  // namespace
}  // namespace bitstair::worker
