# Tests of worker/ but for the trainer. The trainers here are fake_trainer.cc; the real one has its own tests and tests/integration.
bitstair_program(bitstair-fake-trainer SOURCES fake_trainer.cc LIBS bitstair_trainer_frames bitstair_digest)
bitstair_test(worker_parts_test SOURCES datasets_test.cc devices_test.cc metrics_test.cc outbox_test.cc trainer_environment_test.cc trainer_process_test.cc LIBS bitstair_worker_lib)
bitstair_test(worker_agent_test SOURCES agent_test.cc artifact_client_test.cc scripted_coordinator.cc worker_process.cc LIBS bitstair_worker_lib LABELS integration)
foreach(test worker_parts_test worker_agent_test)
  target_compile_definitions(${test} PRIVATE BITSTAIR_METRICS_DOCUMENT="${CMAKE_SOURCE_DIR}/docs/metrics.md" FAKE_TRAINER="$<TARGET_FILE:bitstair-fake-trainer>" WORKER_PROGRAM="$<TARGET_FILE:bitstair-worker>")
  add_dependencies(${test} bitstair-fake-trainer bitstair-worker)
endforeach()
