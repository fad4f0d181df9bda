#include "client/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace bitstair::client {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kGood[] = R"(# a comment
name: demo
network: convnet28
data:
  name: fashion_mnist
  augmentation: crop_flip
seed: 18446744073709551615
ranks: 2
widths: [32, 8, 4]
two_stage: true
order: per_stage
pretrain: {epochs: 4, learning_rate: 0.05}
quantized:
  epochs: 5
  learning_rate: 2e-2
environment:
  OMP_NUM_THREADS: 1
)";

std::string With(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// Every check that needs no coordinator.
std::string Error(const std::string& text, const std::vector<std::string>& sets = {}) {
  const auto recipe = ParseRecipe("r.yaml", text, sets);
  if (!recipe.ok()) return std::string(recipe.status().message());
  const auto spec = ResolveRecipe(*recipe, false);
  return spec.ok() ? "ok" : std::string(spec.status().message());
}

constexpr char kGraph[] = R"(name: graph
network: convnet28
data: {name: fashion_mnist}
require: top1_drop <= 1
stages:
  - {name: full, weight_bits: 32, epochs: 3}
  - name: low
    parent: full
    weight_bits: 4
    epochs: 2
    on_gate_failure: go_on
  - {parent: low, weight_bits: 2, epochs: 2, require: none}
sweep:
  seed: [1, 2]
  guided.lambda: [0.5, 10]
  guided.hint_points: [null, [conv1, fc1]]
  order: [per_width]
)";

TEST(RecipeTest, ReadsGraphsAndSweeps) {
  const auto recipe = ParseRecipe("r.yaml", kGraph, {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const v1::JobSpec& spec = recipe->spec;
  ASSERT_EQ(spec.stages_size(), 3);
  EXPECT_EQ(spec.stages(1).parent(), "full");
  EXPECT_EQ(spec.stages(1).on_gate_failure(), v1::GATE_ACTION_GO_ON);
  EXPECT_EQ(spec.require(), "top1_drop <= 1");
  ASSERT_EQ(spec.sweep().size(), 4u);
  EXPECT_EQ(spec.sweep().at("guided.lambda").values(0).number_value(), 0.5);
  EXPECT_EQ(spec.sweep().at("guided.hint_points").values(0).kind_case(), google::protobuf::Value::kNullValue);
  EXPECT_EQ(spec.sweep().at("guided.hint_points").values(1).list_value().values(1).string_value(), "fc1");
  EXPECT_EQ(spec.sweep().at("order").values(0).string_value(), "per_width");
  EXPECT_EQ(Error(kGraph), "ok");
}

TEST(RecipeTest, FaultsOfGraphsAndSweepsAreShownWhereTheyWereWritten) {
  const auto with = [](const std::string& from, const std::string& to) {
    std::string text = kGraph;
    EXPECT_NE(text.find(from), std::string::npos) << from;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_THAT(Error(with("parent: full", "parent: ful")), HasSubstr("r.yaml:8:5: stages[1].parent: \"ful\" is no stage of this recipe"));
  EXPECT_THAT(Error(with("[0.5, 10]", "[0.5, -10]")), HasSubstr("r.yaml:15:24: sweep[\"guided.lambda\"][1]: guided.lambda is -10; must be 0 to 1e6"));
  EXPECT_THAT(Error(with("seed: [1, 2]", "seeds: [1, 2]")), HasSubstr("r.yaml:14:3: sweep[\"seeds\"]: is no field of a recipe"));
  EXPECT_THAT(Error(with("seed: [1, 2]", "seed: 1")), HasSubstr("r.yaml:14:9: sweep[\"seed\"]: expected a list such as [1, 2], found \"1\""));
  EXPECT_THAT(Error(with("top1_drop <= 1", "top1_drip <= 1")), HasSubstr("r.yaml:4:1: require: \"top1_drip\" is no metric"));
  EXPECT_THAT(Error(with("{name: full, weight_bits: 32, epochs: 3}", "W32A32")), HasSubstr("r.yaml:6:5: stages[0]: expected a group of keys (name, parent,"));
  EXPECT_THAT(Error(with("on_gate_failure: go_on", "on_gate_failure: carry_on")), HasSubstr("unknown value \"carry_on\""));
  EXPECT_THAT(Error(std::string("name: a\nnetwork: convnet28\ndata: {name: f}\nwidths: [32]\npretrain: {epochs: 1}\nsweep: {}\n")),
              HasSubstr("r.yaml:6:8: sweep: is empty"));
}

TEST(RecipeTest, SweepsCanBeSet) {
  EXPECT_EQ(Error(kGood, {"sweep.seed=[1, 2]", "sweep.quantized.learning_rate=[0.01, 0.02]"}), "ok");
  EXPECT_THAT(Error(kGood, {"sweep.seed=[1, 1]"}), HasSubstr("--set sweep.seed=[1, 1]: sweep[\"seed\"][1]: is there already"));
}

TEST(RecipeTest, RanksMayBeARange) {
  const auto recipe = ParseRecipe("r.yaml", With("ranks: 2", "ranks: 1..8\nreduction: fixed_shards"), {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->spec.min_ranks(), 1);
  EXPECT_EQ(recipe->spec.ranks(), 8);
  const auto spec = ResolveRecipe(*recipe, false);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->shards(), 8);
  EXPECT_THAT(Error(With("ranks: 2", "ranks: 8..1\nreduction: fixed_shards")), HasSubstr("r.yaml:8:8: min_ranks: is 8, more than ranks (1): a range goes up"));
  EXPECT_THAT(Error(With("ranks: 2", "ranks: 1..x")), HasSubstr("r.yaml:8:8: ranks: expected a whole number or a range such as 1..8"));
  EXPECT_THAT(Error(With("ranks: 2", "ranks: 1..8")), HasSubstr("min_ranks: needs reduction: fixed_shards"));
  EXPECT_EQ(Error(kGood, {"ranks=1..4", "reduction=fixed_shards"}), "ok");
  EXPECT_THAT(Error(With("ranks: 2", "ranks: 1..6\nreduction: fixed_shards")), HasSubstr("batch_size: is 128, not a multiple of"));
}

TEST(RecipeTest, ReadsEveryKindOfField) {
  const auto recipe = ParseRecipe("r.yaml", kGood, {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const v1::JobSpec& spec = recipe->spec;
  EXPECT_EQ(spec.name(), "demo");
  EXPECT_EQ(spec.data().augmentation(), v1::AUGMENTATION_CROP_FLIP);
  EXPECT_EQ(spec.seed(), 18446744073709551615U);
  EXPECT_THAT(spec.widths(), ElementsAre(32, 8, 4));
  EXPECT_TRUE(spec.two_stage());
  EXPECT_EQ(spec.order(), v1::STAGE_ORDER_PER_STAGE);
  EXPECT_EQ(spec.pretrain().epochs(), 4);
  EXPECT_DOUBLE_EQ(spec.quantized().learning_rate(), 0.02);
  EXPECT_EQ(spec.environment().at("OMP_NUM_THREADS"), "1");
  EXPECT_FALSE(spec.has_momentum()) << "what the recipe leaves out stays absent";
  EXPECT_EQ(recipe->locations.at("quantized.epochs").line, 14);
  EXPECT_EQ(recipe->locations.at("widths[1]").column, 14);
  EXPECT_EQ(Error(kGood), "ok");
}

TEST(RecipeTest, ReadsTheNetworksOptions) {
  const std::string text = std::string(kGood) +
                           "shortcut_values: float\nshortcut_conv_bits: 8\nweight_norm: std\nquantize_first_last: true\n"
                           "layer_widths:\n  conv2: 8\n  \"*.relu1\": 4\n";
  const auto recipe = ParseRecipe("r.yaml", text, {"layer_widths.layer1.0.conv1=16"});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->spec.shortcut_values(), v1::SHORTCUT_VALUES_FLOAT);
  EXPECT_EQ(recipe->spec.shortcut_conv_bits(), 8);
  EXPECT_EQ(recipe->spec.weight_norm(), v1::WEIGHT_NORM_STD);
  EXPECT_TRUE(recipe->spec.quantize_first_last());
  EXPECT_EQ(recipe->spec.layer_widths().at("conv2"), "8");
  EXPECT_EQ(recipe->spec.layer_widths().at("*.relu1"), "4");
  EXPECT_EQ(recipe->spec.layer_widths().at("layer1.0.conv1"), "16");
  EXPECT_EQ(Error(text), "ok");
}

struct Bad {
  const char* from;
  const char* to;
  const char* message;
};

TEST(RecipeTest, NamesPlaceKeyAndFault) {
  const Bad cases[] = {
      {"widths:", "widht:", "r.yaml:9:1: unknown key \"widht\"; did you mean \"widths\"?"},
      {"  epochs: 5", "  epoch: 5", "r.yaml:14:3: unknown key \"quantized.epoch\"; did you mean \"epochs\"?"},
      {"seed:", "zzzzzzzzzzzzzzzz:", "r.yaml:7:1: unknown key \"zzzzzzzzzzzzzzzz\"; known: name, network, data"},
      {"ranks: 2", "ranks: two", "r.yaml:8:8: ranks: expected a whole number, found \"two\""},
      {"ranks: 2", "ranks: \"2\"", "r.yaml:8:8: ranks: expected a whole number, found the text \"2\""},
      {"ranks: 2", "ranks: 2.0", "r.yaml:8:8: ranks: expected a whole number, found \"2.0\""},
      {"ranks: 2", "ranks: [2]", "r.yaml:8:8: ranks: expected a whole number, found a list"},
      {"ranks: 2", "ranks:", "r.yaml:8:1: ranks: a value is missing"},
      {"ranks: 2", "ranks: 99999999999", "r.yaml:8:8: ranks: 99999999999 is out of range (-2147483648 to 2147483647)"},
      {"seed: 18446744073709551615", "seed: -1", "r.yaml:7:7: seed: -1 is out of range (0 to 18446744073709551615)"},
      {"[32, 8, 4]", "32", "r.yaml:9:9: widths: expected a list such as [32, 8, 4], found \"32\""},
      {"[32, 8, 4]", "[32, x]", "r.yaml:9:14: widths[1]: expected a whole number, found \"x\""},
      {"two_stage: true", "two_stage: yes", "r.yaml:10:12: two_stage: expected true or false, found \"yes\""},
      {"order: per_stage", "order: per_wdith", "r.yaml:11:8: order: unknown value \"per_wdith\"; did you mean \"per_width\"?"},
      {"order: per_stage", "order: STAGE_ORDER_PER_WIDTH", "r.yaml:11:8: order: unknown value \"STAGE_ORDER_PER_WIDTH\"; "},
      {"2e-2", "nan", "r.yaml:15:18: quantized.learning_rate: expected a number, found \"nan\""},
      {"2e-2", "1e999", "r.yaml:15:18: quantized.learning_rate: 1e999 is out of a double's range"},
      {"{epochs: 4, learning_rate: 0.05}", "4", "r.yaml:12:11: pretrain: expected a group of keys (epochs, learning_rate, "},
      {"name: demo", "name: {a: b}", "r.yaml:2:7: name: expected a text, found a group of keys"},
      {"name: demo", "name: \"a\\tb\"", "r.yaml:2:7: name: \"a\\x09b\" has control characters"},
      {"OMP_NUM_THREADS: 1", "OMP_NUM_THREADS: [1]", "environment[\"OMP_NUM_THREADS\"]: expected a text, found a list"},
      {"ranks: 2", "ranks: 2\nranks: 3", "r.yaml:9:1: \"ranks\" appears twice"},
      // What the coordinator's own rules say, with the recipe's lines.
      {"[32, 8, 4]", "[32, 9, 4]", "r.yaml:9:14: widths[1]: is 9"},
      {"[32, 8, 4]", "[32, 4, 8]", "r.yaml:9:17: widths[2]: is 8 after 4"},
      {"  epochs: 5", "  epochs: 0", "r.yaml:14:3: quantized.epochs: is 0"},
      {"  epochs: 5", "  epochs: -3", "r.yaml:14:3: quantized.epochs: is -3"},
      {"2e-2", "1e9", "r.yaml:15:3: quantized.learning_rate: is 1e+09"},
      {"ranks: 2", "ranks: 65", "r.yaml:8:1: ranks: is 65"},
      {"ranks: 2", "shortcut_conv_bits: 4", "r.yaml:8:1: shortcut_conv_bits: is 4; must be 8 or 32"},
      {"ranks: 2", "quantize_first_last: 2", "r.yaml:8:22: quantize_first_last: expected true or false, found \"2\""},
      {"ranks: 2", "quantize_first_last: true\nquantize_last_activation: true", "r.yaml:8:1: quantize_first_last: and quantize_last_activation exclude each"},
      {"ranks: 2", "weight_norm: deviation", "r.yaml:8:14: weight_norm: unknown value \"deviation\"; known: max, std"},
      {"ranks: 2", "shortcut_values: code", "r.yaml:8:18: shortcut_values: unknown value \"code\"; did you mean \"codes\"?"},
      {"ranks: 2", "layer_widths: {layer1.*: 9}", "r.yaml:8:16: layer_widths[\"layer1.*\"]: is \"9\"; must be 1 to 8, 16 or 32"},
      {"ranks: 2", "layer_widths: {conv2: [8]}", "layer_widths[\"conv2\"]: expected a text, found a list"},
      {"network: convnet28", "network: vgg", "r.yaml:3:1: network: \"vgg\" is not known"},
      {"network: convnet28\n", "", "r.yaml: network: is required"},
      {"OMP_NUM_THREADS", "LD_PRELOAD", "r.yaml:17:3: environment[\"LD_PRELOAD\"]: is not allowed"},
  };
  for (const Bad& bad : cases) EXPECT_THAT(Error(With(bad.from, bad.to)), HasSubstr(bad.message)) << bad.to;
}

TEST(RecipeTest, ListsAllFaultsAtOnce) {
  EXPECT_EQ(Error("nam: x\nranks: a\nwidths: 3\n"),
            "r.yaml:1:1: unknown key \"nam\"; did you mean \"name\"?\n"
            "r.yaml:2:8: ranks: expected a whole number, found \"a\"\n"
            "r.yaml:3:9: widths: expected a list such as [32, 8, 4], found \"3\"");
  const std::string resolved = Error(With("ranks: 2\nwidths: [32, 8, 4]", "ranks: 0\nwidths: [32, 8, 9]"));
  EXPECT_THAT(resolved, AllOf(HasSubstr("r.yaml:8:1: ranks"), HasSubstr("r.yaml:9:17: widths[2]")));
}

TEST(RecipeTest, RefusesTextsThatAreNoRecipe) {
  EXPECT_EQ(Error(""), "r.yaml:1:1: the recipe is empty");
  EXPECT_EQ(Error("# nothing\n"), "r.yaml:1:1: the recipe is empty");
  EXPECT_THAT(Error("just words"), HasSubstr("a recipe is keys with values"));
  EXPECT_THAT(Error("- 1\n- 2\n"), HasSubstr("a recipe is keys with values"));
  EXPECT_THAT(Error(std::string("\x7f"
                                "ELF\0",
                                5)),
              HasSubstr("not a text file"));
  EXPECT_THAT(Error(std::string(kMaxRecipeBytes + 1, '#')), HasSubstr("larger than 1 MiB"));
  EXPECT_THAT(Error("data: &a {x: *a}"), HasSubstr("anchors"));
  EXPECT_THAT(Error(std::string(2000, '[')), HasSubstr("nested deeper"));
}

TEST(RecipeTest, SetReplacesValuesOfEveryKind) {
  const auto recipe = ParseRecipe("r.yaml", kGood,
                                  {"widths=[32, 2]", "quantized.epochs=7", "order=per_width", "environment.OMP_WAIT_POLICY=passive", "name=with space: #",
                                   "momentum=0.5", "pretrain={epochs: 9}"});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_THAT(recipe->spec.widths(), ElementsAre(32, 2));
  EXPECT_EQ(recipe->spec.quantized().epochs(), 7);
  EXPECT_DOUBLE_EQ(recipe->spec.quantized().learning_rate(), 0.02) << "its neighbours stay";
  EXPECT_EQ(recipe->spec.order(), v1::STAGE_ORDER_PER_WIDTH);
  EXPECT_EQ(recipe->spec.environment().at("OMP_WAIT_POLICY"), "passive");
  EXPECT_EQ(recipe->spec.environment().at("OMP_NUM_THREADS"), "1");
  EXPECT_EQ(recipe->spec.name(), "with space: #");
  EXPECT_EQ(recipe->spec.pretrain().epochs(), 9);
  EXPECT_DOUBLE_EQ(recipe->spec.pretrain().learning_rate(), 0.05);
}

TEST(RecipeTest, SetOfADataPathClearsTheNameAndTheOtherWayRound) {
  auto recipe = ParseRecipe("r.yaml", kGood, {"data.path=/data"});
  ASSERT_TRUE(recipe.ok());
  EXPECT_EQ(recipe->spec.data().path(), "/data");
  EXPECT_EQ(recipe->spec.data().name(), "");
  recipe = ParseRecipe("r.yaml", kGood, {"data.path=/data", "data.name=other"});
  ASSERT_TRUE(recipe.ok());
  EXPECT_EQ(recipe->spec.data().path(), "");
  EXPECT_EQ(recipe->spec.data().name(), "other");
}

TEST(RecipeTest, WrongSetsNameTheOption) {
  EXPECT_THAT(Error(kGood, {"widths"}), StartsWith("--set widths: expected KEY=VALUE"));
  EXPECT_THAT(Error(kGood, {"=3"}), HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(Error(kGood, {"quantized.epoch=3"}), StartsWith("--set quantized.epoch=3: unknown key \"epoch\"; did you mean \"epochs\"?"));
  EXPECT_THAT(Error(kGood, {"ranks.x=3"}), HasSubstr("ranks has no keys of its own"));
  EXPECT_THAT(Error(kGood, {"quantized=3"}), HasSubstr("expected a group of keys"));
  EXPECT_THAT(Error(kGood, {"ranks="}), HasSubstr("a value is missing"));
  EXPECT_THAT(Error(kGood, {"widths=[32, 8"}), HasSubstr("not valid YAML"));
  EXPECT_THAT(Error(kGood, {"name=\xff"}), HasSubstr("control characters"));
  EXPECT_THAT(Error(kGood, {"widths=[8, 32]"}), HasSubstr("--set widths=[8, 32]: widths[1]: is 32 after 8"));
}

TEST(RecipeTest, DataPathsStartAtTheRecipeOrAtTheCurrentFolder) {
  const auto folder = std::filesystem::temp_directory_path() / ("bitstair-recipe-test-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder / "data");
  std::ofstream(folder / "r.yaml") << With("name: fashion_mnist", "path: data");
  auto recipe = ReadRecipe((folder / "r.yaml").string(), {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  auto spec = ResolveRecipe(*recipe, true);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->data().path(), std::filesystem::canonical(folder / "data").string());

  recipe = ReadRecipe((folder / "r.yaml").string(), {"initial_weights.path=w", "widths=[8]"});
  recipe->spec.clear_pretrain();
  const auto weights = ResolveRecipe(*recipe, false);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->initial_weights().path(), (std::filesystem::current_path() / "w").string());
  EXPECT_THAT(std::string(ResolveRecipe(*recipe, true).status().message()), AllOf(HasSubstr("--set initial_weights.path=w"), HasSubstr("No such file")));
  recipe = ReadRecipe((folder / "r.yaml").string(), {"data.path=nowhere"});
  ASSERT_TRUE(recipe.ok());
  spec = ResolveRecipe(*recipe, false);
  ASSERT_TRUE(spec.ok()) << "on another machine it may exist";
  EXPECT_EQ(spec->data().path(), (std::filesystem::current_path() / "nowhere").string());
  EXPECT_THAT(std::string(ResolveRecipe(*recipe, true).status().message()), AllOf(HasSubstr("--set data.path=nowhere"), HasSubstr("No such file")));

  EXPECT_EQ(ReadRecipe((folder / "absent.yaml").string(), {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadRecipe(folder.string(), {}).ok()) << "a folder";
  std::filesystem::remove_all(folder);
}

// Each by the checks of the coordinator, so that a renamed key or a tightened check cannot leave one behind.
TEST(RecipeTest, EveryShippedRecipeIsAccepted) {
  int recipes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(BITSTAIR_RECIPES)) {
    if (entry.path().extension() != ".yaml") continue;
    ++recipes;
    const auto recipe = ReadRecipe(entry.path().string(), {});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    const auto spec = ResolveRecipe(*recipe, false);
    EXPECT_TRUE(spec.ok()) << spec.status();
  }
  EXPECT_GT(recipes, 20);
}

// 10,000 broken recipes: each is read or refused with a place, and nothing crashes or hangs.
TEST(RecipeTest, MutatedRecipesNeverCrash) {
  std::mt19937 random(20240607);
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % std::max<size_t>(1, limit)); };
  const std::string pieces[] = {"[",
                                "]",
                                "{",
                                "}",
                                ":",
                                ": ",
                                "- ",
                                "\n",
                                "  ",
                                "&a ",
                                "*a",
                                "!!x ",
                                "|",
                                ">",
                                "\"",
                                "'",
                                "#",
                                "%",
                                "@",
                                "---\n",
                                "...\n",
                                "? ",
                                "~",
                                "1e999",
                                "-0",
                                "\t",
                                std::string(1, '\0'),
                                "\xff",
                                "\xef\xbb\xbf",
                                "<<: ",
                                "widths",
                                "99999999999999999999",
                                "\\u0000",
                                ","};
  int read = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string text = kGood;
    for (size_t edits = 1 + below(4); edits > 0; --edits) {
      const size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 1:
          text.erase(at, 1 + below(12));
          break;
        case 2:
          if (!text.empty()) text[std::min(at, text.size() - 1)] = static_cast<char>(below(256));
          break;
        case 3:
          text.insert(at, text.substr(below(text.size()), below(40)));
          break;
        default:
          text.resize(at);
      }
    }
    const std::string error = Error(text);
    if (error == "ok") {
      ++read;
    } else {
      EXPECT_THAT(error, StartsWith("r.yaml:")) << text;
    }
  }
  EXPECT_GT(read, 50);
  EXPECT_LT(read, 9000);
}

}  // namespace
}  // namespace bitstair::client
