# random/ data/ checkpoint/
bitstair_library(bitstair_core_storage
  SOURCES data/input_file.cc data/idx.cc data/cifar.cc data/dataset.cc data/batch_loader.cc checkpoint/safetensors.cc checkpoint/checkpoint.cc
  LIBS bitstair_torch bitstair_digest bitstair_files absl::base absl::status absl::statusor absl::strings absl::str_format ZLIB::ZLIB LibLZMA::LibLZMA
       nlohmann_json::nlohmann_json)
