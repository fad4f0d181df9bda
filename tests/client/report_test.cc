#include "client/report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "client/report/svg.h"
#include "tests/client/demo_job.h"

namespace bitstair::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ReportedJob Demo() {
  ReportedJob reported{DemoJob(), {}};
  reported.job.set_state(v1::JOB_STATE_SUCCEEDED);
  v1::Stage* last = reported.job.mutable_stages(2);
  AddEpoch(last, 89, 10);
  (*last->mutable_epochs(0)->mutable_step_seconds())["conv_forward"] = 3;
  (*last->mutable_epochs(0)->mutable_step_seconds())["data"] = 1;
  last->set_shared_with("jobs/other-1/stages/W4A4");
  v1::StageMetrics& metrics = reported.metrics.emplace_back();
  metrics.set_stage("jobs/demo-1/stages/W4A4");
  v1::EpochResult* epoch = metrics.add_epochs();
  epoch->set_epoch(1);
  v1::LayerTelemetry* layer = epoch->add_layers();
  layer->set_name("layer1.0.relu1");
  layer->set_clipped_share(0.25);
  layer = epoch->add_layers();
  layer->set_name("layer1.0.conv1");
  for (const int level : {-1, 1}) {
    layer->add_levels(level);
    layer->add_level_shares(0.5);
  }
  return reported;
}

TEST(ReportTest, HasEveryPlotAndTheResults) {
  const std::string page = ReportPage({Demo()}, "1.2.3");
  for (const char* id :
       {"staircase", "results", "job-0-graph", "job-0-loss", "job-0-accuracy", "job-0-steps", "job-0-clipping", "job-0-levels", "job-0-reproduce"}) {
    EXPECT_THAT(page, HasSubstr(std::string(" id=\"") + id + "\"")) << id;
  }
  for (const char* text :
       {"91.50 %", "-2.50", "32/32", "jobs/other-1/stages/W4A4", "conv_forward: 75.0 %", "layer1.0.relu1, outside of [0, 1]: 25.0 %",
        "layer1.0.conv1, level 1: 50.0 %", "written by bitstair 1.2.3", "class=\"box shared\"", "prefers-color-scheme: dark", "@media print"}) {
    EXPECT_THAT(page, HasSubstr(text));
  }
  EXPECT_THAT(page, Not(HasSubstr("nothing was measured yet")));
}

TEST(ReportTest, IsCompleteInItselfAndRunsNothing) {
  const std::string page = ReportPage({Demo(), Demo()}, "1");
  for (const char* text : {"http://", "https://", "<script", "src=", "@import", "url("}) EXPECT_THAT(page, Not(HasSubstr(text)));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  EXPECT_THAT(page, HasSubstr("id=\"job-1-graph\""));
}

TEST(ReportTest, NamesAreText) {
  ReportedJob reported = Demo();
  reported.job.mutable_spec()->mutable_data()->set_path("/data/<b>&\"'");
  reported.job.mutable_stages(0)->mutable_spec()->set_name("<i>W32A32");
  const std::string page = ReportPage({reported}, "1");
  EXPECT_THAT(page, HasSubstr("/data/&lt;b&gt;&amp;&quot;&#39;"));
  EXPECT_THAT(page, Not(HasSubstr("<i>W32A32")));
}

TEST(ReportTest, AJobThatHasNotBegunHasAPage) {
  v1::Job job;
  job.set_name("jobs/new-1");
  const std::string page = ReportPage({{job, {}}}, "1");
  EXPECT_THAT(page, HasSubstr("nothing was measured yet"));
}

TEST(SvgTest, LinesHaveGapsWhereNothingIsKnown) {
  LinePlot plot{"t", "x", "y", {{"a", {{1, 2}, {2, NAN}, {3, 4}}, 0, false}}, {}, false};
  const std::string svg = Svg(plot, "p");
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  const size_t path = svg.find("class=\"line\" d=\"");
  ASSERT_NE(path, std::string::npos);
  const std::string moves = svg.substr(path, svg.find('"', path + 17) - path);
  EXPECT_EQ(std::count(moves.begin(), moves.end(), 'M'), 2) << moves;
  plot.lines[0].points = {{1, NAN}};
  EXPECT_THAT(Svg(plot, "p"), HasSubstr("nothing was measured yet"));
  plot.lines[0].points = {{1, 5}};
  EXPECT_THAT(Svg(plot, "p"), HasSubstr("<circle")) << "one point is seen, too";
}

TEST(SvgTest, BranchesLieBesideEachOther) {
  GraphPlot plot{"t", {{"a", {}, "", false, true}, {"b", {}, "a", false, true}, {"c", {}, "a", false, false}, {"d", {}, "c", true, true}}};
  const std::string svg = Svg(plot, "g");
  EXPECT_EQ(std::count(svg.begin(), svg.end(), 'C'), 3) << "an arrow for each child";
  EXPECT_THAT(svg, HasSubstr("class=\"box bad\""));
  EXPECT_THAT(svg, HasSubstr("class=\"box shared\""));
}

}  // namespace
}  // namespace bitstair::client
