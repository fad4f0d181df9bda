#include "worker/outbox.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

namespace bitstair::worker {
namespace {

constexpr int64_t kLogChunkBytes = 64 << 10;
// What a coordinator that died may have received but not written.
constexpr int64_t kLogRepeatBytes = 256 << 10;

const v1::AttemptId& AttemptOf(const v1::WorkerMessage& message) {
  switch (message.kind_case()) {
    case v1::WorkerMessage::kRendezvousReady:
      return message.rendezvous_ready().attempt();
    case v1::WorkerMessage::kRankRunning:
      return message.rank_running().attempt();
    case v1::WorkerMessage::kEpochDone:
      return message.epoch_done().attempt();
    case v1::WorkerMessage::kCheckpointUploaded:
      return message.checkpoint_uploaded().attempt();
    default:
      return message.rank_exited().attempt();
  }
}

}  // namespace

Outbox::Attempt& Outbox::Of(const v1::AttemptId& id) {
  Attempt& attempt = attempts_[KeyOf(id)];
  if (attempt.id.stage().empty()) attempt.id = id;
  return attempt;
}

void Outbox::PushOnce(v1::WorkerMessage message) {
  once_.push_back(std::move(message));
}

void Outbox::PushEvent(v1::WorkerMessage message) {
  Attempt& attempt = Of(AttemptOf(message));
  attempt.events.push_back({std::move(message), std::nullopt});
}

void Outbox::SetProgress(const v1::AttemptId& id, const v1::StageProgress& progress) {
  Of(id).progress = progress;
}

void Outbox::LogGrew(const v1::AttemptId& id, int rank, const std::string& path, int64_t size) {
  Log& log = Of(id).logs[rank];
  log.path = path;
  log.size = size;
}

std::optional<v1::WorkerMessage> Outbox::NextLog(Attempt& attempt, int rank) {
  const auto found = attempt.logs.find(rank);
  if (found == attempt.logs.end() || found->second.sent >= found->second.size) return std::nullopt;
  Log& log = found->second;
  std::string text(static_cast<size_t>(std::min(kLogChunkBytes, log.size - log.sent)), '\0');
  const int fd = open(log.path.c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t got = fd < 0 ? -1 : pread(fd, text.data(), text.size(), log.sent);
  if (fd >= 0) close(fd);
  if (got <= 0) {  // the file is gone or damaged: what was in it is lost, and that must hold up nothing else
    log.sent = log.size;
    return std::nullopt;
  }
  text.resize(static_cast<size_t>(got));
  v1::WorkerMessage message;
  v1::LogChunk& chunk = *message.mutable_log();
  *chunk.mutable_attempt() = attempt.id;
  chunk.set_rank(rank);
  chunk.set_offset(log.sent);
  chunk.set_text(std::move(text));
  log.sent += got;
  return message;
}

std::optional<v1::WorkerMessage> Outbox::Next(TimePoint now) {
  if (!once_.empty()) {
    v1::WorkerMessage message = std::move(once_.front());
    once_.pop_front();
    return message;
  }
  auto entry = attempts_.upper_bound(last_served_);
  for (size_t i = 0; i < attempts_.size(); ++i, ++entry) {
    if (entry == attempts_.end()) entry = attempts_.begin();
    Attempt& attempt = entry->second;
    std::optional<v1::WorkerMessage> message;
    const auto event = std::find_if(attempt.events.begin(), attempt.events.end(), [](const Event& e) { return !e.sent.has_value(); });
    if (event != attempt.events.end()) {
      // A rank's end comes after its log.
      if (event->message.has_rank_exited()) message = NextLog(attempt, event->message.rank_exited().rank());
      if (!message.has_value()) {
        event->sent = now;
        message = event->message;
      }
    }
    if (!message.has_value() && attempt.progress.has_value()) {
      message.emplace();
      *message->mutable_progress()->mutable_attempt() = attempt.id;
      *message->mutable_progress()->mutable_progress() = *attempt.progress;
      attempt.progress.reset();
    }
    for (auto log = attempt.logs.begin(); !message.has_value() && log != attempt.logs.end(); ++log) message = NextLog(attempt, log->first);
    if (message.has_value()) {
      last_served_ = entry->first;
      return message;
    }
  }
  return std::nullopt;
}

void Outbox::OnDisconnected() {
  once_.clear();
  for (auto& [key, attempt] : attempts_) {
    for (Event& event : attempt.events) event.sent.reset();
    for (auto& [rank, log] : attempt.logs) log.sent = std::max<int64_t>(0, log.sent - kLogRepeatBytes);
  }
}

void Outbox::CheckpointCommitted(const AttemptKey& key, const std::string& sha256) {
  const auto found = attempts_.find(key);
  if (found == attempts_.end()) return;
  auto& events = found->second.events;
  events.erase(
      std::remove_if(events.begin(), events.end(),
                     [&](const Event& e) { return e.message.has_checkpoint_uploaded() && e.message.checkpoint_uploaded().checkpoint().sha256() == sha256; }),
      events.end());
}

void Outbox::Expire(TimePoint sent_before) {
  for (auto& [key, attempt] : attempts_) {
    const bool ended = attempt.ended;
    attempt.events.erase(std::remove_if(attempt.events.begin(), attempt.events.end(),
                                        [&](const Event& e) {
                                          if (!e.sent.has_value() || *e.sent >= sent_before) return false;
                                          return ended || e.message.has_epoch_done();
                                        }),
                         attempt.events.end());
  }
}

void Outbox::AttemptEnded(const AttemptKey& key) {
  if (const auto found = attempts_.find(key); found != attempts_.end()) {
    found->second.ended = true;
    found->second.progress.reset();
  }
}

bool Outbox::Done(const AttemptKey& key) const {
  const auto found = attempts_.find(key);
  return found == attempts_.end() || found->second.events.empty();
}

bool Outbox::Flushed() const {
  if (!once_.empty()) return false;
  for (const auto& [key, attempt] : attempts_) {
    for (const Event& event : attempt.events) {
      if (!event.sent.has_value() || event.message.has_checkpoint_uploaded()) return false;
    }
    for (const auto& [rank, log] : attempt.logs) {
      if (log.sent < log.size) return false;
    }
  }
  return true;
}

void Outbox::Forget(const AttemptKey& key) {
  attempts_.erase(key);
}

}  // namespace bitstair::worker
