#include "client/report/report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "client/json.h"
#include "client/report/page.h"
#include "client/report/svg.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

constexpr int kMaxLayers = 40;  // of a plot of layers

std::string Bits(const v1::StageSpec& spec) {
  return absl::StrCat(spec.weight_bits(), "/", spec.activation_bits());
}

const v1::EpochResult* Last(const v1::Stage& stage) {
  return stage.epochs().empty() ? nullptr : &stage.epochs(stage.epochs_size() - 1);
}

std::string Percent(double value) {
  return absl::StrFormat("%.2f %%", value);
}

// The chain from a root to `stage`.
std::vector<const v1::Stage*> Path(const v1::Job& job, const v1::Stage& stage) {
  std::vector<const v1::Stage*> path{&stage};
  while (static_cast<int>(path.size()) <= job.stages_size()) {
    const auto parent = std::find_if(job.stages().begin(), job.stages().end(), [&](const auto& s) { return s.spec().name() == path.back()->spec().parent(); });
    if (parent == job.stages().end()) break;
    path.push_back(&*parent);
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::vector<const v1::Stage*> Leaves(const v1::Job& job) {
  std::set<std::string> parents;
  for (const v1::Stage& stage : job.stages()) parents.insert(stage.spec().parent());
  std::vector<const v1::Stage*> leaves;
  for (const v1::Stage& stage : job.stages()) {
    if (parents.count(stage.spec().name()) == 0) leaves.push_back(&stage);
  }
  return leaves;
}

// Accuracy against the bits, one line per way down; the widths in the order in which they occur.
std::string Staircase(const std::vector<ReportedJob>& jobs) {
  std::vector<std::pair<int, int>> widths;
  for (const ReportedJob& reported : jobs) {
    for (const v1::Stage& stage : reported.job.stages()) widths.emplace_back(-stage.spec().weight_bits(), -stage.spec().activation_bits());
  }
  std::sort(widths.begin(), widths.end());
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  LinePlot plot{"Top-1 on the test images against the bits of weights/activations", "bits W/A", "top-1 (%)", {}, {}, true};
  std::map<std::pair<int, int>, int> place;
  for (size_t i = 0; i < widths.size(); ++i) {
    place[widths[i]] = static_cast<int>(i);
    plot.x_marks.emplace_back(i, absl::StrCat(-widths[i].first, "/", -widths[i].second));
  }
  for (const ReportedJob& reported : jobs) {
    for (const v1::Stage* leaf : Leaves(reported.job)) {
      Line line{absl::StrCat(jobs.size() > 1 ? reported.job.spec().name() + " " : "", leaf->spec().name()), {}, static_cast<int>(plot.lines.size()), false};
      for (const v1::Stage* stage : Path(reported.job, *leaf)) {
        if (const auto* last = Last(*stage))
          line.points.emplace_back(place[{-stage->spec().weight_bits(), -stage->spec().activation_bits()}], last->test_top1());
      }
      plot.lines.push_back(std::move(line));
    }
  }
  return Svg(plot, "staircase");
}

std::string ResultsTable(const std::vector<ReportedJob>& jobs) {
  std::string out =
      "<div class=\"scroll\"><table id=\"results\"><thead><tr><th>job</th><th class=\"text\">stage</th><th>bits "
      "W/A</th><th>epochs</th><th>top-1</th><th>top-5</th>"
      "<th>against full precision</th><th>train loss</th><th>time</th><th class=\"text\">training of</th></tr></thead><tbody>";
  for (const ReportedJob& reported : jobs) {
    for (const v1::Stage& stage : reported.job.stages()) {
      const v1::EpochResult* last = Last(stage);
      const std::optional<double> full = FullPrecisionTop1(reported.job, stage);
      const bool bad = stage.state() == v1::STAGE_STATE_FAILED;
      absl::StrAppend(&out, "<tr><td>", Escape(ShortName(reported.job.name())), "</td><td class=\"text", bad ? " bad" : "", "\">", Escape(stage.spec().name()),
                      bad ? " (failed)" : "", "</td><td>", Bits(stage.spec()), "</td><td>", stage.epochs_size(), "/", stage.spec().epochs(), "</td><td>",
                      last == nullptr ? "-" : Percent(last->test_top1()), "</td><td>", last == nullptr ? "-" : Percent(last->test_top5()), "</td><td>",
                      last == nullptr || !full ? "-" : absl::StrFormat("%+.2f", last->test_top1() - *full), "</td><td>",
                      last == nullptr ? "-" : absl::StrFormat("%.4f", last->train_loss()), "</td><td>", Duration(stage.seconds()), "</td><td class=\"text\">",
                      stage.shared_with().empty() ? "this job" : Escape(stage.shared_with()), "</td></tr>");
    }
  }
  return out + "</tbody></table></div>";
}

std::string Graph(const v1::Job& job, const std::string& id) {
  GraphPlot plot{"Stages; dashed: trained for another job and taken over", {}};
  for (const v1::Stage& stage : job.stages()) {
    const v1::EpochResult* last = Last(stage);
    std::string second = last == nullptr ? StateWord(stage.state()) : absl::StrCat("top-1 ", Percent(last->test_top1()));
    plot.boxes.push_back({stage.spec().name(),
                          {absl::StrCat(Bits(stage.spec()), " bits, ", stage.spec().epochs(), stage.spec().epochs() == 1 ? " epoch" : " epochs"), second},
                          stage.spec().parent(),
                          !stage.shared_with().empty(),
                          stage.state() != v1::STAGE_STATE_FAILED && stage.state() != v1::STAGE_STATE_CANCELLED});
  }
  return Svg(plot, id);
}

// Each stage's epochs after those of what it starts from.
template <typename Value>
Line EpochLine(const v1::Job& job, const v1::Stage& stage, const std::string& name, int colour, bool dashed, Value value) {
  double before = 0;
  for (const v1::Stage* ancestor : Path(job, stage)) {
    if (ancestor != &stage) before += ancestor->spec().epochs();
  }
  Line line{name, {}, colour, dashed};
  for (const v1::EpochResult& epoch : stage.epochs()) line.points.emplace_back(before + epoch.epoch(), value(epoch));
  return line;
}

std::string Curves(const v1::Job& job, const std::string& prefix) {
  LinePlot loss{"Training loss by epoch", "epoch", "loss", {}, {}, false};
  LinePlot accuracy{"Top-1 by epoch: test images, dashed: training images", "epoch", "top-1 (%)", {}, {}, false};
  for (int i = 0; i < job.stages_size(); ++i) {
    const v1::Stage& stage = job.stages(i);
    const std::string& name = stage.spec().name();
    loss.lines.push_back(EpochLine(job, stage, name, i, false, [](const auto& e) { return e.train_loss(); }));
    accuracy.lines.push_back(EpochLine(job, stage, name, i, false, [](const auto& e) { return e.test_top1(); }));
    accuracy.lines.push_back(EpochLine(job, stage, name + " training", i, true, [](const auto& e) { return e.train_top1(); }));
  }
  return Svg(loss, prefix + "loss") + Svg(accuracy, prefix + "accuracy");
}

std::string StepTimes(const v1::Job& job, const std::string& id) {
  SharePlot plot{"Where the time of a training step goes, in rank 0",
                 {"conv_forward", "conv_backward", "elementwise", "weights", "optimiser", "all_reduce", "data", "other"},
                 {}};
  for (const v1::Stage& stage : job.stages()) {
    const v1::EpochResult* last = Last(stage);
    if (last == nullptr || last->step_seconds().empty()) continue;
    double sum = 0;
    for (const auto& [part, seconds] : last->step_seconds()) sum += seconds;
    std::vector<double> shares;
    for (const auto& part : plot.parts) {
      const auto found = last->step_seconds().find(part);
      shares.push_back(sum > 0 && found != last->step_seconds().end() ? found->second / sum : 0);
    }
    plot.rows.emplace_back(stage.spec().name(), std::move(shares));
  }
  return Svg(plot, id);
}

// Of the last stage that has some: what the end of the staircase looks like inside.
std::string Layers(const std::vector<v1::StageMetrics>& metrics, const std::string& prefix) {
  SharePlot clipped{"Clipped activations by layer", {"outside of [0, 1]"}, {}}, levels{"Weights on each level, from the lowest to the highest", {}, {}};
  for (auto stage = metrics.rbegin(); stage != metrics.rend() && levels.rows.empty(); ++stage) {
    if (stage->epochs().empty()) continue;
    const v1::EpochResult& last = stage->epochs(stage->epochs_size() - 1);
    if (last.layers().empty()) continue;
    const std::string of = absl::StrCat(" (", ShortName(stage->stage()), ", epoch ", last.epoch(), ")");
    size_t most = 0;
    for (const v1::LayerTelemetry& layer : last.layers()) {
      if (!layer.net().empty()) continue;
      if (layer.has_clipped_share() && static_cast<int>(clipped.rows.size()) < kMaxLayers) clipped.rows.push_back({layer.name(), {layer.clipped_share()}});
      if (layer.level_shares().empty() || static_cast<int>(levels.rows.size()) == kMaxLayers) continue;
      levels.rows.emplace_back(layer.name(), std::vector<double>(layer.level_shares().begin(), layer.level_shares().end()));
      most = std::max(most, levels.rows.back().second.size());
    }
    clipped.title += of;
    levels.title += of;
    for (size_t i = 0; i < most && most <= 8; ++i) levels.parts.push_back(absl::StrCat("level ", i));
  }
  return Svg(clipped, prefix + "clipping") + Svg(levels, prefix + "levels");
}

std::string Reproduce(const v1::Job& job, const std::string& id, const std::string& version) {
  std::string text =
      absl::StrCat("<section id=\"", id, "\"><h3>How to reproduce it</h3><p>The recipe with all defaults; <code>bitstair run recipe.yaml</code>.</p><pre>",
                   Escape(Dump(ToJson(job.spec(), EnumWords::kRecipe), "yaml")), "</pre><div class=\"scroll\"><table><thead><tr><th>stage</th>",
                   "<th class=\"text\">key</th><th class=\"text\">checkpoint (SHA-256)</th><th>bit exact</th></tr></thead><tbody>");
  std::set<std::string> digests;
  for (const v1::Stage& stage : job.stages()) {
    if (!stage.spec().data_digest().empty()) digests.insert(stage.spec().data_digest());
    absl::StrAppend(&text, "<tr><td>", Escape(stage.spec().name()), "</td><td class=\"text\"><code>", Escape(stage.key()),
                    "</code></td><td class=\"text\"><code>", Escape(stage.checkpoint().sha256()), "</code></td><td>", stage.bit_exact() ? "yes" : "no",
                    "</td></tr>");
  }
  return absl::StrCat(text, "</tbody></table></div><p class=\"sub\">Data set digest ", Escape(absl::StrJoin(digests, ", ")), "; page written by bitstair ",
                      Escape(version), "</p></section>");
}

}  // namespace

std::string ReportPage(const std::vector<ReportedJob>& jobs, const std::string& version) {
  std::vector<std::string> names;
  for (const ReportedJob& reported : jobs) names.push_back(ShortName(reported.job.name()));
  const std::string title = absl::StrCat("Bitstair: ", absl::StrJoin(names, ", "));
  std::string body =
      absl::StrCat("<header><h1>", Escape(title), "</h1></header>\n<div class=\"plots\">", Staircase(jobs), "</div>\n", ResultsTable(jobs), "\n");
  for (size_t i = 0; i < jobs.size(); ++i) {
    const v1::Job& job = jobs[i].job;
    const std::string prefix = absl::StrCat("job-", i, "-");
    absl::StrAppend(&body, "<h2>", Escape(names[i]), "</h2><p class=\"sub\">", Escape(job.spec().network()), " on ", Escape(job.spec().data().name()),
                    Escape(job.spec().data().path()), ", ", StateWord(job.state()), job.reason().empty() ? "" : ": ", Escape(job.reason()), "</p>\n",
                    Graph(job, prefix + "graph"), "<div class=\"plots\">", Curves(job, prefix), StepTimes(job, prefix + "steps"),
                    Layers(jobs[i].metrics, prefix), "</div>\n", Reproduce(job, prefix + "reproduce", version), "\n");
  }
  return Page(title, body);
}

}  // namespace bitstair::client
