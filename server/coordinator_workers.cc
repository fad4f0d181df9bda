// The fleet: hellos, leases, data sets, and what workers report about their attempts.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/digest/sha256.h"
#include "server/coordinator.h"
#include "server/job_view.h"
#include "server/resource_names.h"

namespace bitstair::server {
namespace {

constexpr size_t kMaxMessageBytes = 4096;  // of a text that a worker sends and that becomes durable
constexpr int kMaxSlots = 1024;
// How long the trainers of a fenced attempt may take to die before their slots count as free.
constexpr absl::Duration kFencePatience = absl::Seconds(10);
constexpr absl::Duration kGoneShown = absl::Minutes(5);

// Log lines may be cut inside a character, and protobuf strings must be UTF-8.
std::string Shorten(std::string text) {
  if (text.size() <= kMaxMessageBytes) return text;
  size_t begin = text.size() - kMaxMessageBytes;  // the end says most
  while (begin < text.size() && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) ++begin;
  return "..." + text.substr(begin);
}

absl::Status CheckHello(const v1::WorkerHello& hello) {
  const bool legal = !hello.worker_id().empty() && hello.worker_id().size() <= 64 && hello.worker_id() != "." && hello.worker_id() != ".." &&
                     std::all_of(hello.worker_id().begin(), hello.worker_id().end(), [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
                     });
  if (!legal) return absl::InvalidArgumentError("a worker's name must be 1 to 64 characters of A-Z, a-z, 0-9, '-', '_' and '.'");
  if (hello.incarnation().empty() || hello.incarnation().size() > 128) return absl::InvalidArgumentError("hello.incarnation is missing or too long");
  if (hello.protocol_version() < Coordinator::kOldestProtocolVersion || hello.protocol_version() > Coordinator::kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("worker ", hello.worker_id(), " speaks protocol version ", hello.protocol_version(),
                                                      "; this coordinator speaks ", Coordinator::kOldestProtocolVersion, " to ",
                                                      Coordinator::kProtocolVersion));
  }
  if (hello.slots_size() > kMaxSlots || hello.datasets_size() > kMaxSlots) return absl::InvalidArgumentError("hello has too many slots or data sets");
  std::set<int> indexes;
  for (const auto& slot : hello.slots()) {
    if (!indexes.insert(slot.index()).second) return absl::InvalidArgumentError(absl::StrCat("hello has slot ", slot.index(), " twice"));
  }
  return absl::OkStatus();
}

// Workers' ids are for machines; people know them by the name they were given.
const std::string& ShownName(const v1::WorkerHello& hello) {
  return hello.host().empty() ? hello.worker_id() : hello.host();
}

bool IsFinite(const v1::EpochResult& r) {
  for (const double value :
       {r.train_loss(), r.train_top1(), r.test_loss(), r.test_top1(), r.test_top5(), r.learning_rate(), r.seconds(), r.teacher().train_loss(),
        r.teacher().train_top1(), r.teacher().test_loss(), r.teacher().test_top1(), r.teacher().test_top5(), r.teacher().hint(), r.teacher().divergence()}) {
    if (!std::isfinite(value)) return false;
  }
  return std::all_of(r.students().begin(), r.students().end(),
                     [](const v1::StudentResult& s) { return std::isfinite(s.train_loss() + s.train_top1() + s.test_loss() + s.test_top1() + s.test_top5()); });
}

// Telemetry must not keep an epoch from being stored: a commit takes 1 MB.
constexpr size_t kMaxLayersBytes = 256 << 10;
constexpr size_t kMaxStepParts = 16;

v1::EpochResult WithSensibleLayers(v1::EpochResult result) {
  const bool sensible = std::all_of(result.layers().begin(), result.layers().end(), [](const v1::LayerTelemetry& layer) {
    return std::isfinite(layer.clipped_share()) && std::isfinite(layer.gradient_norm()) && std::isfinite(layer.hint_distance()) &&
           layer.levels_size() == layer.level_shares_size() &&
           std::all_of(layer.level_shares().begin(), layer.level_shares().end(), [](float share) { return std::isfinite(share); });
  });
  const auto& parts = result.step_seconds();
  if (parts.size() > kMaxStepParts || std::any_of(parts.begin(), parts.end(), [](const auto& part) { return !std::isfinite(part.second); })) {
    result.clear_step_seconds();
  }
  if (!sensible || result.ByteSizeLong() > kMaxLayersBytes) result.clear_layers();
  return result;
}

}  // namespace

void Coordinator::OnWorkerMessage(std::shared_ptr<WorkerStream> stream, v1::WorkerMessage message) {
  Post([this, stream = std::move(stream), message = std::move(message)]() mutable {
    if (message.has_hello()) return OnHello(stream, message.hello());
    const auto found = worker_of_stream_.find(stream.get());
    if (found == worker_of_stream_.end()) return stream->Close(absl::FailedPreconditionError("a worker's first message must be its hello"));
    WorkerEntry& worker = workers_.at(found->second);
    if (worker.stream != stream) return;  // replaced by a newer one
    worker.last_heard = Now();
    switch (message.kind_case()) {
      case v1::WorkerMessage::kHeartbeat:
      case v1::WorkerMessage::KIND_NOT_SET:
        return;
      case v1::WorkerMessage::kDatasetResolved:
        return OnDatasetResolved(&worker, message.dataset_resolved());
      case v1::WorkerMessage::kGoodbye:
        return LoseWorker(&worker, "the worker left", true);
      default:
        return OnAttemptMessage(&worker, std::move(message));
    }
  });
}

void Coordinator::OnWorkerStreamEnded(std::shared_ptr<WorkerStream> stream) {
  Post([this, stream = std::move(stream)] {
    const auto found = worker_of_stream_.find(stream.get());
    if (found == worker_of_stream_.end()) return;
    WorkerEntry& worker = workers_.at(found->second);
    worker_of_stream_.erase(found);
    if (worker.stream != stream) return;
    worker.stream = nullptr;
    UpdateWorker(worker);
    if (worker.state != v1::WORKER_STATE_GONE) spdlog::info("worker {} lost its stream; its lease goes on", ShownName(worker.hello));
    for (const auto& id : state_.active_jobs) SettleResolving(&jobs_.at(id));
    ScheduleSoon();
  });
}

void Coordinator::OnHello(const std::shared_ptr<WorkerStream>& stream, const v1::WorkerHello& hello) {
  if (worker_of_stream_.count(stream.get()) > 0) return stream->Close(absl::InvalidArgumentError("a second hello on one stream"));
  if (auto s = CheckHello(hello); !s.ok()) return stream->Close(s);
  if (stopped_ || leaving_) {
    v1::CoordinatorMessage goodbye;
    goodbye.mutable_goodbye();
    stream->Send(goodbye);
    return stream->Close(absl::UnavailableError("the coordinator is shutting down"));
  }
  WorkerEntry& worker = workers_[hello.worker_id()];
  if (worker.superseded.count(hello.incarnation()) > 0) {
    return stream->Close(absl::AlreadyExistsError(absl::StrCat("a newer process runs as worker ", hello.worker_id())));
  }
  // Unknown after a restart of the coordinator: then the worker may have been there all along.
  const bool same_incarnation = worker.hello.incarnation().empty() || worker.hello.incarnation() == hello.incarnation();
  if (!same_incarnation) worker.superseded.insert(worker.hello.incarnation());
  if (worker.stream) {
    worker.stream->Close(same_incarnation ? absl::AbortedError("replaced by a newer stream of the same worker")
                                          : absl::AlreadyExistsError(absl::StrCat("a newer process runs as worker ", hello.worker_id())));
    worker_of_stream_.erase(worker.stream.get());
  }
  worker.id = hello.worker_id();
  worker.hello = hello;
  worker.state = v1::WORKER_STATE_READY;
  worker.stream = stream;
  worker.last_heard = worker.connect_time = Now();
  worker.offers.clear();
  worker_of_stream_[stream.get()] = worker.id;

  std::map<std::string, std::pair<int, std::set<int>>> running;  // stage -> (generation, ranks)
  v1::CoordinatorMessage message;
  auto* welcome = message.mutable_welcome();
  welcome->set_protocol_version(std::min(hello.protocol_version(), kProtocolVersion));
  welcome->set_lease_seconds(absl::ToDoubleSeconds(options_.lease));
  welcome->set_grace_seconds(absl::ToDoubleSeconds(options_.grace));
  std::set<std::tuple<std::string, int, int>> alive;
  for (const auto& attempt : hello.running()) {
    const Stage* stage = FindStage(attempt.attempt().stage());
    for (const int rank : attempt.ranks()) alive.insert({attempt.attempt().stage(), attempt.attempt().generation(), rank});
    if (stage == nullptr || !stage->attempt.has_value() || stage->record.generation() != attempt.attempt().generation()) {
      *welcome->add_fenced() = attempt.attempt();
      continue;
    }
    running[attempt.attempt().stage()] = {attempt.attempt().generation(), {attempt.ranks().begin(), attempt.ranks().end()}};
  }
  // Slots of given-up attempts: free where their trainers are gone, else soon, for the worker is told to end them.
  for (auto it = worker.reserved.begin(); it != worker.reserved.end();) {
    if (alive.count(it->first) == 0) {
      it = worker.reserved.erase(it);
    } else {
      it->second.second = Now() + kFencePatience;
      ++it;
    }
  }
  stream->Send(message);
  spdlog::info("worker {} ({}) connected: {} slots, data sets [{}], {} attempts running, {} fenced", ShownName(hello), worker.id, hello.slots_size(),
               absl::StrJoin(hello.datasets(), ", "), running.size(), welcome->fenced_size());
  UpdateWorker(worker);
  Handle(WorkerBack{worker.id, same_incarnation, running, options_.lease});
  std::set<std::pair<absl::Time, std::string>> active;  // older jobs are asked for, and so planned, first
  for (const auto& id : state_.active_jobs) active.emplace(FromStamp(state_.jobs.at(id).record.create_time()), id);
  for (const auto& [created, id] : active) {
    JobEntry* entry = Find(id);
    entry->job->data.erase(worker.id);
    if (entry->committed) AskForData(*entry, &worker);
    SettleResolving(entry);
  }
  ScheduleSoon();
}

void Coordinator::AskForData(const JobEntry& entry, WorkerEntry* worker) {
  const auto& record = entry.job->record;
  if (!worker->stream || IsEnded(record.state())) return;
  v1::CoordinatorMessage message;
  message.mutable_resolve_dataset()->set_token(record.job_id());
  *message.mutable_resolve_dataset()->mutable_data() = record.spec().data();
  message.mutable_resolve_dataset()->set_weights_path(record.spec().initial_weights().path());
  worker->stream->Send(std::move(message));
}

void Coordinator::OnDatasetResolved(WorkerEntry* worker, const v1::DatasetResolved& resolved) {
  JobEntry* entry = Find(resolved.token());
  if (entry == nullptr || IsEnded(entry->job->record.state())) return;
  Job& job = *entry->job;
  DataAnswer answer;
  const bool with_weights = job.record.spec().has_initial_weights();
  if (core::IsSha256Hex(resolved.digest()) && (!with_weights || core::IsSha256Hex(resolved.weights_digest()))) {
    answer.digest = resolved.digest();
    if (with_weights) answer.weights_digest = resolved.weights_digest();
    const std::string& name = job.record.spec().data().name();
    if (!name.empty()) worker->digests[name] = answer.digest;
  } else if (resolved.not_offered()) {
    answer.absence = Shorten(resolved.error());
  } else {
    answer.error = resolved.error().empty() ? "the worker sent no digest" : Shorten(resolved.error());
  }
  job.data[worker->id] = answer;
  if (!answer.digest.empty()) {
    const auto& spec = job.record.spec();
    bool news = worker->offers.insert(DataKey(spec.data(), answer.digest, "", "")).second;
    if (with_weights) news = worker->offers.insert(DataKey(spec.data(), answer.digest, spec.initial_weights().path(), answer.weights_digest)).second || news;
    if (news) UpdateWorker(*worker);
  }
  if (job.record.state() == v1::JOB_STATE_RESOLVING && !answer.digest.empty()) {
    Handle(DataResolved{job.record.job_id(), answer.digest, answer.weights_digest, [this](const std::string& sha256) { return artifacts_->IsWhole(sha256); }});
  } else {
    SettleResolving(entry);
  }
  // What it joined is trained on the same bytes, and may name them otherwise.
  bool news = false;
  for (const auto& link : job.record.job_stages()) {
    const Stage* stage = FindStage(link.stage());
    if (stage != nullptr && HasDataOf(stage->record.spec(), answer)) news = worker->offers.insert(DataKey(stage->record.spec())).second || news;
  }
  if (news) UpdateWorker(*worker);
  ScheduleSoon();
}

// Says what a RESOLVING job waits for; fails it once every connected worker has answered, none with a digest and some with a fault in the data.
void Coordinator::SettleResolving(JobEntry* entry) {
  Job& job = *entry->job;
  if (job.record.state() != v1::JOB_STATE_RESOLVING) return;
  const std::string data = job.record.spec().data().name().empty() ? job.record.spec().data().path() : job.record.spec().data().name();
  int connected = 0, silent = 0;
  std::vector<std::string> errors, absences;
  for (const auto& [id, worker] : workers_) {
    if (!worker.stream) continue;
    ++connected;
    const auto answer = job.data.find(id);
    if (answer == job.data.end()) {
      ++silent;
    } else if (!answer->second.error.empty()) {
      errors.push_back(absl::StrCat("worker ", ShownName(worker.hello), ": ", answer->second.error));
    } else if (!answer->second.absence.empty() && absences.size() < 3) {
      absences.push_back(absl::StrCat("worker ", ShownName(worker.hello), ": ", answer->second.absence));
    }
  }
  std::string reason;
  if (connected == 0) {
    reason = absl::StrCat("waits for a worker that offers data set ", data, "; none is connected");
  } else if (silent > 0) {
    reason = absl::StrCat("waits for the digest of data set ", data);
  } else if (!errors.empty()) {
    return Handle(DataRejected{job.record.job_id(), Shorten(absl::StrCat("data set ", data, ": ", absl::StrJoin(errors, "; ")))});
  } else {
    reason = absl::StrCat("no worker offers data set ", data, absences.empty() ? "" : " (", absl::StrJoin(absences, "; "), absences.empty() ? "" : ")");
  }
  if (job.waits_for == reason) return;
  job.waits_for = reason;
  if (!entry->committed) return;
  RefreshView(state_, job, &entry->view);
  Notify(entry);
}

Stage* Coordinator::FindStage(const std::string& name) {
  const auto found = state_.stages.find(name);
  return found == state_.stages.end() ? nullptr : &found->second;
}

void Coordinator::OnAttemptMessage(WorkerEntry* worker, v1::WorkerMessage message) {
  const v1::AttemptId& attempt = message.has_rendezvous_ready()      ? message.rendezvous_ready().attempt()
                                 : message.has_rank_running()        ? message.rank_running().attempt()
                                 : message.has_progress()            ? message.progress().attempt()
                                 : message.has_epoch_done()          ? message.epoch_done().attempt()
                                 : message.has_log()                 ? message.log().attempt()
                                 : message.has_checkpoint_uploaded() ? message.checkpoint_uploaded().attempt()
                                                                     : message.rank_exited().attempt();
  const int generation = attempt.generation();
  if (message.has_rank_exited() && worker->reserved.erase({attempt.stage(), generation, message.rank_exited().rank()}) > 0) UpdateWorker(*worker);
  Stage* const found = FindStage(attempt.stage());
  if (found == nullptr) return;
  Stage& stage = *found;
  const std::string& name = attempt.stage();
  const auto owns = [&](int rank) {
    return rank >= 0 && rank < stage.record.ranks_size() && stage.record.generation() == generation && stage.record.ranks(rank).worker_id() == worker->id;
  };
  // Logs of ended and fenced attempts are still worth having.
  if (message.has_log()) {
    const auto& log = message.log();
    if (generation < 1 || generation > stage.record.generation() || log.rank() < 0 || log.rank() >= MostRanks(stage.record.spec())) return;
    boost::asio::post(log_thread_, [logs = logs_, file = LogFile{stage.record.job_id(), stage.record.spec().name(), generation, log.rank()},
                                    offset = log.offset(), text = log.text()] {
      if (auto s = logs->Append(file, offset, text); !s.ok()) spdlog::warn("{}", std::string(s.message()));
    });
    return;
  }
  if (generation != stage.record.generation()) return;  // fenced
  switch (message.kind_case()) {
    case v1::WorkerMessage::kRendezvousReady:
      return Handle(RendezvousOpened{name, generation, worker->id, message.rendezvous_ready().address()});
    case v1::WorkerMessage::kRankRunning:
      if (!owns(message.rank_running().rank())) return;
      Handle(RankRan{name, generation, message.rank_running().rank(), message.rank_running().pid()});
      ForJobsOf(stage, [this](JobEntry* entry, int) { RefreshView(state_, *entry->job, &entry->view); });
      return;
    case v1::WorkerMessage::kProgress:
      if (!owns(0) || !stage.attempt.has_value()) return;
      stage.progress = std::move(*message.mutable_progress()->mutable_progress());
      scheduler_.UpdateStage(state_, stage, Now());
      ForJobsOf(stage, [&](JobEntry* entry, int link) {
        metrics_->SetProgress(entry->job->record.job_id(), entry->job->record.job_stages(link).name(), *stage.progress);
      });
      return NotifyProgress(stage);
    case v1::WorkerMessage::kEpochDone: {
      if (!owns(0) || !IsFinite(message.epoch_done().result())) return;
      v1::EpochResult result = WithSensibleLayers(std::move(*message.mutable_epoch_done()->mutable_result()));
      ForJobsOf(stage, [&](JobEntry* entry, int link) { metrics_->SetEpoch(entry->job->record.job_id(), entry->job->record.job_stages(link).name(), result); });
      return Handle(EpochFinished{name, generation, std::move(result)});
    }
    case v1::WorkerMessage::kCheckpointUploaded: {
      const auto& checkpoint = message.checkpoint_uploaded().checkpoint();
      if (!owns(0)) return;
      if (!artifacts_->IsWhole(checkpoint.sha256())) {
        spdlog::warn("worker {} reports checkpoint {} of {}, which the artifact store does not hold", worker->id, checkpoint.sha256().substr(0, 64),
                     attempt.stage());
        return;
      }
      unused_checkpoints_.erase(checkpoint.sha256());
      return Handle(CheckpointStored{name, generation, checkpoint});
    }
    case v1::WorkerMessage::kRankExited: {
      const auto& exited = message.rank_exited();
      if (!owns(exited.rank())) return;
      return Handle(RankEnded{name, generation, exited.rank(), exited.cause(), Shorten(exited.message()), leaving_});
    }
    default:
      return;
  }
}

void Coordinator::CheckLeases() {
  const absl::Time now = Now();
  std::vector<std::string> forgotten;
  for (auto& [id, worker] : workers_) {
    const size_t reserved = worker.reserved.size();
    for (auto it = worker.reserved.begin(); it != worker.reserved.end();) it = it->second.second <= now ? worker.reserved.erase(it) : std::next(it);
    if (worker.reserved.size() != reserved) UpdateWorker(worker);
    if (worker.state == v1::WORKER_STATE_READY && now - worker.last_heard > options_.lease) {
      spdlog::warn("worker {} is unreachable: no word for {}", ShownName(worker.hello),
                   absl::FormatDuration(absl::Trunc(now - worker.last_heard, absl::Milliseconds(1))));
      worker.state = v1::WORKER_STATE_UNREACHABLE;
      UpdateWorker(worker);
      if (worker.stream) worker.stream->Close(absl::DeadlineExceededError("the lease ran out"));
      Handle(WorkerUnreachable{id});
    } else if (worker.state == v1::WORKER_STATE_UNREACHABLE && now - worker.last_heard > options_.lease + options_.grace) {
      LoseWorker(&worker, absl::StrCat("no word from it for ", absl::FormatDuration(absl::Trunc(now - worker.last_heard, absl::Seconds(1)))), false);
    } else if (worker.state == v1::WORKER_STATE_GONE && !worker.stream && now - worker.last_heard > kGoneShown) {
      forgotten.push_back(id);
    }
  }
  for (const auto& id : forgotten) {
    workers_.erase(id);
    scheduler_.RemoveWorker(id);
  }
}

void Coordinator::LoseWorker(WorkerEntry* worker, const std::string& message, bool left) {
  spdlog::info("worker {} is gone: {}", ShownName(worker->hello), message);
  worker->state = v1::WORKER_STATE_GONE;
  worker->reserved.clear();
  UpdateWorker(*worker);
  if (worker->stream) worker->stream->Close(absl::OkStatus());
  Handle(WorkerLost{worker->id, message, left});
  for (const auto& id : state_.active_jobs) SettleResolving(&jobs_.at(id));
  ScheduleSoon();
}

std::set<int> Coordinator::BusySlots(const WorkerEntry& worker) const {
  std::set<int> busy;
  for (const auto& [where, slot] : worker.reserved) busy.insert(slot.first);
  for (const auto& name : state_.live) {
    for (const auto& rank : state_.stages.at(name).attempt->ranks) {
      if (rank.worker_id == worker.id && !rank.exited) busy.insert(rank.slot);
    }
  }
  return busy;
}

v1::Worker Coordinator::MakeWorkerView(const WorkerEntry& worker) const {
  v1::Worker view;
  view.set_name("workers/" + worker.id);
  view.set_state(worker.state);
  *view.mutable_slots() = worker.hello.slots();
  const std::set<int> busy = BusySlots(worker);
  view.set_free_slots(
      static_cast<int>(std::count_if(worker.hello.slots().begin(), worker.hello.slots().end(), [&](const v1::Slot& s) { return busy.count(s.index()) == 0; })));
  for (const auto& name : worker.hello.datasets()) {
    auto* dataset = view.add_datasets();
    dataset->set_name(name);
    const auto digest = worker.digests.find(name);
    if (digest != worker.digests.end()) dataset->set_digest(digest->second);
    dataset->set_worker(view.name());
  }
  view.set_host(worker.hello.host());
  view.set_version(worker.hello.version());
  view.set_numeric_profile(worker.hello.numeric_profile());
  view.set_metrics_address(worker.hello.metrics_address());
  view.set_cordoned(cordoned_.count(worker.id) > 0);
  *view.mutable_labels() = worker.hello.labels();
  view.mutable_connect_time()->set_seconds(absl::ToUnixSeconds(worker.connect_time));
  return view;
}

void Coordinator::CordonWorker(std::string name, bool cordoned, bool stop_stages, Reply<v1::Worker> reply) {
  Post([this, name = std::move(name), cordoned, stop_stages, reply = std::move(reply)]() mutable {
    WorkerEntry* found = nullptr;
    std::vector<std::string> namesakes;
    for (auto& [id, worker] : workers_) {
      if (name == "workers/" + id) {
        found = &worker;
        namesakes = {id};
        break;
      }
      if (name != "workers/" + worker.hello.host()) continue;
      found = &worker;
      namesakes.push_back(id);
    }
    if (found == nullptr) return reply(absl::NotFoundError(absl::StrCat("there is no worker ", name)));
    if (namesakes.size() > 1) {
      return reply(absl::FailedPreconditionError(absl::StrCat("several workers are called ", name, "; say which by its id: ", absl::StrJoin(namesakes, ", "))));
    }
    cordoned ? (void)cordoned_.insert(found->id) : (void)cordoned_.erase(found->id);
    records::WorkerRecord record;
    record.set_worker_id(found->id);
    record.set_cordoned(cordoned);
    StoreCommit commit;
    commit.fence = fence_;
    cordoned ? commit.puts.push_back({"worker/" + found->id, record.SerializeAsString()}) : commit.deletes.push_back("worker/" + found->id);
    store_->Commit(std::move(commit), [this, id = found->id, stop_stages, reply = std::move(reply)](absl::StatusOr<int64_t> revision) {
      Post([this, id, stop_stages, reply, revision] {
        if (!revision.ok()) return Fatal(revision.status());
        const auto worker = workers_.find(id);
        if (worker == workers_.end()) return reply(absl::NotFoundError(absl::StrCat("worker ", id, " is gone")));
        spdlog::info("worker {} is {}", ShownName(worker->second.hello), stop_stages ? "being drained" : cordoned_.count(id) > 0 ? "cordoned" : "open again");
        const std::set<std::string> live = state_.live;
        for (const auto& stage : live) {
          const auto& ranks = state_.stages.at(stage).attempt->ranks;
          const bool here = std::any_of(ranks.begin(), ranks.end(), [&](const AttemptRank& rank) { return rank.worker_id == id && !rank.exited; });
          if (stop_stages && here) Handle(StopRequested{stage, absl::StrCat("worker ", ShownName(worker->second.hello), " is being drained")});
        }
        UpdateWorker(worker->second);
        reply(MakeWorkerView(worker->second));
      });
    });
  });
}

void Coordinator::ListWorkers(v1::ListWorkersRequest request, Reply<v1::ListWorkersResponse> reply) {
  PostReply<v1::ListWorkersResponse>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<v1::ListWorkersResponse> {
    const auto size = CheckPageSize(request.page_size());
    if (!size.ok()) return size.status();
    const auto after = ParsePageToken("workers", request.page_token());
    if (!after.ok()) return after.status();
    v1::ListWorkersResponse response;
    for (auto it = workers_.upper_bound(*after); it != workers_.end(); ++it) {
      if (response.workers_size() == *size) {
        response.set_next_page_token(MakePageToken("workers", std::prev(it)->first));
        break;
      }
      *response.add_workers() = MakeWorkerView(it->second);
    }
    return response;
  });
}

void Coordinator::ListDatasets(v1::ListDatasetsRequest request, Reply<v1::ListDatasetsResponse> reply) {
  PostReply<v1::ListDatasetsResponse>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<v1::ListDatasetsResponse> {
    const auto size = CheckPageSize(request.page_size());
    if (!size.ok()) return size.status();
    const auto after = ParsePageToken("datasets", request.page_token());
    if (!after.ok()) return after.status();
    std::map<std::string, v1::Dataset> all;  // by "NAME WORKER"
    for (const auto& [id, worker] : workers_) {
      if (!worker.stream) continue;
      const v1::Worker view = MakeWorkerView(worker);
      for (const auto& dataset : view.datasets()) all[absl::StrCat(dataset.name(), " ", id)] = dataset;
    }
    v1::ListDatasetsResponse response;
    for (auto it = all.upper_bound(*after); it != all.end(); ++it) {
      if (response.datasets_size() == *size) {
        response.set_next_page_token(MakePageToken("datasets", std::prev(it)->first));
        break;
      }
      *response.add_datasets() = it->second;
    }
    return response;
  });
}

}  // namespace bitstair::server
