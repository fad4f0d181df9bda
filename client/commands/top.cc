// bitstair top: the fleet and its jobs on the whole terminal, live. What is drawn: client/top/render.h.
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/child_process.h"
#include "client/commands/command.h"
#include "client/interrupt.h"
#include "client/json.h"
#include "client/terminal.h"
#include "client/top/feed.h"
#include "client/top/render.h"
#include "client/top/screen.h"

namespace bitstair::client {
namespace {

using std::chrono::milliseconds;

// An answer that takes longer is no contact; the picture says so and the next question follows.
constexpr milliseconds kAnswerWithin{5'000};
constexpr int kRedrawMs = 1'000;  // the clock
constexpr int kColumnsOffTerminal = 120;

struct TopArguments {
  ConnectionFlags coordinator;
  std::string output;
  bool once = false;
};

int PrintOnce(Client& client, const std::string& output) {
  top::Model model;
  if (const absl::Status status = top::Ask(client, "", model); !status.ok()) return Fail(status, client.address());
  model.coordinator = client.address();
  model.now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  if (output != "table") {
    Json result = {{"coordinator", model.coordinator}, {"workers", Json::array()}, {"jobs", Json::array()}};
    for (const v1::Worker& worker : model.workers) result["workers"].push_back(ToJson(worker));
    for (const v1::Job& job : model.jobs) result["jobs"].push_back(JobJson(job, false));
    Print(Dump(result, output));
    return kDone;
  }
  Print(PlainText(Render(model, top::View(), {0, TerminalWidth(STDOUT_FILENO, kColumnsOffTerminal)}, IsUtf8Locale())));
  return kDone;
}

sigset_t Only(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

// A signal that the loop reads instead of being interrupted by; to be called before the first thread.
UniqueFd WatchWindowSize() {
  const sigset_t set = Only(SIGWINCH);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

void Drain(int fd) {
  char bytes[sizeof(signalfd_siginfo)];
  while (read(fd, bytes, sizeof(bytes)) > 0) {
  }
}

// Until q (kDone), a signal (kInterrupted) or the terminal's end.
int Show(top::Screen& screen, top::Feed& feed, const Interrupt& interrupt, const UniqueFd& window, const UniqueFd& news) {
  const bool unicode = IsUtf8Locale();
  top::View view;
  top::Model model = feed.Get();
  while (true) {
    screen.Draw(Render(model, view, screen.size(), unicode));
    pollfd watched[] = {{STDIN_FILENO, POLLIN, 0}, {interrupt.fd(), POLLIN, 0}, {window.get(), POLLIN, 0}, {news.get(), POLLIN, 0}};
    poll(watched, 4, kRedrawMs);
    if (watched[1].revents != 0 || (watched[0].revents & (POLLHUP | POLLERR)) != 0) return kInterrupted;
    if (watched[2].revents != 0) {
      Drain(window.get());
      screen.Resize();
    }
    if (watched[3].revents != 0) Drain(news.get());
    top::Model now = feed.Get();
    Settle(model, now, view);
    model = std::move(now);
    for (top::Key key = screen.ReadKey(); key != top::Key::kNone; key = screen.ReadKey()) {
      if (!OnKey(key, model, view)) return kDone;
    }
    feed.Select(view.selected);
  }
}

int RunTop(const TopArguments& arguments) {
  if (arguments.once || arguments.output != "table" || !IsTerminal(STDOUT_FILENO) || !IsTerminal(STDIN_FILENO)) {
    Client client(Connect(arguments.coordinator, kAnswerWithin));
    return PrintOnce(client, arguments.output);
  }
  // Before gRPC's threads, which would take the signals otherwise.
  const UniqueFd window = WatchWindowSize();
  const Interrupt interrupt;
  // ncurses answers Ctrl-Z in the thread that gets it, which must be the one that draws.
  const sigset_t stop = Only(SIGTSTP);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  const UniqueFd news(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Client client(Connect(arguments.coordinator, kAnswerWithin));
  top::Feed feed(client, [&news] {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(news.get(), &one, sizeof(one));  // full: it is readable anyway
  });
  const auto screen = top::Screen::Open(HasColor());
  if (!screen.ok()) {
    Complain(std::string(screen.status().message()));
    return kWrongUsage;
  }
  pthread_sigmask(SIG_UNBLOCK, &stop, nullptr);
  return Show(**screen, feed, interrupt, window, news);
}

}  // namespace

void RegisterTop(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<TopArguments>();
  CLI::App* command = app.add_subcommand("top", "Show the fleet, its jobs and their stages live on the whole terminal; q leaves, ? helps");
  command->add_flag("--once", arguments->once, "Print one picture and leave, as it does off a terminal");
  AddOutput(*command, arguments->output, {"table", "json", "yaml"});
  AddCoordinator(*command, arguments->coordinator);
  command->footer("Examples:\n  bitstair top\n  bitstair top --once\n  bitstair top --output json | jq '.workers[].free_slots'");
  command->callback([arguments, &exit_code] { exit_code = RunTop(*arguments); });
}

}  // namespace bitstair::client
