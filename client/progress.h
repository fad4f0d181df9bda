// What a person sees of a running job. Pure: changes of the job in, text out; the caller writes it to stderr.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "bitstair/v1/jobs.pb.h"

namespace bitstair::client {

struct ProgressStyle {
  // On a terminal one line per running stage is redrawn in place; off it there are plain lines and no control characters.
  bool terminal = false;
  bool color = false;
  int width = 80;  // columns of the terminal
};

// The live line of one running stage, at most `width` columns, without control characters:
// "W4A8  4/8 bit  epoch 3/10 [#####-----]  loss 0.412  top-1 86.12 %  12034 images/s  1:23 left (job 4:10)". Too narrow a terminal loses parts from the right,
// the bar first. job_seconds_left < 0: not known.
std::string StageLine(const v1::Stage& stage, int width, double job_seconds_left);

// Whether a stage has trainers, or is about to.
bool IsLive(const v1::Stage& stage);

// How much of its epochs is done, 0 to 1.
double StageShare(const v1::Stage& stage);
double JobShare(const v1::Job& job);

// Why a job that does not run waits: its own reason, else that of its first stage that waits; empty where none is known.
std::string WaitReason(const v1::Job& job);

// Seconds until the whole job is done, from the running stage's own estimate and the pace of its epochs; < 0 if not known yet.
double JobSecondsLeft(const v1::Job& job);

// The table at a job's end: stage, bits W/A, epochs, top-1, drop against full precision, seconds, first 12 digits of the checkpoint's digest.
std::string ResultTable(const v1::Job& job);

// Follows one job. Not thread-safe.
class Progress {
 public:
  explicit Progress(ProgressStyle style) : style_(style) {}

  // What to write after this change.
  std::string OnChange(const v1::WatchJobResponse& change);
  // A line of its own between progress lines.
  std::string Note(const std::string& line);
  // Takes the live lines away; call before other output.
  std::string Finish();

  void SetWidth(int width) { style_.width = width; }
  // The job as last heard of; default instance before that.
  const v1::Job& job() const { return job_; }

 private:
  std::string OnJob(const v1::Job& job);
  std::string Erase();
  std::string Draw();
  std::string Strong(const std::string& text) const;

  ProgressStyle style_;
  v1::Job job_;
  bool started_ = false;
  std::vector<int> live_columns_;  // of each live line that is on the screen
  std::string last_reason_;
};

}  // namespace bitstair::client
