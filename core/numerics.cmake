# quant/ kernels/ nn/ training/
bitstair_library(bitstair_core_numerics
  SOURCES
    kernels/activation_cpu.cc kernels/batch_norm_cpu.cc kernels/dorefa_weights_cpu.cc kernels/max_pool_cpu.cc
    quant/dorefa.cc quant/quantizer.cc
    nn/activation.cc nn/batch_norm.cc nn/convnet28.cc nn/layered_network.cc nn/network.cc nn/network_state.cc nn/quantized_conv2d.cc nn/quantized_linear.cc
    nn/resnet.cc nn/weight.cc
    training/calibrate.cc training/evaluate.cc training/normalized_images.cc training/schedule.cc training/sgd.cc training/train_step.cc
  LIBS bitstair_torch bitstair_core_storage absl::status absl::statusor absl::strings)
# Loops over elements are worth vectorising in every build type. The last two only drop side effects (errno, floating-point exceptions), no result changes.
set_source_files_properties(kernels/activation_cpu.cc kernels/batch_norm_cpu.cc kernels/dorefa_weights_cpu.cc kernels/max_pool_cpu.cc
  PROPERTIES COMPILE_OPTIONS "-O3;-fno-math-errno;-fno-trapping-math")
