// What the command line prints for programs: JSON of messages and results.
#pragma once

#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

#include <optional>
#include <string>

#include "bitstair/v1/job.pb.h"
#include "client/dump.h"

namespace bitstair::client {

enum class EnumWords { kUpper, kRecipe };  // "RUNNING", or as recipes write them: "per_width"

// Fields by their proto names, in order: enums without prefix, times as RFC 3339, integers as numbers. Scalars without presence are always there,
// absent messages, lists and optional fields are left out.
Json ToJson(const google::protobuf::Message& message, EnumWords words = EnumWords::kUpper);

// "2026-01-02T03:04:05", in UTC.
std::string ShortTime(const google::protobuf::Timestamp& time);

// An enum value without its prefix: JOB_STATE_RUNNING -> "RUNNING".
std::string EnumWord(const google::protobuf::EnumValueDescriptor& value, EnumWords words = EnumWords::kUpper);
std::string StateWord(v1::JobState state);
std::string StateWord(v1::StageState state);

// Stages of a job whose training is another job's, and the slot time (seconds times ranks) that it did not take, so far.
struct Shared {
  int stages = 0;
  double slot_seconds = 0;
};
Shared CountShared(const v1::Job& job);

// Top-1 of the full-precision stage that `stage` comes from, or is, after its newest epoch.
std::optional<double> FullPrecisionTop1(const v1::Job& job, const v1::Stage& stage);

// One result of a job. {"job", "name", "state", "reason", "create_time", "end_time", "seconds", "stages": [...]}; a stage has "name", "weight_bits",
// "activation_bits", "epochs" (planned), "epochs_done", "top1" and "top5" (test, last epoch, percent; null before the first), "drop" (top-1 below the
// full-precision stage; null if unknown), "loss", "seconds", "images_per_second", "checkpoint_sha256" (newest complete one; "" if none), "state",
// "reason", "parent", "gate" (where something is required of it), "expected_start_time", "expected_end_time" and "memory_bytes" (where known), "key",
// "attempts", "generation", "resumed_epoch", "resumed_step", "bit_exact", "placement". details: adds "spec" and, to each stage, "progress" and "results" (one
// per epoch).
Json JobJson(const v1::Job& job, bool details);

}  // namespace bitstair::client
