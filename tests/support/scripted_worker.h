// A worker's stream that a test plays by hand. Heartbeats and data set questions are answered by themselves.
#pragma once

#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitstair/v1/fleet.grpc.pb.h"
#include "tests/support/job_specs.h"

namespace bitstair::testing {

class ScriptedWorker {
 public:
  struct Options {
    std::string name = "w1";
    int slots = 2;
    std::string incarnation = "1";
    std::map<std::string, std::string> datasets = {{"fashion_mnist", kDigestA}};
    std::map<std::string, std::string> weights;  // path -> digest
    std::string data_error;                      // answer to every data question
    std::vector<v1::RunningAttempt> running;
    int protocol_version = 1;
    std::map<std::string, std::string> labels;
    std::string hostname;
  };

  ScriptedWorker(v1::Fleet::Stub* stub, Options options) : options_(std::move(options)), stream_(stub->Connect(&context_)) {
    v1::WorkerMessage message;
    auto* hello = message.mutable_hello();
    hello->set_worker_id(options_.name);
    hello->set_incarnation(options_.incarnation);
    hello->set_protocol_version(options_.protocol_version);
    hello->set_numeric_profile("cpu");
    hello->mutable_labels()->insert(options_.labels.begin(), options_.labels.end());
    hello->set_hostname(options_.hostname);
    for (int i = 0; i < options_.slots; ++i) {
      hello->add_slots()->set_index(i);
      hello->mutable_slots(i)->set_kind(v1::SLOT_KIND_CPU);
    }
    for (const auto& [name, digest] : options_.datasets) hello->add_datasets(name);
    for (const auto& running : options_.running) *hello->add_running() = running;
    Send(message);
    reader_ = std::thread([this] { ReadLoop(); });
    heart_ = std::thread([this] { BeatLoop(); });
  }

  ~ScriptedWorker() { Disconnect(); }

  // Like a process that is killed: the stream breaks.
  void Disconnect() {
    context_.TryCancel();
    Silence();
    if (reader_.joinable()) reader_.join();
    if (heart_.joinable()) heart_.join();
  }

  // No more heartbeats, though the stream stays.
  void Silence() {
    absl::MutexLock lock(&mutex_);
    silent_ = true;
  }

  void Send(const v1::WorkerMessage& message) {
    absl::MutexLock lock(&write_mutex_);
    stream_->Write(message);
  }

  // The next message of this kind, within 10 s; earlier ones of other kinds stay for later calls.
  v1::CoordinatorMessage Expect(v1::CoordinatorMessage::KindCase kind) {
    absl::MutexLock lock(&mutex_);
    const auto first = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return std::find_if(inbox_.begin(), inbox_.end(), [&](const v1::CoordinatorMessage& m) { return m.kind_case() == kind; });
    };
    const auto arrived = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return first() != inbox_.end(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&arrived), absl::Seconds(10))) {
      ADD_FAILURE() << options_.name << " waited in vain for message kind " << kind;
      return {};
    }
    const auto position = first();
    v1::CoordinatorMessage found = std::move(*position);
    inbox_.erase(position);
    return found;
  }
  v1::AssignAttempt ExpectAssign() { return Expect(v1::CoordinatorMessage::kAssign).assign(); }

  bool Has(v1::CoordinatorMessage::KindCase kind) {
    absl::MutexLock lock(&mutex_);
    for (const auto& message : inbox_) {
      if (message.kind_case() == kind) return true;
    }
    return false;
  }

  // The stream's status once the coordinator has ended it.
  grpc::Status WaitForEnd() {
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ended_), absl::Seconds(10))) ADD_FAILURE() << "the stream did not end";
    return status_;
  }

  // Reports, for the ranks of `assign`.
  void Running(const v1::AssignAttempt& assign) {
    for (const auto& rank : assign.ranks()) {
      v1::WorkerMessage message;
      *message.mutable_rank_running()->mutable_attempt() = assign.attempt();
      message.mutable_rank_running()->set_rank(rank.rank());
      message.mutable_rank_running()->set_pid(1000 + rank.rank());
      Send(message);
    }
  }
  void Epoch(const v1::AttemptId& attempt, int epoch, double top1 = 50) {
    v1::WorkerMessage message;
    *message.mutable_epoch_done()->mutable_attempt() = attempt;
    message.mutable_epoch_done()->mutable_result()->set_epoch(epoch);
    message.mutable_epoch_done()->mutable_result()->set_test_top1(top1);
    Send(message);
  }
  void Progress(const v1::AttemptId& attempt, int64_t step) {
    v1::WorkerMessage message;
    *message.mutable_progress()->mutable_attempt() = attempt;
    message.mutable_progress()->mutable_progress()->set_step(step);
    Send(message);
  }
  void Checkpoint(const v1::AttemptId& attempt, const std::string& sha256, int epoch, bool final) {
    v1::WorkerMessage message;
    *message.mutable_checkpoint_uploaded()->mutable_attempt() = attempt;
    auto* checkpoint = message.mutable_checkpoint_uploaded()->mutable_checkpoint();
    checkpoint->set_sha256(sha256);
    checkpoint->set_epoch(epoch);
    checkpoint->set_final(final);
    Send(message);
  }
  void Exit(const v1::AttemptId& attempt, int rank, v1::ExitCause cause, const std::string& text = "") {
    v1::WorkerMessage message;
    *message.mutable_rank_exited()->mutable_attempt() = attempt;
    message.mutable_rank_exited()->set_rank(rank);
    message.mutable_rank_exited()->set_cause(cause);
    message.mutable_rank_exited()->set_message(text);
    Send(message);
  }
  void Log(const v1::AttemptId& attempt, int rank, int64_t offset, const std::string& text) {
    v1::WorkerMessage message;
    *message.mutable_log()->mutable_attempt() = attempt;
    message.mutable_log()->set_rank(rank);
    message.mutable_log()->set_offset(offset);
    message.mutable_log()->set_text(text);
    Send(message);
  }
  // Everything that a stage's success needs.
  void Finish(const v1::AssignAttempt& assign, const std::string& sha256) {
    Running(assign);
    for (int epoch = 1; epoch <= assign.spec().epochs(); ++epoch) Epoch(assign.attempt(), epoch);
    Checkpoint(assign.attempt(), sha256, assign.spec().epochs(), true);
    Expect(v1::CoordinatorMessage::kCheckpointCommitted);
    for (const auto& rank : assign.ranks()) Exit(assign.attempt(), rank.rank(), v1::EXIT_CAUSE_FINISHED);
  }

 private:
  void ReadLoop() {
    v1::CoordinatorMessage message;
    while (stream_->Read(&message)) {
      if (message.has_resolve_dataset()) {
        Answer(message.resolve_dataset());
        continue;
      }
      absl::MutexLock lock(&mutex_);
      inbox_.push_back(message);
    }
    const grpc::Status status = stream_->Finish();
    absl::MutexLock lock(&mutex_);
    status_ = status;
    ended_ = true;
  }

  void Answer(const v1::ResolveDataset& question) {
    v1::WorkerMessage message;
    auto* answer = message.mutable_dataset_resolved();
    answer->set_token(question.token());
    const auto found = options_.datasets.find(question.data().name());
    if (!options_.data_error.empty()) {
      answer->set_error(options_.data_error);
    } else if (found == options_.datasets.end() || (!question.weights_path().empty() && options_.weights.count(question.weights_path()) == 0)) {
      answer->set_not_offered(true);
    } else {
      if (!question.weights_path().empty()) answer->set_weights_digest(options_.weights.at(question.weights_path()));
      answer->set_digest(found->second);
    }
    Send(message);
  }

  void BeatLoop() {
    v1::WorkerMessage beat;
    beat.mutable_heartbeat();
    absl::MutexLock lock(&mutex_);
    while (true) {
      const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return silent_ || ended_; };
      if (mutex_.AwaitWithTimeout(absl::Condition(&over), absl::Milliseconds(100))) return;
      mutex_.Unlock();
      Send(beat);
      mutex_.Lock();
    }
  }

  const Options options_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>> stream_;
  absl::Mutex write_mutex_;
  absl::Mutex mutex_;
  std::deque<v1::CoordinatorMessage> inbox_ ABSL_GUARDED_BY(mutex_);
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
  std::thread reader_, heart_;
};

}  // namespace bitstair::testing
