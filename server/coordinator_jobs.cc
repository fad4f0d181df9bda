// What people ask of the coordinator: jobs, their stages, events, metrics and logs.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/digest/sha256.h"
#include "core/random/secure_random.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/status.h"
#include "server/coordinator.h"
#include "server/job_spec.h"
#include "server/job_view.h"
#include "server/resource_names.h"

namespace bitstair::server {
namespace {

absl::Status CheckRequestId(const std::string& id) {
  const bool legal = id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
                     });
  return legal ? absl::OkStatus() : InvalidFields({{"request_id", "must be at most 64 characters of A-Z, a-z, 0-9, '-' and '_'"}});
}

std::string DigestOf(const v1::JobSpec& spec) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&coded);
  }
  return core::Sha256Hex(bytes);
}

// The same faults with the paths that the request has.
absl::Status PrefixFields(const absl::Status& status) {
  std::vector<FieldViolation> violations = GetFieldViolations(status);
  for (auto& violation : violations) violation.field = "spec." + violation.field;
  return WithReason(InvalidFields(violations), "INVALID_SPEC");
}

absl::Status WrongState(const Job& job, const char* reason) {
  const std::string state = v1::JobState_Name(job.record.state()).substr(sizeof("JOB_STATE_") - 1);
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(JobName(job.record.job_id()), IsEnded(job.record.state()) ? " has ended: it is " : " is ", state)), reason);
}

constexpr size_t kMaxPageBytes = 1 << 20;  // of metrics; gRPC's messages end at 4 MiB

// Elements `first`.. of a list, at most one page; the token is the next page's first index.
template <typename Add>
absl::StatusOr<std::string> AddPage(const std::string& scope, int page_size, const std::string& page_token, int64_t first, int64_t end, Add add) {
  const auto size = CheckPageSize(page_size);
  if (!size.ok()) return size.status();
  const auto after = ParsePageToken(scope, page_token);
  if (!after.ok()) return after.status();
  int64_t next = first;
  if (!after->empty() && !absl::SimpleAtoi(*after, &next)) return InvalidFields({{"page_token", "is not a token of this list"}});
  next = std::max(next, first);
  for (int count = 0; count < *size && next < end; ++count) add(next++);
  return next < end ? MakePageToken(scope, absl::StrCat(next)) : "";
}

}  // namespace

std::string Coordinator::NewJobId(const std::string& name) {
  std::string id;
  do {
    id = absl::StrCat(name, "-", core::SecureRandomHex(4));
  } while (jobs_.count(id) > 0);
  return id;
}

void Coordinator::CreateJob(v1::CreateJobRequest request, Reply<v1::Job> reply) {
  Post([this, request = std::move(request), reply = std::move(reply)]() mutable { DoCreateJob(std::move(request), std::move(reply)); });
}

void Coordinator::DoCreateJob(v1::CreateJobRequest request, Reply<v1::Job> reply) {
  if (auto s = CheckRequestId(request.request_id()); !s.ok()) return reply(s);
  auto spec = ResolveJobSpec(request.spec());
  if (!spec.ok()) return reply(PrefixFields(spec.status()));
  if (request.validate_only()) return reply(Preview(*spec));
  const std::string digest = DigestOf(request.spec());
  if (!request.request_id().empty()) {
    const auto earlier = request_ids_.find(request.request_id());
    if (earlier != request_ids_.end()) {
      JobEntry& entry = jobs_.at(earlier->second);
      if (entry.job->record.request_digest() != digest) {
        return reply(WithReason(
            absl::AlreadyExistsError(absl::StrCat("request_id ", request.request_id(), " was used for another spec, that of ", JobName(earlier->second))),
            "REQUEST_ID_REUSED"));
      }
      return AfterCommits([this, id = earlier->second, reply = std::move(reply)] { reply(jobs_.at(id).view); });
    }
  }
  if (leaving_ || stopped_ || failed_) return reply(absl::UnavailableError("the coordinator is shutting down"));
  const std::string id = NewJobId(spec->name());
  JobEntry& entry = jobs_[id];
  entry.job = &state_.jobs[id];
  auto& record = entry.job->record;
  record.set_job_id(id);
  *record.mutable_spec() = *std::move(spec);
  record.set_state(v1::JOB_STATE_RESOLVING);
  SetTime(Now(), record.mutable_create_time());
  record.set_request_id(request.request_id());
  record.set_request_digest(digest);
  records::EventRecord event;
  *event.mutable_time() = record.create_time();
  event.set_type("JobCreated");
  entry.job->events.push_back(std::move(event));
  ++entry.job->next_event;
  if (!request.request_id().empty()) request_ids_[request.request_id()] = id;
  state_.active_jobs.insert(id);
  SettleResolving(&entry);
  Outcome outcome;
  outcome.jobs_changed.insert(id);
  outcome.events_added[id] = 1;
  Persist(std::move(outcome));
  AfterCommits([this, id, reply = std::move(reply)] {
    JobEntry& created = jobs_.at(id);
    reply(created.view);
    for (auto& [name, worker] : workers_) AskForData(created, &worker);
  });
}

void Coordinator::GetJob(std::string name, Reply<v1::Job> reply) {
  PostReply<v1::Job>(std::move(reply), [this, name = std::move(name)]() -> absl::StatusOr<v1::Job> {
    const auto entry = FindByName(name, "name");
    if (!entry.ok()) return entry.status();
    ExplainStages(*entry);
    RefreshView(state_, *(*entry)->job, &(*entry)->view);
    v1::Job view = (*entry)->view;
    Forecast(*(*entry)->job, &view);
    return view;
  });
}

void Coordinator::ListJobs(v1::ListJobsRequest request, Reply<v1::ListJobsResponse> reply) {
  PostReply<v1::ListJobsResponse>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<v1::ListJobsResponse> {
    const auto filter = ParseJobFilter(request.filter());
    if (!filter.ok()) return filter.status();
    const auto size = CheckPageSize(request.page_size());
    if (!size.ok()) return size.status();
    const std::string scope = "jobs?" + request.filter();
    const auto after = ParsePageToken(scope, request.page_token());
    if (!after.ok()) return after.status();
    std::optional<JobIndex::Place> last;
    if (!after->empty()) {
      // The key is "NANOS ID" of the last job of the page before.
      const size_t blank = after->find(' ');
      int64_t nanos = 0;
      if (blank == std::string::npos || !absl::SimpleAtoi(after->substr(0, blank), &nanos))
        return InvalidFields({{"page_token", "is not a token of this list"}});
      last = {absl::FromUnixNanos(nanos), after->substr(blank + 1)};
    }
    v1::ListJobsResponse response;
    index_.Visit(*filter, last, [&](const JobIndex::Place& place) {
      if (response.jobs_size() == *size) {
        response.set_next_page_token(MakePageToken(scope, absl::StrCat(absl::ToUnixNanos(last->first), " ", last->second)));
        return false;
      }
      v1::Job* job = response.add_jobs();
      *job = jobs_.at(place.second).view;
      for (auto& stage : *job->mutable_stages()) stage.clear_epochs();
      last = place;
      return true;
    });
    return response;
  });
}

void Coordinator::ChangeJob(std::string name, std::function<absl::Status(const Job&)> check, std::function<Event(const std::string& job_id)> event,
                            Reply<v1::Job> reply) {
  Post([this, name = std::move(name), check = std::move(check), event = std::move(event), reply = std::move(reply)]() mutable {
    const auto found = FindByName(name, "name");
    if (!found.ok()) return reply(found.status());
    JobEntry* entry = *found;
    if (auto s = check(*entry->job); !s.ok()) {
      return AfterCommits([s, reply = std::move(reply)] { reply(s); });
    }
    const bool had_ended = IsEnded(entry->job->record.state());
    Handle(event(entry->job->record.job_id()));
    // Workers that came since its end were not asked for its data.
    for (auto& [id, worker] : workers_) {
      if (had_ended) AskForData(*entry, &worker);
    }
    AfterCommits([entry, reply = std::move(reply)] { reply(entry->view); });
  });
}

void Coordinator::CancelJob(std::string name, Reply<v1::Job> reply) {
  ChangeJob(
      std::move(name), [](const Job& job) { return IsEnded(job.record.state()) ? WrongState(job, "JOB_ENDED") : absl::OkStatus(); },
      [](const std::string& id) -> Event { return CancelRequested{id}; }, std::move(reply));
}

void Coordinator::PauseJob(std::string name, Reply<v1::Job> reply) {
  ChangeJob(
      std::move(name),
      [](const Job& job) {
        const auto state = job.record.state();
        if (IsEnded(state)) return WrongState(job, "JOB_ENDED");
        return state == v1::JOB_STATE_PENDING || state == v1::JOB_STATE_RUNNING ? absl::OkStatus() : WrongState(job, "JOB_NOT_RUNNING");
      },
      [](const std::string& id) -> Event { return PauseRequested{id}; }, std::move(reply));
}

void Coordinator::ResumeJob(std::string name, Reply<v1::Job> reply) {
  ChangeJob(
      std::move(name), [](const Job& job) { return job.record.state() == v1::JOB_STATE_PAUSED ? absl::OkStatus() : WrongState(job, "JOB_NOT_PAUSED"); },
      [](const std::string& id) -> Event { return ResumeRequested{id}; }, std::move(reply));
}

void Coordinator::RetryJob(std::string name, Reply<v1::Job> reply) {
  ChangeJob(
      std::move(name),
      [](const Job& job) {
        const auto state = job.record.state();
        return state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED ? absl::OkStatus() : WrongState(job, "JOB_NOT_FAILED");
      },
      [this](const std::string& id) -> Event {
        return RetryRequested{id, [this](const std::string& sha256) { return artifacts_->IsWhole(sha256); }};
      },
      std::move(reply));
}

void Coordinator::PinJob(std::string name, bool pinned, Reply<v1::Job> reply) {
  ChangeJob(
      std::move(name), [](const Job&) { return absl::OkStatus(); },
      [pinned](const std::string& id) -> Event {
        return PinChanged{id, pinned};
      },
      std::move(reply));
}

void Coordinator::PrioritizeJob(v1::PrioritizeJobRequest request, Reply<v1::Job> reply) {
  const auto priority = request.priority();
  if (priority == v1::PRIORITY_CLASS_UNSPECIFIED || !v1::PriorityClass_IsValid(priority)) {
    return Post([reply = std::move(reply)] { reply(InvalidFields({{"priority", "is required: LOW, NORMAL or HIGH"}})); });
  }
  ChangeJob(
      request.name(), [](const Job& job) { return IsEnded(job.record.state()) ? WrongState(job, "JOB_ENDED") : absl::OkStatus(); },
      [priority](const std::string& id) -> Event {
        return PriorityChanged{id, priority};
      },
      std::move(reply));
}

void Coordinator::ListStages(v1::ListStagesRequest request, Reply<v1::ListStagesResponse> reply) {
  PostReply<v1::ListStagesResponse>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<v1::ListStagesResponse> {
    const auto entry = FindByName(request.parent(), "parent");
    if (!entry.ok()) return entry.status();
    v1::ListStagesResponse response;
    const auto token = AddPage("stages of " + request.parent(), request.page_size(), request.page_token(), 0, (*entry)->view.stages_size(),
                               [&](int64_t i) { *response.add_stages() = (*entry)->view.stages(static_cast<int>(i)); });
    if (!token.ok()) return token.status();
    response.set_next_page_token(*token);
    return response;
  });
}

void Coordinator::ListEvents(v1::ListEventsRequest request, Reply<v1::ListEventsResponse> reply) {
  PostReply<v1::ListEventsResponse>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<v1::ListEventsResponse> {
    const auto entry = FindByName(request.parent(), "parent");
    if (!entry.ok()) return entry.status();
    const Job& job = *(*entry)->job;
    int64_t end = job.next_event;
    while (end > FirstEvent(job) && job.events[end - 1 - FirstEvent(job)].revision() == 0) --end;  // not committed yet
    v1::ListEventsResponse response;
    const auto token = AddPage("events of " + request.parent(), request.page_size(), request.page_token(), FirstEvent(job), end,
                               [&](int64_t i) { *response.add_events() = MakeEventView(job, job.events[i - FirstEvent(job)]); });
    if (!token.ok()) return token.status();
    response.set_next_page_token(*token);
    return response;
  });
}

void Coordinator::ListMetrics(v1::ListMetricsRequest request, Reply<v1::ListMetricsResponse> reply) {
  PostReply<v1::ListMetricsResponse>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<v1::ListMetricsResponse> {
    const auto entry = FindByName(request.parent(), "parent");
    if (!entry.ok()) return entry.status();
    const auto size = CheckPageSize(request.page_size());
    if (!size.ok()) return size.status();
    const std::string scope = "metrics of " + request.parent();
    const auto after = ParsePageToken(scope, request.page_token());
    if (!after.ok()) return after.status();
    // "STAGE EPOCH", both from 0, of the next page's first result.
    int stage = 0, epoch = 0;
    const std::vector<std::string> parts = absl::StrSplit(*after, ' ');
    if (!after->empty() && (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &stage) || !absl::SimpleAtoi(parts[1], &epoch) || stage < 0 || epoch < 0)) {
      return InvalidFields({{"page_token", "is not a token of this list"}});
    }
    v1::ListMetricsResponse response;
    size_t bytes = 0;
    int count = 0;
    for (; stage < (*entry)->view.stages_size(); ++stage, epoch = 0) {
      const v1::Stage& shown = (*entry)->view.stages(stage);
      const auto& all = state_.stages.at((*entry)->job->record.job_stages(stage).stage()).epochs;
      // The view ends with the newest committed epoch; telemetry is in the state alone.
      const int committed = shown.epochs_size() == 0 ? 0 : shown.epochs(shown.epochs_size() - 1).epoch();
      for (; epoch < committed && epoch < static_cast<int>(all.size()); ++epoch, ++count) {
        if (count == *size || (count > 0 && bytes + all[epoch].ByteSizeLong() > kMaxPageBytes)) {
          response.set_next_page_token(MakePageToken(scope, absl::StrCat(stage, " ", epoch)));
          return response;
        }
        if (response.stages().empty() || response.stages(response.stages_size() - 1).stage() != shown.name()) response.add_stages()->set_stage(shown.name());
        *response.mutable_stages(response.stages_size() - 1)->add_epochs() = all[epoch];
        bytes += all[epoch].ByteSizeLong();
      }
    }
    return response;
  });
}

void Coordinator::Watch(v1::WatchJobRequest request, std::shared_ptr<JobWatcher> watcher) {
  Post([this, request = std::move(request), watcher = std::move(watcher)] { DoWatch(request, watcher); });
}

void Coordinator::DoWatch(const v1::WatchJobRequest& request, std::shared_ptr<JobWatcher> watcher) {
  const auto found = FindByName(request.name(), "name");
  if (!found.ok()) return watcher->Close(found.status());
  JobEntry* entry = *found;
  const int64_t from = request.from_revision();
  if (from < 0) return watcher->Close(InvalidFields({{"from_revision", absl::StrCat("is ", from, "; must be 0 or more")}}));
  if (from > 0) {
    const Job& job = *entry->job;
    const int64_t compacted = FirstEvent(job) > 1 && !job.events.empty() ? job.events.front().revision() - 1 : 0;
    if (from < compacted || from > revision_) {
      return watcher->Close(WithReason(absl::OutOfRangeError(absl::StrCat("changes of ", request.name(), " are known from revision ", compacted, " to ",
                                                                          revision_, ", not from ", from, "; list afresh")),
                                       "REVISION_COMPACTED"));
    }
    for (const auto& event : job.events) {
      if (event.revision() <= from) continue;
      v1::WatchJobResponse change;
      change.set_revision(event.revision());
      *change.mutable_event() = MakeEventView(job, event);
      watcher->Send(std::move(change));
    }
  }
  ExplainStages(entry);
  RefreshView(state_, *entry->job, &entry->view);
  if (from == 0 || entry->view.revision() > from) {
    v1::WatchJobResponse change;
    change.set_revision(entry->view.revision());
    *change.mutable_job() = entry->view;
    watcher->Send(std::move(change));
  }
  if (IsEnded(entry->view.state())) return watcher->Close(absl::OkStatus());
  if (stopped_) return watcher->Close(absl::UnavailableError("the coordinator is shutting down"));
  job_of_watcher_[watcher.get()] = entry->job->record.job_id();
  entry->watchers.push_back(std::move(watcher));
}

void Coordinator::Unwatch(std::shared_ptr<JobWatcher> watcher) {
  Post([this, watcher = std::move(watcher)] {
    const auto found = job_of_watcher_.find(watcher.get());
    if (found == job_of_watcher_.end()) return;
    if (JobEntry* entry = Find(found->second)) {
      entry->watchers.erase(std::remove(entry->watchers.begin(), entry->watchers.end(), watcher), entry->watchers.end());
    }
    job_of_watcher_.erase(found);
  });
}

void Coordinator::LocateLog(v1::StreamLogsRequest request, Reply<LogPosition> reply) {
  PostReply<LogPosition>(std::move(reply), [this, request = std::move(request)]() -> absl::StatusOr<LogPosition> {
    const auto name = ParseStageName(request.name(), "name");
    if (!name.ok()) return name.status();
    const auto entry = FindByName(JobName(name->first), "name");
    if (!entry.ok()) return entry.status();
    for (int i = 0; i < (*entry)->view.stages_size(); ++i) {
      const v1::Stage& stage = (*entry)->view.stages(i);
      if (stage.spec().name() != name->second) continue;
      if (request.rank() < 0 || request.rank() >= MostRanks(stage.spec())) {
        return InvalidFields({{"rank", absl::StrCat("is ", request.rank(), "; the stage has ranks 0 to ", MostRanks(stage.spec()) - 1)}});
      }
      if (request.generation() < 0 || request.generation() > stage.generation()) {
        return InvalidFields({{"generation", absl::StrCat("is ", request.generation(), "; the last attempt is ", stage.generation())}});
      }
      LogPosition position;
      const auto& training = state_.stages.at((*entry)->job->record.job_stages(i).stage()).record;  // logs are where the stage is trained
      position.file = {training.job_id(), training.spec().name(), request.generation() > 0 ? request.generation() : stage.generation(), request.rank()};
      position.ended = IsEnded(stage.state()) || (request.generation() > 0 && request.generation() < stage.generation());
      return position;
    }
    return absl::NotFoundError(absl::StrCat("there is no stage ", request.name(), (*entry)->view.state() == v1::JOB_STATE_RESOLVING ? " yet" : ""));
  });
}

}  // namespace bitstair::server
