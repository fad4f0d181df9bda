// What `bitstair top` knows and what a person has chosen to see of it. Pure.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::client::top {

// The fleet and the jobs as last heard of.
struct Model {
  std::string coordinator;
  std::vector<v1::Worker> workers;
  // In the order in which they are shown (SortJobs). Those that run, and the selected one, have their epochs.
  std::vector<v1::Job> jobs;
  // False before the first answer.
  bool loaded = false;
  // Why the last question had no answer; empty while there is contact.
  std::string error;
  double silent_seconds = 0;  // since the last answer, or since the start
  double now = 0;             // Unix time
};

// Those that run, those that wait, paused ones, ended ones; the newest of each first.
void SortJobs(std::vector<v1::Job>& jobs);

enum class Key { kNone, kUp, kDown, kPageUp, kPageDown, kHome, kEnd, kEnter, kBack, kWorkers, kHelp, kQuit, kOther };

enum class Page { kJobs, kStages, kWorkers };

struct View {
  Page page = Page::kJobs;
  bool help = false;
  std::string selected;  // name of a job; empty: none
  int scroll = 0;        // first line of the stages or the workers that is shown; too much is cut when drawn
};

const v1::Job* SelectedJob(const Model& model, const View& view);

// Keeps the selection on a job that is there: on its own, else on the one that took its place in `before`.
void Settle(const Model& before, const Model& now, View& view);

// What a key changes. False: leave.
bool OnKey(Key key, const Model& model, View& view);

}  // namespace bitstair::client::top
