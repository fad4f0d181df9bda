// bitstair config: coordinators by name, in the user's configuration file.
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/contexts.h"
#include "client/json.h"
#include "client/table.h"

namespace bitstair::client {
namespace {

struct ConfigArguments {
  std::string name;
  std::string output;
  Context context;
};

int Refuse(const absl::Status& status) {
  Complain(std::string(status.message()));
  return kWrongUsage;
}

std::string Absolute(const std::string& file) {
  return file.empty() ? file : std::filesystem::absolute(file).lexically_normal().string();
}

// Loads, changes and saves.
template <typename Change>
int Edit(Change change) {
  const std::string file = ContextsFile();
  auto contexts = LoadContexts(file);
  if (!contexts.ok()) return Refuse(contexts.status());
  if (auto s = change(*contexts); !s.ok()) return Refuse(s);
  if (auto s = SaveContexts(file, *contexts); !s.ok()) return Refuse(s);
  return kDone;
}

absl::Status NoContext(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("there is no context \"", name, "\"; bitstair config list shows them"));
}

int RunSet(const ConfigArguments& arguments) {
  ConnectionFlags flags;
  flags.coordinator = arguments.context.coordinator;
  flags.tls = arguments.context.tls;
  flags.tls_ca = arguments.context.tls_ca;
  flags.token_file = arguments.context.token_file;
  flags.insecure = arguments.context.insecure;
  if (const auto connection = ResolveConnection(flags); !connection.ok()) return Refuse(connection.status());
  return Edit([&](Contexts& contexts) {
    Context context = arguments.context;
    context.tls_ca = Absolute(context.tls_ca);
    context.token_file = Absolute(context.token_file);
    contexts.by_name[arguments.name] = context;
    if (contexts.current.empty()) contexts.current = arguments.name;
    return absl::OkStatus();
  });
}

int RunUse(const ConfigArguments& arguments) {
  return Edit([&](Contexts& contexts) {
    if (!contexts.by_name.contains(arguments.name)) return NoContext(arguments.name);
    contexts.current = arguments.name;
    return absl::OkStatus();
  });
}

int RunRemove(const ConfigArguments& arguments) {
  return Edit([&](Contexts& contexts) {
    if (contexts.by_name.erase(arguments.name) == 0) return NoContext(arguments.name);
    if (contexts.current == arguments.name) contexts.current.clear();
    return absl::OkStatus();
  });
}

int RunList(const ConfigArguments& arguments) {
  const std::string file = ContextsFile();
  const auto contexts = LoadContexts(file);
  if (!contexts.ok()) return Refuse(contexts.status());
  Json result = {{"file", file}, {"current", contexts->current}, {"contexts", Json::array()}};
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, context] : contexts->by_name) {
    result["contexts"].push_back({{"name", name},
                                  {"coordinator", context.coordinator},
                                  {"tls", context.tls || !context.tls_ca.empty()},
                                  {"tls_ca", context.tls_ca},
                                  {"token_file", context.token_file},
                                  {"insecure", context.insecure}});
    const std::string security = !context.tls_ca.empty() ? context.tls_ca : context.tls ? "system's authorities" : context.insecure ? "insecure" : "-";
    rows.push_back({name == contexts->current ? "*" : "", name, context.coordinator, security, context.token_file.empty() ? "-" : context.token_file});
  }
  if (arguments.output != "table") {
    Print(Dump(result, arguments.output));
  } else if (rows.empty()) {
    Complain(absl::StrCat("no contexts in ", file, "; bitstair config set NAME --coordinator HOST:PORT adds one"));
  } else {
    Print(Table({"", "context", "coordinator", "tls", "token"}, std::vector<Align>(5, Align::kLeft), rows));
  }
  return kDone;
}

}  // namespace

void RegisterConfig(CLI::App& app, int& exit_code) {
  CLI::App* group = app.add_subcommand("config", "Name coordinators, and choose the one that commands speak to");
  group->require_subcommand(1);
  group->footer("The file is $BITSTAIR_CONFIG, else ~/.config/bitstair/config.yaml. Tokens stay in files of their own.");
  const auto add = [&](const std::string& name, const std::string& help, int (*run)(const ConfigArguments&)) {
    auto arguments = std::make_shared<ConfigArguments>();
    CLI::App* command = group->add_subcommand(name, help);
    command->callback([arguments, &exit_code, run] { exit_code = run(*arguments); });
    return std::pair(command, arguments);
  };
  const auto add_name = [](CLI::App* command, ConfigArguments& arguments) {
    command->add_option("name", arguments.name, "Of the context")->type_name("CONTEXT")->required()->check([](const std::string& text) {
      return IsContextName(text) ? std::string() : "a context's name must be 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'";
    });
  };

  auto [set, set_arguments] = add("set", "Add a context or replace it; the first one becomes current", RunSet);
  add_name(set, *set_arguments);
  set->add_option("--coordinator", set_arguments->context.coordinator, "Where it listens")->type_name("HOST:PORT")->required();
  set->add_flag("--tls", set_arguments->context.tls, "With TLS, to a certificate that the system's authorities vouch for");
  set->add_option("--tls-ca", set_arguments->context.tls_ca, "With TLS, to a certificate that these authorities vouch for (PEM)")->type_name("FILE");
  set->add_option("--token-file", set_arguments->context.token_file, "Who you are there: a token, in a file")->type_name("FILE");
  set->add_flag("--insecure", set_arguments->context.insecure, "Allow an address other than loopback without encryption");
  set->footer("Examples:\n  bitstair config set lab --coordinator lab.example.org:7420 --tls-ca lab.crt --token-file ~/lab.token");

  auto [use, use_arguments] = add("use", "Make a context current", RunUse);
  add_name(use, *use_arguments);
  auto [remove, remove_arguments] = add("remove", "Forget a context", RunRemove);
  add_name(remove, *remove_arguments);
  auto [list, list_arguments] = add("list", "List contexts", RunList);
  AddOutput(*list, list_arguments->output, {"table", "json", "yaml"});
}

}  // namespace bitstair::client
