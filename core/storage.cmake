# random/ data/ checkpoint/
bitstair_library(bitstair_core_storage
  SOURCES data/input_file.cc data/idx.cc data/cifar.cc data/image_crop.cc data/jpeg.cc data/resize.cc data/image_folder.cc data/dataset.cc
    data/sample_pipeline.cc data/batch_loader.cc checkpoint/safetensors.cc checkpoint/checkpoint.cc
  LIBS bitstair_torch bitstair_digest bitstair_files absl::base absl::status absl::statusor absl::strings absl::str_format ZLIB::ZLIB LibLZMA::LibLZMA JPEG::JPEG
       nlohmann_json::nlohmann_json)
