#include "server/job_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bitstair::server {
namespace {

v1::Stage MakeStageView(const Job& job, const records::JobStage& link, const Stage& stage) {
  const auto& record = stage.record;
  v1::Stage view;
  view.set_name(StageName(job.record.job_id(), link.name()));
  *view.mutable_spec() = record.spec();
  view.mutable_spec()->set_name(link.name());
  view.mutable_spec()->set_parent(link.parent());
  view.set_key(record.key());
  const bool ended = link.state() != v1::STAGE_STATE_UNSPECIFIED;
  view.set_state(ended ? link.state() : record.state());
  view.set_reason(ended ? link.reason() : record.reason());
  view.set_sharing(link.sharing());
  if (link.sharing() != v1::STAGE_SHARING_NONE) view.set_shared_with(link.stage());
  view.set_gate(link.gate().empty() && !link.require().empty() ? absl::StrCat("requires ", link.require()) : link.gate());
  view.set_attempts(record.attempts());
  view.set_generation(record.generation());
  view.set_resumed_epoch(record.resumed_epoch());
  view.set_resumed_step(record.resumed_step());
  if (record.has_checkpoint()) *view.mutable_checkpoint() = record.checkpoint();
  const int first = std::max(0, static_cast<int>(stage.epochs.size()) - kMaxViewEpochs);
  for (size_t i = first; i < stage.epochs.size(); ++i) {
    v1::EpochResult* epoch = view.add_epochs();
    *epoch = stage.epochs[i];
    epoch->clear_layers();
  }
  view.set_seconds(record.seconds());
  view.set_bit_exact(record.bit_exact());
  for (const auto& rank : record.ranks()) {
    auto* placement = view.add_placement();
    placement->set_rank(rank.rank());
    placement->set_worker(absl::StrCat("workers/", rank.worker_name().empty() ? rank.worker_id() : rank.worker_name()));
  }
  if (record.has_start_time()) *view.mutable_start_time() = record.start_time();
  if (record.has_end_time()) *view.mutable_end_time() = record.end_time();
  return view;
}

}  // namespace

v1::Job MakeJobView(const State& state, const Job& job) {
  const auto& record = job.record;
  v1::Job view;
  view.set_name(JobName(record.job_id()));
  *view.mutable_spec() = record.spec();
  view.set_state(record.state());
  view.set_reason(record.reason());
  for (const auto& link : record.job_stages()) *view.add_stages() = MakeStageView(job, link, state.stages.at(link.stage()));
  if (record.has_create_time()) *view.mutable_create_time() = record.create_time();
  if (record.has_end_time()) *view.mutable_end_time() = record.end_time();
  view.set_revision(record.revision());
  view.set_pinned(record.pinned());
  RefreshView(state, job, &view);
  return view;
}

void RefreshView(const State& state, const Job& job, v1::Job* view) {
  if (view->state() == v1::JOB_STATE_RESOLVING) view->set_reason(job.waits_for);
  for (int i = 0; i < view->stages_size() && i < job.record.job_stages_size(); ++i) {
    const Stage& stage = state.stages.at(job.record.job_stages(i).stage());
    v1::Stage& shown = *view->mutable_stages(i);
    if (shown.state() == v1::STAGE_STATE_PENDING && stage.record.state() == v1::STAGE_STATE_PENDING && !stage.waits_for.empty()) {
      shown.set_reason(stage.record.generation() > 0 ? absl::StrCat(stage.record.reason(), "; ", stage.waits_for) : stage.waits_for);
    }
    shown.clear_progress();
    shown.set_waiting_jobs(IsEnded(shown.state()) ? 0 : static_cast<int>(stage.jobs.size()));
    if (IsEnded(shown.state())) continue;
    if (shown.generation() != stage.record.generation() || !stage.attempt.has_value()) continue;
    if (stage.progress.has_value()) *shown.mutable_progress() = *stage.progress;
    for (int k = 0; k < shown.placement_size() && k < static_cast<int>(stage.attempt->ranks.size()); ++k) {
      shown.mutable_placement(k)->set_pid(stage.attempt->ranks[k].pid);
    }
  }
}

v1::Event MakeEventView(const Job& job, const records::EventRecord& event) {
  v1::Event view;
  view.set_revision(event.revision());
  *view.mutable_time() = event.time();
  if (!event.stage().empty()) view.set_stage(absl::StrCat("jobs/", job.record.job_id(), "/stages/", event.stage()));
  view.set_type(event.type());
  view.set_message(event.message());
  return view;
}

}  // namespace bitstair::server
