#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/support/metrics_table.h"
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
  Metrics::Counts counts;
  counts.queues["default"] = {1, 1, 0};
  metrics->SetCounts(counts);
  metrics->CountAttempt();
  metrics->CountFailure(v1::EXIT_CAUSE_CRASHED);
  v1::StageProgress progress;
  progress.set_epoch(3);
  progress.set_train_top1(50);
  metrics->SetProgress("j", "W4A4", progress);
  progress.set_seconds_left(30);
  metrics->SetProgress("j", "W4A4", progress);
  v1::StageSpec spec;
  spec.set_weight_bits(4);
  metrics->SetStage("j", "W4A4", spec);
  v1::EpochResult result;
  result.set_test_top1(91);
  result.set_peak_memory_bytes(1000);
  result.mutable_teacher()->set_hint(0.5);
  (*result.mutable_step_seconds())["data"] = 2;
  (*result.mutable_step_seconds())["made_up"] = 3;
  auto* layer = result.add_layers();
  layer->set_clipped_share(0.1);
  result.add_layers()->set_clipped_share(0.3);
  result.add_layers()->set_gradient_norm(9);
  metrics->SetEpoch("j", "W4A4", result);
  v1::Checkpoint checkpoint;
  checkpoint.set_size_bytes(77);
  metrics->SetCheckpoint("j", "W4A4", checkpoint);
  metrics->ObserveRpc("CreateJob", 0.01);
}

TEST(MetricsTest, QueuesBeyondTheLimitShareASeries) {
  Metrics metrics("1");
  Metrics::Counts counts;
  counts.queues["vision"] = {1.5, 1, 3};
  metrics.SetCounts(counts);
  counts.queues.clear();
  for (size_t i = 0; i < 2 * Metrics::kMaxLabelledQueues; ++i) counts.queues[absl::StrCat("q", 1000 + i)] = {1, 1, 2};
  metrics.SetCounts(counts);
  const std::string text = Text(metrics);
  EXPECT_THAT(text, HasSubstr("bitstair_queue_slots{queue=\"vision\"} 1.5"));
  EXPECT_THAT(text, HasSubstr("bitstair_queue_waiting_stages{queue=\"q1048\"} 2"));
  EXPECT_THAT(text, HasSubstr("bitstair_queue_slots{queue=\"other\"} 51"));
  EXPECT_THAT(text, HasSubstr("bitstair_queue_jobs{queue=\"other\"} 51"));
  EXPECT_THAT(text, Not(HasSubstr("q1049")));
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

TEST(MetricsTest, TheDocumentListsEveryMetric) {
  Metrics metrics("1");
  FillAll(&metrics);
  const std::string table = testing::MetricsTable(*metrics.registry());
  EXPECT_EQ(testing::DocumentedTable(BITSTAIR_METRICS_DOCUMENT, "server", table), table) << "run with BITSTAIR_UPDATE_DOCS=1";
}

TEST(MetricsTest, AnEpochShowsWhatHappenedInIt) {
  Metrics metrics("1");
  FillAll(&metrics);
  const std::string text = Text(metrics);
  for (const char* line :
       {"bitstair_stage_clipped_ratio{job=\"j\",stage=\"W4A4\"} 0.2", "bitstair_stage_memory_bytes{job=\"j\",stage=\"W4A4\"} 1000",
        "bitstair_stage_hint_distance{job=\"j\",stage=\"W4A4\"} 0.5", "bitstair_stage_step_seconds{job=\"j\",part=\"data\",stage=\"W4A4\"} 2",
        "bitstair_stage_checkpoint_bytes{job=\"j\",stage=\"W4A4\"} 77", "bitstair_stage_left_seconds{job=\"j\",stage=\"W4A4\"} 30",
        "bitstair_stage_weight_width{job=\"j\",stage=\"W4A4\"} 4"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("made_up"))) << "a worker's words make no labels";
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
