#include "client/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitstair::client {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class CompletionTest : public testing::Test {
 protected:
  CompletionTest() : app_("A program.", "program") {
    app_.add_subcommand("hidden", "Nobody sees it")->group("");
    CLI::App* show = app_.add_subcommand("show", "Show jobs\nin two lines");
    show->add_option("job", jobs_, "The jobs")->type_name("JOB")->required()->expected(1, 2);
    show->add_option("-o,--output", text_, "Format")->type_name("table|json")->check(CLI::IsMember({"table", "json"}));
    show->add_option("--level", text_, "Level")->check(CLI::IsMember({"low", "high"}));
    show->add_option("--stage", text_, "Stage")->type_name("STAGE");
    show->add_option("--address", text_, "Where")->type_name("HOST:PORT");
    show->add_flag("-q,--quiet", flag_, "Quiet");
    show->add_flag("--secret", flag_, "Secret")->group("");
    CLI::App* run = app_.add_subcommand("run", "Run a recipe");
    run->add_option("recipe", text_, "Recipe")->type_name("RECIPE");
    run->add_option("--data", text_, "Data")->type_name("NAME=PATH");
    run->add_option("--state-dir", text_, "Folder")->type_name("DIR");
    run->add_option("--set", text_, "Key")->type_name("KEY=VALUE");
  }

  Completion At(const std::vector<std::string>& words) {
    return Complete(app_, words, [this](const std::string& kind, const std::string& text, const Given& given) {
      asked_ = kind + " " + text;
      given_ = given;
      Completion completion;
      if (kind == "JOB") completion.words = {{"smoke-1", "running"}, {"other-2", ""}};
      if (kind == "KEY=VALUE") completion.words = {{"widths=", ""}};
      completion.whole = kind != "KEY=VALUE";
      return completion;
    });
  }
  std::vector<std::string> Words(const std::vector<std::string>& words) {
    std::vector<std::string> texts;
    for (const auto& word : At(words).words) texts.push_back(word.text);
    return texts;
  }

  CLI::App app_;
  std::vector<std::string> jobs_;
  std::string text_;
  bool flag_ = false;
  std::string asked_;
  Given given_;
};

TEST_F(CompletionTest, CommandsAndOptionsThatHelpShows) {
  EXPECT_THAT(Words({""}), ElementsAre("show", "run"));
  EXPECT_THAT(Words({"s"}), ElementsAre("show"));
  EXPECT_THAT(Words({}), ElementsAre("show", "run"));
  EXPECT_THAT(Words({"show", "--"}), ElementsAre("--help", "--output", "--level", "--stage", "--address", "--quiet"));
  EXPECT_THAT(Words({"show", "--o"}), ElementsAre("--output"));
  EXPECT_THAT(Words({"nonsense", ""}), IsEmpty());
  EXPECT_EQ(At({"sh"}).words[0].description, "Show jobs");
}

TEST_F(CompletionTest, ValuesOfAFixedSet) {
  EXPECT_THAT(Words({"show", "--output", ""}), ElementsAre("table", "json"));
  EXPECT_THAT(Words({"show", "-o", "j"}), ElementsAre("json"));
  EXPECT_THAT(Words({"show", "--output=j"}), ElementsAre("--output=json"));
  EXPECT_THAT(Words({"show", "--level", ""}), ElementsAre("low", "high"));
  EXPECT_THAT(Words({"show", "--nonsense=j"}), IsEmpty());
}

TEST_F(CompletionTest, NamesAreAskedForWithWhatWasGiven) {
  EXPECT_THAT(Words({"show", "-q", "--address", "h:1", "sm"}), ElementsAre("smoke-1"));
  EXPECT_EQ(given_, (Given{{"--address", "h:1"}}));
  EXPECT_THAT(Words({"show", "smoke-1", "--address=h:2", "o"}), ElementsAre("other-2")) << "two may be given";
  EXPECT_EQ(given_, (Given{{"--address", "h:2"}, {"JOB", "smoke-1"}}));
  EXPECT_THAT(Words({"show", "smoke-1", "other-2", ""}), IsEmpty()) << "and no more";
  At({"show", "smoke-1", "--stage", "W"});
  EXPECT_EQ(asked_, "STAGE W");
  At({"show", "--address", "lo"});
  EXPECT_EQ(asked_, "HOST:PORT lo");
  EXPECT_THAT(Words({"show", "--", "-", ""}), ElementsAre("smoke-1", "other-2")) << "after -- nothing is an option";
}

TEST_F(CompletionTest, PathsAreTheShellsBusiness) {
  EXPECT_EQ(CompletionText(At({"run", ""})), "files\t\tyaml yml\n");
  EXPECT_EQ(CompletionText(At({"run", "--data", "mnist=/d"})), "files\tmnist=\t\n");
  EXPECT_EQ(CompletionText(At({"run", "--data=mnist=/d"})), "files\t--data=mnist=\t\n");
  EXPECT_EQ(CompletionText(At({"run", "--data", "mn"})), "words\n");
  EXPECT_EQ(CompletionText(At({"run", "--state-dir="})), "folders\t--state-dir=\n");
  EXPECT_EQ(CompletionText(At({"run", "x.yaml", "--set", "w"})), "words open\nwidths=\n");
  EXPECT_EQ(CompletionText(At({"show", "s"})), "words\nsmoke-1\trunning\n");
}

}  // namespace
}  // namespace bitstair::client
