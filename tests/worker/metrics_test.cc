#include "worker/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/metrics_table.h"

namespace bitstair::worker {
namespace {

TEST(WorkerMetricsTest, TheDocumentListsEveryMetric) {
  WorkerMetrics metrics;
  metrics.SetProgress("jobs/j/stages/W4A4", {});
  const std::string table = testing::MetricsTable(metrics.registry());
  EXPECT_EQ(testing::DocumentedTable(BITSTAIR_METRICS_DOCUMENT, "worker", table), table) << "run with BITSTAIR_UPDATE_DOCS=1";
  metrics.RemoveStage("jobs/j/stages/W4A4");
  EXPECT_EQ(testing::MetricsTable(metrics.registry()).find("bitstair_worker_stage_loss"), std::string::npos);
}

}  // namespace
}  // namespace bitstair::worker
