// The built `bitstair` as a script sees it: exit status, stdout, stderr.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "client/child_process.h"

namespace bitstair::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr char kRecipe[] = R"(name: demo
network: convnet28
data: {name: fashion_mnist}
ranks: 2
widths: [32, 4]
two_stage: true
pretrain: {epochs: 2}
quantized: {epochs: 2}
)";

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

class CommandLineTest : public testing::Test {
 protected:
  CommandLineTest() : folder_(std::filesystem::temp_directory_path() / ("bitstair-cli-test-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
    recipe_ = Write("demo.yaml", kRecipe);
    unsetenv("BITSTAIR_COORDINATOR");
    setenv("XDG_STATE_HOME", (folder_ / "state").c_str(), 1);
    setenv("BITSTAIR_CONFIG", (folder_ / "config.yaml").c_str(), 1);
  }
  ~CommandLineTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }

  static std::string ReadAll(const std::filesystem::path& path) {
    std::stringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  Outcome Run(const std::vector<std::string>& arguments) const {
    std::string script = "exec \"$@\" >" + (folder_ / "out").string() + " 2>" + (folder_ / "err").string();
    std::vector<std::string> all{"-c", script, "sh", BITSTAIR_PROGRAM};
    all.insert(all.end(), arguments.begin(), arguments.end());
    auto child = ChildProcess::Start("/bin/sh", all, (folder_ / "log").string());
    EXPECT_TRUE(child.ok()) << child.status();
    Outcome outcome;
    if (!child->WaitExit(std::chrono::seconds(60))) {
      child->Kill(SIGKILL);
      ADD_FAILURE() << "hangs: " << arguments[0];
    }
    const std::string text = child->ExitText();
    if (text.rfind("exit status ", 0) == 0) outcome.status = std::stoi(text.substr(12));
    outcome.out = ReadAll(folder_ / "out");
    outcome.err = ReadAll(folder_ / "err");
    return outcome;
  }

  const std::filesystem::path folder_;
  std::string recipe_;
};

TEST_F(CommandLineTest, EveryCommandHasHelpWithExamples) {
  for (const char* command :
       {"run",   "submit", "list",  "describe", "watch",  "logs",    "cancel",  "pause",    "resume", "retry",  "prioritize", "cordon",    "uncordon",
        "drain", "pin",    "unpin", "gc",       "report", "compare", "workers", "validate", "plan",   "health", "top",        "completion"}) {
    const Outcome outcome = Run({command, "--help"});
    EXPECT_EQ(outcome.status, 0) << command;
    EXPECT_THAT(outcome.out, AllOf(HasSubstr("Examples:"), HasSubstr(std::string("bitstair ") + command))) << command;
    EXPECT_THAT(outcome.err, IsEmpty()) << command;
  }
  EXPECT_THAT(Run({"--help"}).out, HasSubstr("Examples:"));
  EXPECT_THAT(Run({"--version"}).out,
              AllOf(StartsWith("bitstair 0."), HasSubstr("\ncommit "), HasSubstr("\nLibTorch "), HasSubstr("\nCUDA "), HasSubstr("\nfeatures ")));
}

TEST_F(CommandLineTest, WrongUsageIsTwoWithAMessageOnStderr) {
  const std::vector<std::vector<std::string>> cases = {{},
                                                       {"frobnicate"},
                                                       {"run"},
                                                       {"describe"},
                                                       {"describe", "a b"},
                                                       {"describe", "../x"},
                                                       {"pause"},
                                                       {"prioritize", "x"},
                                                       {"prioritize", "x", "--priority", "highest"},
                                                       {"drain"},
                                                       {"list", "--nonsense"},
                                                       {"list", "--output", "xml"},
                                                       {"list", "--limit", "x"},
                                                       {"list", "--coordinator", "nowhere"},
                                                       {"completion"},
                                                       {"completion", "fish"},
                                                       {"top", "--output", "xml"},
                                                       {"list", "--coordinator", "127.0.0.1:0"},
                                                       {"list", "--coordinator", "127.0.0.1:99999"},
                                                       {"logs", "a", "--rank", "-1"},
                                                       {"plan", recipe_, "--output", "table"},
                                                       {"run", recipe_, "--slots", "0"},
                                                       {"run", recipe_, "--slots", "1"},
                                                       {"run", recipe_, "--data", "nonsense"},
                                                       {"run", recipe_, "--data", "x=/nowhere/at/all"},
                                                       {"run", recipe_, "--set", "data.path=/nowhere/at/all"}};
  for (const auto& arguments : cases) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.status, 2) << testing::PrintToString(arguments);
    EXPECT_THAT(outcome.err, HasSubstr("bitstair: ")) << testing::PrintToString(arguments);
    EXPECT_THAT(outcome.out, IsEmpty()) << testing::PrintToString(arguments);
  }
  EXPECT_THAT(Run({"frobnicate"}).err, HasSubstr("frobnicate"));
  EXPECT_THAT(Run({"run", recipe_, "--set", "data.path=/nowhere/at/all"}).err, HasSubstr("/nowhere/at/all"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "state")) << "nothing was started";
}

TEST_F(CommandLineTest, WrongRecipesAreTwoWithFileAndLine) {
  const std::string bad = Write("bad.yaml", std::string(kRecipe) + "widht: 3\nranks: x\n");
  for (const char* command : {"validate", "plan", "run", "submit"}) {
    const Outcome outcome = Run({command, bad});
    EXPECT_EQ(outcome.status, 2) << command;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("bad.yaml:10:1: "), HasSubstr("appears twice"))) << command;
    EXPECT_THAT(outcome.out, IsEmpty()) << command;
  }
  EXPECT_THAT(Run({"validate", (folder_ / "absent.yaml").string()}).err, HasSubstr("absent.yaml"));
  EXPECT_EQ(Run({"validate", folder_.string()}).status, 2);
  EXPECT_EQ(Run({"validate", Write("binary.yaml", std::string("\0\1\2", 3))}).status, 2);
}

TEST_F(CommandLineTest, AnUnreachableCoordinatorIsThreeQuicklyAndNamed) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{{"list"},
                                                                                       {"describe", "x"},
                                                                                       {"watch", "x"},
                                                                                       {"logs", "x"},
                                                                                       {"logs", "x", "--stage", "W4A4", "-f"},
                                                                                       {"cancel", "x"},
                                                                                       {"workers"},
                                                                                       {"health"},
                                                                                       {"top"},
                                                                                       {"submit", recipe_}}) {
    std::vector<std::string> arguments = command;
    arguments.insert(arguments.end(), {"--coordinator", "127.0.0.1:1"});
    const auto begin = std::chrono::steady_clock::now();
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.status, 3) << command[0];
    EXPECT_THAT(outcome.err, HasSubstr("127.0.0.1:1")) << command[0];
    EXPECT_THAT(outcome.out, IsEmpty()) << command[0];
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(8)) << command[0];
  }
  setenv("BITSTAIR_COORDINATOR", "127.0.0.1:2", 1);
  EXPECT_THAT(Run({"health"}).err, HasSubstr("127.0.0.1:2"));
  unsetenv("BITSTAIR_COORDINATOR");
}

TEST_F(CommandLineTest, ValidateAndPlanNeedNoCoordinator) {
  Outcome outcome = Run({"validate", recipe_});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("demo.yaml: ok"), HasSubstr("W32A32 -> W4A32 -> W4A4")));
  outcome = Run({"validate", recipe_, "--output", "json", "--set", "ranks=0"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["ok"], false);
  outcome = Run({"plan", recipe_, "--set", "widths=[32, 8]", "--output", "json"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["stages"][2]["name"], "W8A8");
  EXPECT_THAT(Run({"plan", recipe_, "--output", "dot"}).out, HasSubstr("\"W4A32\" -> \"W4A4\""));
  EXPECT_THAT(Run({"plan", recipe_}).out, Not(HasSubstr("\x1b")));
}

TEST_F(CommandLineTest, AStateFolderThatCannotBeUsedIsTwoAndNamed) {
  const std::string file = Write("file", "x");
  const Outcome outcome = Run({"run", recipe_, "--state-dir", file});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.err, HasSubstr(file));
}

TEST_F(CommandLineTest, AFullOutputIsAFailure) {
  const std::string script = "exec \"$0\" plan \"$1\" >/dev/full 2>/dev/null";
  auto child = ChildProcess::Start("/bin/sh", {"-c", script, BITSTAIR_PROGRAM, recipe_}, (folder_ / "log").string());
  ASSERT_TRUE(child.ok());
  ASSERT_TRUE(child->WaitExit(std::chrono::seconds(20)));
  EXPECT_EQ(child->ExitText(), "exit status 1");
}

}  // namespace
}  // namespace bitstair::client
