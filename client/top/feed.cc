#include "client/top/feed.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/progress.h"

namespace bitstair::client::top {
namespace {

constexpr absl::Duration kPeriod = absl::Seconds(1);
// More than a screen shows; a full list of a busy coordinator would take its time.
constexpr int kMostActive = 500;
constexpr int kMostNewest = 20;
// Lists come without epochs; each job more is a call more.
constexpr int kMostDetailed = 32;

double Now() {
  return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
}

}  // namespace

absl::Status Ask(Client& client, const std::string& selected, Model& model) {
  auto workers = client.ListWorkers();
  if (!workers.ok()) return workers.status();
  auto jobs = client.ListJobs("state=ACTIVE", kMostActive);
  if (!jobs.ok()) return jobs.status();
  auto newest = client.ListJobs("", kMostNewest);
  if (!newest.ok()) return newest.status();
  for (v1::Job& job : *newest) {
    if (IsEnded(job.state())) jobs->push_back(std::move(job));
  }
  SortJobs(*jobs);
  int detailed = 0;
  for (v1::Job& job : *jobs) {
    const bool runs = job.state() == v1::JOB_STATE_RUNNING && detailed < kMostDetailed;
    if (!runs && job.name() != selected) continue;
    ++detailed;
    auto whole = client.GetJob(job.name());
    if (whole.ok()) {
      job = *std::move(whole);
    } else if (!absl::IsNotFound(whole.status())) {
      return whole.status();
    }
  }
  model.workers = *std::move(workers);
  model.jobs = *std::move(jobs);
  SortJobs(model.jobs);  // some may have ended between the calls
  model.loaded = true;
  return absl::OkStatus();
}

Feed::Feed(Client& client, std::function<void()> on_news)
    : client_(client), on_news_(std::move(on_news)), last_answer_(std::chrono::steady_clock::now()), thread_([this] { Run(); }) {}

Feed::~Feed() {
  {
    const absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  client_.Stop();
  thread_.join();
}

Model Feed::Get() const {
  const absl::MutexLock lock(&mutex_);
  Model model = model_;
  model.coordinator = client_.address();
  model.now = Now();
  model.silent_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - last_answer_).count();
  return model;
}

void Feed::Select(const std::string& job) {
  const absl::MutexLock lock(&mutex_);
  if (selected_ == job) return;
  selected_ = job;
  ask_now_ = true;
}

void Feed::Run() {
  while (true) {
    std::string selected;
    Model next;
    {
      const absl::MutexLock lock(&mutex_);
      if (stop_) return;
      selected = selected_;
      ask_now_ = false;
    }
    const absl::Status status = Ask(client_, selected, next);
    {
      const absl::MutexLock lock(&mutex_);
      if (stop_) return;
      if (status.ok()) {
        model_ = std::move(next);
        last_answer_ = std::chrono::steady_clock::now();
      } else {
        model_.error = std::string(status.message());
      }
    }
    on_news_();
    const absl::MutexLock lock(&mutex_);
    const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || ask_now_; };
    mutex_.AwaitWithTimeout(absl::Condition(&wanted), kPeriod);
  }
}

}  // namespace bitstair::client::top
