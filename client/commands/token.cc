// bitstair token: who may use a coordinator (docs/security.md).
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct TokenArguments {
  ConnectionFlags coordinator;
  std::string output;
  std::string role;
  std::string name;
  std::vector<std::string> queues;
  std::string ttl;
  std::string token;
};

std::string RoleWord(v1::Role role) {
  const auto* value = v1::Role_descriptor()->FindValueByNumber(role);
  return value == nullptr ? absl::StrCat(static_cast<int>(role)) : absl::AsciiStrToLower(EnumWord(*value));
}

std::string TimeOr(bool has, const google::protobuf::Timestamp& time, const char* otherwise) {
  return has ? ShortTime(time) : otherwise;
}

std::string StateOf(const v1::Token& token) {
  if (token.has_revoke_time()) return "revoked";
  if (token.has_spend_time()) return "spent";
  if (token.has_expire_time() && token.expire_time().seconds() <= time(nullptr)) return "expired";
  return "in force";
}

int RunCreate(const TokenArguments& arguments) {
  v1::Token wanted;
  v1::Role role = v1::ROLE_UNSPECIFIED;
  v1::Role_Parse(absl::StrCat("ROLE_", absl::AsciiStrToUpper(arguments.role)), &role);
  wanted.set_role(role);
  wanted.set_display_name(arguments.name);
  for (const std::string& queue : arguments.queues) wanted.add_queues(queue);
  const int64_t ttl = arguments.ttl == "never" ? 0 : arguments.ttl.empty() ? -1 : SecondsOf(arguments.ttl);
  Client client(Connect(arguments.coordinator));
  const auto made = client.CreateToken(wanted, std::chrono::seconds(ttl));
  if (!made.ok()) return Fail(made.status(), client.address());
  if (arguments.output != "table") {
    Print(Dump(ToJson(*made), arguments.output));
    return kDone;
  }
  Print(absl::StrCat(made->secret(), "\n"));
  const v1::Token& token = made->token();
  Complain(absl::StrCat(token.name(), ", role ", RoleWord(token.role()), token.queues().empty() ? "" : ", queues " + absl::StrJoin(token.queues(), ", "),
                        ", expires ", TimeOr(token.has_expire_time(), token.expire_time(), "never"),
                        ". The token is shown this once; keep it in a file that only its user can read."));
  return kDone;
}

int RunList(const TokenArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  const auto tokens = client.ListTokens();
  if (!tokens.ok()) return Fail(tokens.status(), client.address());
  if (arguments.output != "table") {
    Json result = {{"tokens", Json::array()}};
    for (const v1::Token& token : *tokens) result["tokens"].push_back(ToJson(token));
    Print(Dump(result, arguments.output));
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Token& token : *tokens) {
    rows.push_back({ShortName(token.name()), token.display_name().empty() ? "-" : token.display_name(), RoleWord(token.role()), StateOf(token),
                    token.queues().empty() ? "-" : absl::StrJoin(token.queues(), ","), ShortTime(token.create_time()),
                    TimeOr(token.has_expire_time(), token.expire_time(), "never"), token.creator()});
  }
  using enum Align;
  Print(Table({"token", "whose", "role", "state", "queues", "created", "expires", "by"}, std::vector<Align>(8, kLeft), rows));
  return kDone;
}

int RunRevoke(const TokenArguments& arguments) {
  Client client(Connect(arguments.coordinator));
  const auto token = client.RevokeToken(arguments.token);
  if (!token.ok()) return Fail(token.status(), client.address());
  if (arguments.output == "table") {
    Print(absl::StrCat(token->name(), ": revoked\n"));
  } else {
    Print(Dump(ToJson(*token), arguments.output));
  }
  return kDone;
}

CLI::App* Add(CLI::App& group, const std::string& name, const std::string& help, const std::shared_ptr<TokenArguments>& arguments, int& exit_code,
              int (*run)(const TokenArguments&)) {
  CLI::App* command = group.add_subcommand(name, help);
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->callback([arguments, &exit_code, run] { exit_code = run(*arguments); });
  return command;
}

}  // namespace

void RegisterToken(CLI::App& app, int& exit_code) {
  CLI::App* group = app.add_subcommand("token", "Give people and workers access to a coordinator, or take it back");
  group->require_subcommand(1);

  auto create = std::make_shared<TokenArguments>();
  CLI::App* command = Add(*group, "create", "Make a token and print it, this once", create, exit_code, RunCreate);
  command->add_option("--role", create->role, "viewer sees all; submitter also submits and changes jobs; admin may do everything; join: for one new worker")
      ->type_name("viewer|submitter|admin|join")
      ->required()
      ->check(CLI::IsMember({"viewer", "submitter", "admin", "join"}));
  command->add_option("--name", create->name, "Whose token it is; needed but for join")->type_name("NAME");
  command->add_option("--queue", create->queues, "A queue that a submitter may use; may be repeated (default: all)")->type_name("QUEUE");
  command->add_option("--ttl", create->ttl, "How long it is good (30d, 12h, 45m, 90s), or never (default: 365d; join 1h)")
      ->type_name("AGE")
      ->check([](const std::string& text) { return text == "never" || SecondsOf(text) > 0 ? std::string() : "must be never, or like 30d, 12h, 45m or 90s"; });
  command->footer(
      "Examples:\n  bitstair token create --role submitter --name alice --queue vision > alice.token\n"
      "  bitstair token create --role join > worker.token        # then: bitstair-worker --join-token-file worker.token ...");

  Add(*group, "list", "List tokens and workers' certificates; never their secrets", std::make_shared<TokenArguments>(), exit_code, RunList)
      ->footer("Examples:\n  bitstair token list --output json | jq '.tokens[] | select(.role == \"ADMIN\")'");

  auto revoke = std::make_shared<TokenArguments>();
  command = Add(*group, "revoke", "Take a token or a worker's certificate back; calls under way end", revoke, exit_code, RunRevoke);
  command->add_option("token", revoke->token, "Its name, as bitstair token list shows it")->type_name("TOKEN")->required();
  command->footer("Examples:\n  bitstair token revoke 0a1b2c3d4e");
}

}  // namespace bitstair::client
