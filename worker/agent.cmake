# bitstair_worker_lib and bitstair-worker: everything of a worker but the trainer; knows nothing of LibTorch.
include(${CMAKE_CURRENT_LIST_DIR}/trainer_frames.cmake)
bitstair_library(bitstair_named_folders SOURCES named_folders.cc LIBS absl::status absl::statusor absl::strings)
bitstair_library(bitstair_worker_lib
  SOURCES agent.cc artifact_client.cc attempt.cc coordinator_stream.cc cpu_wait.cc datasets.cc devices.cc identity.cc metrics.cc outbox.cc trainer_environment.cc trainer_process.cc
  LIBS bitstair_grpc bitstair_daemon bitstair_transport bitstair_digest bitstair_files bitstair_named_folders bitstair_trainer_frames bitstair_asio
       bitstair_http prometheus-cpp::core spdlog::spdlog absl::status absl::statusor absl::strings absl::flat_hash_map ${CMAKE_DL_LIBS})
target_compile_definitions(bitstair_worker_lib PRIVATE BITSTAIR_VERSION="${PROJECT_VERSION}" BITSTAIR_WITH_CUDA=$<BOOL:${BITSTAIR_CUDA}>)
bitstair_program(bitstair-worker SOURCES main.cc LIBS bitstair_worker_lib bitstair_version CLI11::CLI11 nlohmann_json::nlohmann_json)
