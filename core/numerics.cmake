# quant/ kernels/ nn/ training/
bitstair_library(bitstair_core_numerics
  SOURCES
    kernels/activation_cpu.cc kernels/batch_norm_cpu.cc kernels/dorefa_weights_cpu.cc kernels/float_halves_cpu.cc kernels/max_pool_cpu.cc kernels/pixel_codes_cpu.cc kernels/sgd_cpu.cc kernels/step_clock.cc kernels/stream_sum_cpu.cc
    kernels/cross_entropy_cpu.cc kernels/range_gradient_cpu.cc kernels/gradient_codes_cpu.cc kernels/hint_distance_cpu.cc kernels/packed_codes_cpu.cc kernels/weight_gradient_avx512bf16.cc
    kernels/convolution_onednn.cc kernels/fused/fused_norm.cc kernels/fused/fused_pool.cc kernels/fused/norm_avx512.cc kernels/fused/norm_avx512_bf16.cc kernels/fused/norm_plain.cc
    quant/dorefa.cc quant/dorefa_std.cc quant/lsq.cc quant/pact.cc quant/weight_pass.cc quant/quantizer.cc
    nn/activation.cc nn/alexnet.cc nn/batch_norm.cc nn/convnet28.cc nn/fast_convolve.cc nn/fast_normalize.cc nn/fast_shapes.cc nn/fast_stream.cc nn/last_layer.cc nn/layered_network.cc nn/network.cc
    nn/network_state.cc nn/pixel_features.cc nn/preactivation_resnet.cc nn/quantized_conv2d.cc nn/quantized_linear.cc nn/residual_stream.cc nn/resnet.cc nn/tape.cc nn/weight.cc
    training/calibrate.cc training/classification_loss.cc training/divergence.cc training/evaluate.cc training/guided_step.cc training/hint_loss.cc training/mutual_step.cc training/net_pass.cc training/normalized_images.cc training/schedule.cc training/sgd.cc training/split_guided_step.cc training/stochastic_precision.cc training/train_step.cc
  LIBS bitstair_torch bitstair_onednn bitstair_core_storage absl::status absl::statusor absl::strings)
if(NOT BITSTAIR_SANITIZE)
  set(loop_optimisation "-O3;")
endif()
# Loops over elements are worth vectorising in every build type. The last two only drop side effects (errno, floating-point exceptions), no result changes.
set_source_files_properties(kernels/activation_cpu.cc kernels/batch_norm_cpu.cc kernels/dorefa_weights_cpu.cc kernels/float_halves_cpu.cc kernels/max_pool_cpu.cc kernels/pixel_codes_cpu.cc kernels/sgd_cpu.cc
    kernels/gradient_codes_cpu.cc kernels/hint_distance_cpu.cc kernels/range_gradient_cpu.cc kernels/weight_gradient_avx512bf16.cc kernels/stream_sum_cpu.cc quant/dorefa_std.cc quant/lsq.cc kernels/fused/fused_pool.cc kernels/fused/norm_avx512.cc kernels/fused/norm_avx512_bf16.cc kernels/fused/norm_plain.cc
  PROPERTIES COMPILE_OPTIONS "${loop_optimisation}-fno-math-errno;-fno-trapping-math")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  # Only called where the processor has these. The warnings are about GCC 12's own intrinsics.
  set_property(SOURCE kernels/weight_gradient_avx512bf16.cc APPEND PROPERTY COMPILE_OPTIONS "-Wno-uninitialized;-Wno-maybe-uninitialized")
  set_property(SOURCE kernels/fused/norm_avx512.cc kernels/fused/norm_avx512_bf16.cc APPEND PROPERTY COMPILE_OPTIONS
    "-mavx2;-mfma;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-Wno-uninitialized;-Wno-maybe-uninitialized")
  set_property(SOURCE kernels/fused/norm_avx512_bf16.cc APPEND PROPERTY COMPILE_OPTIONS "-mavx512bf16")
endif()
