# bitstair_trainer_frames: used by both ends of the socket between worker and trainer; knows neither LibTorch nor Asio.
include_guard(GLOBAL)
bitstair_library(bitstair_trainer_frames SOURCES ${CMAKE_CURRENT_LIST_DIR}/trainer_frames.cc LIBS bitstair_proto absl::status absl::statusor absl::strings)
