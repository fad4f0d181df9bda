# import/
bitstair_library(bitstair_core_import
  SOURCES import/fit_weights.cc import/pickle.cc import/torch_file.cc import/weights_file.cc
  LIBS bitstair_core_numerics bitstair_core_storage bitstair_torch bitstair_digest bitstair_files absl::status absl::statusor absl::strings)
