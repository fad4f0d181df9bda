// What `bitstair top` shows and how keys change it, without a terminal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "client/top/columns.h"
#include "client/top/model.h"
#include "client/top/render.h"
#include "tests/client/demo_job.h"

namespace bitstair::client::top {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

v1::Worker MakeWorker(const std::string& name, int slots, int free_slots) {
  v1::Worker worker;
  worker.set_name("workers/id-" + name);
  worker.set_host(name);
  worker.set_state(v1::WORKER_STATE_READY);
  for (int i = 0; i < slots; ++i) worker.add_slots()->set_kind(v1::SLOT_KIND_CPU);
  worker.set_free_slots(free_slots);
  return worker;
}

v1::Job Waiting(const std::string& name, int64_t created) {
  v1::Job job;
  job.set_name("jobs/" + name);
  job.set_state(v1::JOB_STATE_PENDING);
  job.mutable_create_time()->set_seconds(created);
  job.mutable_spec()->set_queue("vision");
  job.mutable_spec()->set_priority(v1::PRIORITY_CLASS_HIGH);
  AddStage(job, 32, 32, v1::STAGE_STATE_PENDING, 2)->set_reason("waits for 8 slots; 1 of 4 is free");
  return job;
}

Model DemoModel() {
  Model model;
  model.coordinator = "127.0.0.1:7420";
  model.loaded = true;
  model.now = 1'800'000'000;
  model.workers = {MakeWorker("w1", 2, 0), MakeWorker("w2", 2, 1)};
  v1::Job job = DemoJob();
  v1::RankPlacement* rank = job.mutable_stages(1)->add_placement();
  rank->set_worker("w1");
  *job.mutable_stages(1)->add_placement() = *rank;
  model.jobs = {Waiting("new-2", 20), job, Waiting("old-1", 10)};
  v1::Job failed;
  failed.set_name("jobs/bad-9");
  failed.set_state(v1::JOB_STATE_FAILED);
  failed.set_reason("stage W4A4 failed: \x1b[2Jno such data");
  model.jobs.push_back(failed);
  SortJobs(model.jobs);
  return model;
}

View Selected(const std::string& job) {
  View view;
  view.selected = job;
  return view;
}

std::string Text(const Model& model, const View& view, Size size, bool unicode = false) {
  return PlainText(Render(model, view, size, unicode));
}

std::string LineWith(const std::string& text, const std::string& part) {
  const size_t at = text.find(part);
  if (at == std::string::npos) return "";
  const size_t begin = text.rfind('\n', at) + 1;
  return text.substr(begin, text.find('\n', at) - begin);
}

TEST(TopTest, ShowsFleetAndJobsOnAWideTerminal) {
  const std::string text = Text(DemoModel(), Selected("jobs/demo-1"), {30, 140});
  EXPECT_THAT(text, HasSubstr("bitstair  127.0.0.1:7420"));
  EXPECT_THAT(text, HasSubstr("2 workers ready, 3 of 4 slots busy; 1 job runs, 2 wait\n"));
  EXPECT_THAT(LineWith(text, "w1 "), AllOf(HasSubstr("READY"), HasSubstr("##"), HasSubstr("2/2"), HasSubstr("demo-1/W4A32 x2")));
  EXPECT_THAT(LineWith(text, "w2 "), AllOf(HasSubstr("#."), HasSubstr("1/2")));
  // 2 of 9 epochs, 1.5 of the 4 that run.
  EXPECT_THAT(LineWith(text, "demo-1 "), AllOf(HasSubstr("RUNNING"), HasSubstr("W4A32"), HasSubstr("4/32"), HasSubstr("38 %"), HasSubstr("2/4"),
                                               HasSubstr("0.412"), HasSubstr("86.12"), HasSubstr("90.25"), HasSubstr("12034"), HasSubstr("1:59")));
  EXPECT_THAT(LineWith(text, "new-2 "), AllOf(HasSubstr("PENDING"), HasSubstr("vision"), HasSubstr("high"), HasSubstr("waits for 8 slots; 1 of 4 is free")));
  EXPECT_THAT(text, HasSubstr("q quit"));
}

TEST(TopTest, ShowsWhatMattersMostOnANarrowOne) {
  const std::string text = Text(DemoModel(), Selected("jobs/old-1"), {20, 60});
  EXPECT_THAT(LineWith(text, "demo-1 "), AllOf(HasSubstr("RUNNING"), HasSubstr("W4A32"), HasSubstr("38 %"), HasSubstr("1:59"), Not(HasSubstr("12034"))));
  EXPECT_THAT(text, HasSubstr("old-1: waits for 8 slots; 1 of 4 is free")) << "the selected job's reason has a line of its own";
}

TEST(TopTest, EveryFrameFitsItsTerminal) {
  Model model = DemoModel();
  for (int i = 0; i < 60; ++i) {
    model.workers.push_back(MakeWorker("worker-with-a-long-name-" + std::to_string(i), 20, 5));
    model.jobs.push_back(Waiting("filler-" + std::to_string(i), i));
  }
  for (const Page page : {Page::kJobs, Page::kStages, Page::kWorkers}) {
    for (const bool help : {false, true}) {
      for (int columns = 20; columns < 200; columns += 7) {
        for (int rows = 1; rows < 60; rows += 3) {
          View view = Selected("jobs/demo-1");
          view.page = page;
          view.help = help;
          view.scroll = 1'000;
          const Frame frame = Render(model, view, {rows, columns}, true);
          ASSERT_EQ(frame.size(), static_cast<size_t>(rows));
          for (const Line& line : frame) {
            int width = 0;
            for (const Span& span : line.spans) {
              width += Columns(span.text);
              EXPECT_TRUE(std::none_of(span.text.begin(), span.text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }));
            }
            ASSERT_LE(width, columns);
          }
        }
      }
    }
  }
}

TEST(TopTest, TheSelectedJobIsAlwaysOnTheScreenAndMarked) {
  Model model = DemoModel();
  for (int i = 0; i < 100; ++i) model.jobs.push_back(Waiting("filler-" + std::to_string(i), i));
  SortJobs(model.jobs);
  for (const v1::Job& job : model.jobs) {
    const Frame frame = Render(model, Selected(job.name()), {16, 80}, false);
    const auto marked = std::find_if(frame.begin(), frame.end(), [](const Line& line) { return line.selected; });
    ASSERT_NE(marked, frame.end()) << job.name();
    EXPECT_THAT(PlainText({*marked}), testing::StartsWith(job.name().substr(5)));
  }
}

TEST(TopTest, ManyWorkersLeaveRoomForJobs) {
  Model model = DemoModel();
  for (int i = 0; i < 60; ++i) model.workers.push_back(MakeWorker("extra-" + std::to_string(i), 1, 1));
  const std::string text = Text(model, Selected("jobs/demo-1"), {24, 80});
  EXPECT_THAT(text, AllOf(HasSubstr("more workers; w shows all"), HasSubstr("demo-1"), HasSubstr("bad-9")));
}

TEST(TopTest, ALostCoordinatorIsSaidAndWhatWasKnownStays) {
  Model model = DemoModel();
  model.error = "connection refused";
  model.silent_seconds = 12;
  EXPECT_THAT(Text(model, Selected("jobs/demo-1"), {20, 80}), AllOf(HasSubstr("no contact for 12 s, trying again: connection refused"), HasSubstr("demo-1")));
  Model fresh;
  fresh.coordinator = "10.0.0.5:7420";
  EXPECT_THAT(Text(fresh, View(), {20, 80}), AllOf(HasSubstr("10.0.0.5:7420"), HasSubstr("connecting")));
  fresh.error = "connection refused";
  EXPECT_THAT(Text(fresh, View(), {20, 80}), HasSubstr("not reached for 0 s"));
}

TEST(TopTest, StagesComeWithTheStaircase) {
  View view = Selected("jobs/demo-1");
  view.page = Page::kStages;
  const std::string text = Text(DemoModel(), view, {30, 120});
  EXPECT_THAT(LineWith(text, "W32A32 "), AllOf(HasSubstr("SUCCEEDED"), HasSubstr("100 %"), HasSubstr("91.50"), HasSubstr("0.00")));
  EXPECT_THAT(LineWith(text, "W4A32 "), AllOf(HasSubstr("RUNNING"), HasSubstr("37 %"), HasSubstr("90.25"), HasSubstr("1.25"), HasSubstr("w1")));
  EXPECT_THAT(LineWith(text, "W4A4 "), AllOf(HasSubstr("BLOCKED"), HasSubstr("0/3")));
  EXPECT_THAT(text, AllOf(HasSubstr("top-1 (%) by bits"), HasSubstr("=====+")));
  // No room for it: the stages themselves come first.
  EXPECT_THAT(Text(DemoModel(), view, {12, 120}), AllOf(HasSubstr("W4A4"), Not(HasSubstr("top-1 (%) by bits"))));
}

TEST(TopTest, OnePictureForPipesHasEverythingAndNoKeys) {
  Model model = DemoModel();
  for (int i = 0; i < 60; ++i) model.workers.push_back(MakeWorker("extra-" + std::to_string(i), 1, 1));
  const std::string text = Text(model, View(), {0, 100});
  EXPECT_THAT(text, AllOf(HasSubstr("extra-59"), HasSubstr("bad-9"), HasSubstr("stage W4A4 failed: ?[2Jno such data"), Not(HasSubstr("quit"))));
  EXPECT_THAT(Text(Model(), View(), {0, 100}), HasSubstr("connecting"));
}

TEST(TopTest, RunningJobsComeFirstThenThoseThatWait) {
  const Model model = DemoModel();
  std::vector<std::string> names;
  for (const v1::Job& job : model.jobs) names.push_back(job.name());
  EXPECT_THAT(names, testing::ElementsAre("jobs/demo-1", "jobs/new-2", "jobs/old-1", "jobs/bad-9"));
}

TEST(TopKeysTest, MoveTheSelectionAndOpenPages) {
  const Model model = DemoModel();
  View view;
  Settle(Model(), model, view);
  EXPECT_EQ(view.selected, "jobs/demo-1");
  EXPECT_TRUE(OnKey(Key::kDown, model, view));
  EXPECT_EQ(view.selected, "jobs/new-2");
  OnKey(Key::kEnd, model, view);
  EXPECT_EQ(view.selected, "jobs/bad-9");
  OnKey(Key::kDown, model, view);
  EXPECT_EQ(view.selected, "jobs/bad-9") << "no wrapping";
  OnKey(Key::kPageUp, model, view);
  EXPECT_EQ(view.selected, "jobs/demo-1");
  OnKey(Key::kEnter, model, view);
  EXPECT_EQ(view.page, Page::kStages);
  OnKey(Key::kDown, model, view);
  EXPECT_EQ(view.scroll, 1);
  EXPECT_EQ(view.selected, "jobs/demo-1");
  OnKey(Key::kBack, model, view);
  EXPECT_EQ(view.page, Page::kJobs);
  OnKey(Key::kWorkers, model, view);
  EXPECT_EQ(view.page, Page::kWorkers);
  OnKey(Key::kWorkers, model, view);
  EXPECT_EQ(view.page, Page::kJobs);
  EXPECT_FALSE(OnKey(Key::kQuit, model, view));
}

TEST(TopKeysTest, AnyKeyClosesHelpAndQuitLeavesFromThereToo) {
  const Model model = DemoModel();
  View view;
  OnKey(Key::kHelp, model, view);
  EXPECT_TRUE(view.help);
  EXPECT_TRUE(OnKey(Key::kNone, model, view));
  EXPECT_TRUE(view.help);
  EXPECT_TRUE(OnKey(Key::kOther, model, view));
  EXPECT_FALSE(view.help);
  OnKey(Key::kHelp, model, view);
  EXPECT_FALSE(OnKey(Key::kQuit, model, view));
}

TEST(TopKeysTest, NothingToSelectIsNoTrouble) {
  View view;
  for (int key = 0; key <= static_cast<int>(Key::kOther); ++key) OnKey(static_cast<Key>(key), Model(), view);
  EXPECT_EQ(view.selected, "");
}

TEST(TopKeysTest, TheSelectionGoesToTheNeighbourOfAJobThatIsGone) {
  const Model before = DemoModel();
  Model after = before;
  View view = Selected("jobs/new-2");
  view.page = Page::kStages;
  after.jobs.erase(after.jobs.begin() + 1);
  Settle(before, after, view);
  EXPECT_EQ(view.selected, "jobs/old-1");
  EXPECT_EQ(view.page, Page::kJobs);
  Settle(after, Model(), view);
  EXPECT_EQ(view.selected, "");
}

TEST(LayoutTest, LeastImportantColumnsGoFirst) {
  const std::vector<Column> columns{{"name", Align::kLeft, 10, 0}, {"a", Align::kRight, 5, 1}, {"b", Align::kRight, 5, 2}};
  const std::vector<Row> rows{{{{"first"}, {"1"}, {"22"}}, "", false}, {{{"second-is-long"}}, "why it waits", false}};
  EXPECT_EQ(PlainText(Layout(columns, rows, 40, false)), "name        a   b\nfirst       1  22\nsecond-is~  why it waits\n");
  EXPECT_EQ(PlainText(Layout(columns, rows, 16, false)), "name        a\nfirst       1\nsecond-is~  why~\n");
  EXPECT_EQ(PlainText(Layout(columns, rows, 11, false)), "name\nfirst\nsecond-is~\n");
  EXPECT_EQ(PlainText(Layout(columns, rows, 5, true)), "name\nfirst\nseco…\n");
}

TEST(BarTest, IsFullOnlyAsFarAsTheShare) {
  EXPECT_EQ(Bar(0.5, 6, false), "###---");
  EXPECT_EQ(Bar(7, 4, true), "████");
  EXPECT_EQ(Bar(-1, 4, true), "░░░░");
}

}  // namespace
}  // namespace bitstair::client::top
