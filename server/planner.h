// Turns a resolved recipe into its stages. Pure; the client links it for `bitstair plan`.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

struct PlannedStage {
  v1::StageSpec spec;
  std::string require;  // JobSpec.require of it; empty: nothing
  v1::GateAction on_gate_failure = v1::GATE_ACTION_UNSPECIFIED;
};

// The stages of `resolved` (from ResolveJobSpec), each after its parent. Of `stages`: one each, with a schedule of its own. Of a sweep: those of each variant,
// with equal keys one; a name tells those choices that make a difference, "W4A4.seed-2". Of widths, where each one's parent is the one before:
// Widths [32, 8, 4]: W32A32 first, then
//   two_stage, PER_WIDTH: W8A32, W8A8, W4A8, W4A4 (activations never go back up);
//   two_stage, PER_STAGE: W8A32, W4A32, then W4A8, W4A4;
//   otherwise: W8A8, W4A4.
// Without 32 the first quantised stage starts from scratch (no parent). With initial_weights there is no W32A32, and the first quantised stage starts from the
// file as it would from there (calibration; the full-precision net of a guided pair).
//
// Epochs: the full-precision stage gets pretrain.epochs. Without quantized.stage_epochs, quantized.epochs are shared so that every stage has at least 1 and,
// where that leaves room, the stages at the last weight width have at least half, the very last one the larger part of these. Schedule: CHAIN runs one schedule
// over all quantised stages (schedule_offset, schedule_epochs) and carries momentum from each to the next, but not from the full-precision stage; STAGE starts
// afresh in each, with quantized.step_epochs scaled to the stage's length (rounded down; those that fall on its first epoch are dropped). Calibration is asked
// for only where a clipped stage follows one trained with ReLU. Guided: every quantised stage is a pair. The first one's full-precision net starts from the
// full-precision stage, as its low-precision net does; the others find both nets in their parent's checkpoint. data_digest, weights_digest: hex SHA-256 of the
// data set and of the file of initial_weights; empty in an offline plan.
std::vector<PlannedStage> PlanJob(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest = "");

// Without what is required of them.
std::vector<v1::StageSpec> PlanStages(const v1::JobSpec& resolved, const std::string& data_digest, const std::string& weights_digest = "");

}  // namespace bitstair::server
