#include "client/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "absl/time/clock.h"
#include "client/contexts.h"
#include "core/files/durable_file.h"
#include "tests/support/certificates.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest() : file_(directory_.path() + "/config/config.yaml") {
    for (const char* name : {"BITSTAIR_COORDINATOR", "BITSTAIR_CONTEXT"}) unsetenv(name);
    setenv("BITSTAIR_CONFIG", file_.c_str(), 1);
  }
  std::string File(const std::string& name, const std::string& text) {
    const std::string path = directory_.path() + "/" + name;
    EXPECT_TRUE(core::WriteFileDurably(path, text).ok());
    return path;
  }
  // What is wrong with the flags.
  static std::string Refusal(const ConnectionFlags& flags) {
    const auto connection = ResolveConnection(flags);
    EXPECT_FALSE(connection.ok());
    return std::string(connection.status().message());
  }

  testing::TemporaryDirectory directory_;
  const std::string file_;
};

TEST_F(ConnectionTest, LoopbackWithoutAWord) {
  const auto connection = ResolveConnection({});
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_EQ(connection->address, "127.0.0.1:7420");
  EXPECT_FALSE(connection->options.tls);
  EXPECT_EQ(connection->options.token, "");
}

TEST_F(ConnectionTest, FlagsGoBeforeTheEnvironmentAndThatBeforeTheCurrentContext) {
  Contexts contexts;
  contexts.by_name["lab"] = {.coordinator = "127.0.0.1:1"};
  contexts.by_name["home"] = {.coordinator = "127.0.0.1:2"};
  contexts.current = "lab";
  ASSERT_TRUE(SaveContexts(file_, contexts).ok());
  EXPECT_EQ(ResolveConnection({})->address, "127.0.0.1:1");
  setenv("BITSTAIR_CONTEXT", "home", 1);
  EXPECT_EQ(ResolveConnection({})->address, "127.0.0.1:2");
  setenv("BITSTAIR_COORDINATOR", "127.0.0.1:3", 1);
  EXPECT_EQ(ResolveConnection({})->address, "127.0.0.1:3");
  EXPECT_EQ(ResolveConnection({.context = "lab"})->address, "127.0.0.1:1");
  EXPECT_EQ(ResolveConnection({.coordinator = "127.0.0.1:4"})->address, "127.0.0.1:4");
  EXPECT_THAT(Refusal({.coordinator = "127.0.0.1:4", .context = "lab"}), HasSubstr("two coordinators"));
  EXPECT_THAT(Refusal({.context = "nowhere"}), HasSubstr("no context \"nowhere\""));
  setenv("BITSTAIR_COORDINATOR", "nonsense", 1);
  EXPECT_THAT(Refusal({}), HasSubstr("is not HOST:PORT"));
}

// Or a token would go to whoever listens at another address.
TEST_F(ConnectionTest, AContextsTokenStaysWithItsCoordinator) {
  Contexts contexts;
  contexts.by_name["lab"] = {.coordinator = "127.0.0.1:1", .token_file = File("lab.token", "bitstair_1_2\n")};
  contexts.current = "lab";
  ASSERT_TRUE(SaveContexts(file_, contexts).ok());
  EXPECT_EQ(ResolveConnection({})->options.token, "bitstair_1_2");
  EXPECT_EQ(ResolveConnection({.coordinator = "127.0.0.1:4"})->options.token, "");
}

TEST_F(ConnectionTest, NothingGoesUnencryptedOverANetworkUnlessItIsMeant) {
  const std::string token = File("a.token", "bitstair_0123_secretword");
  const auto server = testing::MakeServerCertificate(directory_.path(), absl::Now() + absl::Hours(1));
  EXPECT_THAT(Refusal({.coordinator = "192.0.2.1:7420"}), HasSubstr("--tls-ca"));
  EXPECT_TRUE(ResolveConnection({.coordinator = "192.0.2.1:7420", .insecure = true}).ok());
  const std::string refusal = Refusal({.coordinator = "192.0.2.1:7420", .token_file = token, .insecure = true});
  EXPECT_THAT(refusal, HasSubstr("refusing to send a token"));
  EXPECT_THAT(refusal, Not(HasSubstr("secretword")));
  const auto connection = ResolveConnection({.coordinator = "192.0.2.1:7420", .tls_ca = server.certificate, .token_file = token});
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_TRUE(connection->options.tls);
  EXPECT_EQ(connection->options.tls_ca, server.certificate);
  EXPECT_EQ(connection->options.token, "bitstair_0123_secretword");
  EXPECT_TRUE(ResolveConnection({.coordinator = "192.0.2.1:7420", .tls = true})->options.tls);
}

TEST_F(ConnectionTest, FilesThatAreNotWhatTheyShouldBeAreNamed) {
  const std::string no_token = File("no.token", "two\nlines"), nothing = directory_.path() + "/nothing";
  EXPECT_THAT(Refusal({.token_file = no_token}), HasSubstr("no.token does not hold a token"));
  EXPECT_THAT(Refusal({.token_file = nothing}), HasSubstr("--token-file: "));
  EXPECT_THAT(Refusal({.tls_ca = no_token}), HasSubstr("no.token holds no certificate"));
  EXPECT_THAT(Refusal({.tls_ca = nothing}), HasSubstr("--tls-ca: "));
}

TEST_F(ConnectionTest, TheConfigurationFileIsReadAsItWasWritten) {
  Contexts contexts;
  contexts.by_name["a.b-c_1"] = {.coordinator = "[::1]:7420", .tls_ca = "/x: y/\"ca\".crt", .token_file = "/t", .tls = true, .insecure = true};
  contexts.by_name["plain"] = {.coordinator = "h:1"};
  contexts.current = "plain";
  ASSERT_TRUE(SaveContexts(file_, contexts).ok());
  const auto read = LoadContexts(file_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->current, "plain");
  ASSERT_EQ(read->by_name.size(), 2u);
  const Context& context = read->by_name.at("a.b-c_1");
  EXPECT_EQ(context.coordinator, "[::1]:7420");
  EXPECT_EQ(context.tls_ca, "/x: y/\"ca\".crt");
  EXPECT_EQ(context.token_file, "/t");
  EXPECT_TRUE(context.tls && context.insecure);
  EXPECT_EQ(std::filesystem::status(file_).permissions(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_TRUE(LoadContexts(directory_.path() + "/none")->by_name.empty());
}

TEST_F(ConnectionTest, FaultsOfTheConfigurationFileHaveTheirPlace) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"- a", ":1:1: must be a map"},
      {"contexts: {a: {coordinator: 'h:1', password: x}}", "\"password\" is not coordinator"},
      {"contexts: {a: {tls: true}}", "coordinator is missing"},
      {"contexts: {a: {coordinator: 'h:1', tls: maybe}}", "true or false"},
      {"contexts: {'a b': {coordinator: 'h:1'}}", "a context's name must be"},
      {"contexts: {a: 1}", "a context must be a map"},
      {"current: b\ncontexts: {a: {coordinator: 'h:1'}}", ":1:10: there is no context \"b\""},
      {"other: 1", "neither current nor"},
      {"{", ":1:"},
  };
  for (const auto& [text, message] : cases) {
    const std::string file = File("bad.yaml", text);
    const auto read = LoadContexts(file);
    EXPECT_TRUE(absl::IsInvalidArgument(read.status())) << text;
    EXPECT_THAT(std::string(read.status().message()), ::testing::AllOf(HasSubstr(file + ":"), HasSubstr(message))) << text;
  }
}

}  // namespace
}  // namespace bitstair::client
