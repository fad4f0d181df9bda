// A job half-way down its staircase, for the tests of what people see.
#pragma once

#include <string>

#include "bitstair/v1/job.pb.h"

namespace bitstair::client {

inline v1::Stage* AddStage(v1::Job& job, int weight_bits, int activation_bits, v1::StageState state, int epochs) {
  const std::string parent = job.stages().empty() ? "" : job.stages(job.stages_size() - 1).spec().name();
  v1::Stage* stage = job.add_stages();
  stage->mutable_spec()->set_parent(parent);
  stage->mutable_spec()->set_name("W" + std::to_string(weight_bits) + "A" + std::to_string(activation_bits));
  stage->set_name(job.name() + "/stages/" + stage->spec().name());
  stage->mutable_spec()->set_weight_bits(weight_bits);
  stage->mutable_spec()->set_activation_bits(activation_bits);
  stage->mutable_spec()->set_epochs(epochs);
  stage->mutable_spec()->set_ranks(2);
  stage->set_state(state);
  return stage;
}

inline void AddEpoch(v1::Stage* stage, double top1, double seconds) {
  v1::EpochResult* epoch = stage->add_epochs();
  epoch->set_epoch(stage->epochs_size());
  epoch->set_train_loss(0.5);
  epoch->set_train_top1(top1 - 2);
  epoch->set_test_top1(top1);
  epoch->set_seconds(seconds);
  epoch->set_images_per_second(6000);
}

// W32A32 done (91.5 %), W4A32 in epoch 2 of 4, W4A4 waiting for it.
inline v1::Job DemoJob() {
  v1::Job job;
  job.set_name("jobs/demo-1");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_spec()->set_name("demo");
  v1::Stage* full = AddStage(job, 32, 32, v1::STAGE_STATE_SUCCEEDED, 2);
  AddEpoch(full, 88, 10);
  AddEpoch(full, 91.5, 10);
  full->set_seconds(20.5);
  full->set_attempts(1);
  full->set_generation(1);
  full->mutable_checkpoint()->set_sha256(std::string(64, 'a'));
  v1::Stage* running = AddStage(job, 4, 32, v1::STAGE_STATE_RUNNING, 4);
  AddEpoch(running, 90.25, 12);
  running->set_attempts(1);
  running->set_generation(1);
  running->set_seconds(15);
  v1::StageProgress* progress = running->mutable_progress();
  progress->set_epoch(2);
  progress->set_epochs(4);
  progress->set_step(50);
  progress->set_steps_per_epoch(100);
  progress->set_loss(0.4123);
  progress->set_train_top1(86.125);
  progress->set_images_per_second(12034.4);
  progress->set_seconds_left(83);
  progress->set_phase("train");
  AddStage(job, 4, 4, v1::STAGE_STATE_BLOCKED, 3);
  return job;
}

}  // namespace bitstair::client
