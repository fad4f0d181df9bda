#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Text(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
}

void FillAll(Metrics* metrics) {
  metrics->CountRpc("CreateJob", absl::OkStatus());
  metrics->CountRpc("GetJob", absl::NotFoundError(""));
  metrics->ObserveCommit(0.003, 4);
  metrics->CountAttempt();
  metrics->CountFailure(v1::EXIT_CAUSE_CRASHED);
  v1::StageProgress progress;
  progress.set_epoch(3);
  progress.set_train_top1(50);
  metrics->SetProgress("j", "W4A4", progress);
  v1::EpochResult result;
  result.set_test_top1(91);
  metrics->SetTestAccuracy("j", "W4A4", result);
}

TEST(MetricsTest, StatesAndCausesExportZeroInAdvance) {
  const Metrics metrics("1.2.3");
  const std::string text = Text(metrics);
  for (const char* line : {"bitstair_jobs{state=\"running\"} 0", "bitstair_jobs{state=\"cancelled\"} 0", "bitstair_stages{state=\"blocked\"} 0",
                           "bitstair_workers{state=\"unreachable\"} 0", "bitstair_slots{state=\"free\"} 0",
                           "bitstair_attempt_failures_total{cause=\"peer_lost\"} 0", "bitstair_build_info{version=\"1.2.3\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("unspecified")));
}

TEST(MetricsTest, AJobsSeriesGoWithIt) {
  Metrics metrics("1");
  FillAll(&metrics);
  EXPECT_THAT(Text(metrics), HasSubstr("bitstair_stage_test_top1_ratio{job=\"j\",stage=\"W4A4\"} 0.91"));
  metrics.RemoveJob("j");
  EXPECT_THAT(Text(metrics), Not(HasSubstr("W4A4")));
  metrics.RemoveJob("unknown");
}

TEST(MetricsTest, AtMost200JobsHaveSeries) {
  Metrics metrics("1");
  for (int i = 0; i < 250; ++i) metrics.SetProgress(absl::StrCat("job", i), "W4A4", {});
  EXPECT_THAT(Text(metrics), HasSubstr("job199"));
  EXPECT_THAT(Text(metrics), Not(HasSubstr("job200")));
  metrics.RemoveJob("job7");
  metrics.SetProgress("job200", "W4A4", {});
  EXPECT_THAT(Text(metrics), HasSubstr("job200"));
}

TEST(MetricsTest, PromtoolHasNothingToSay) {
  if (std::system("promtool --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "promtool is not installed";
  Metrics metrics("1");
  FillAll(&metrics);
  testing::TemporaryDirectory dir;
  std::ofstream(dir / "metrics.txt") << Text(metrics);
  const std::string command = absl::StrCat("promtool check metrics < ", dir / "metrics.txt", " > ", dir / "out.txt", " 2>&1");
  const int status = std::system(command.c_str());
  std::ifstream out(dir / "out.txt");
  const std::string said((std::istreambuf_iterator<char>(out)), std::istreambuf_iterator<char>());
  EXPECT_EQ(status, 0) << said;
  EXPECT_EQ(said, "");
}

}  // namespace
}  // namespace bitstair::server
