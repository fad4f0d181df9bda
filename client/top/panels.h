// The tables of `bitstair top`, of whatever height they need. The first line of each is its header.
#pragma once

#include <vector>

#include "bitstair/v1/job.pb.h"
#include "client/top/frame.h"
#include "client/top/model.h"

namespace bitstair::client::top {

// A line per worker: its slots by state, and the stages that run there.
std::vector<Line> WorkersPanel(const Model& model, int width, bool unicode);

// A line per job: its stage that runs and how far it is, or why it waits.
std::vector<Line> JobsPanel(const Model& model, const std::string& selected, int width, bool unicode);

// A line per stage of one job.
std::vector<Line> StagesPanel(const v1::Job& job, int width, bool unicode);

}  // namespace bitstair::client::top
