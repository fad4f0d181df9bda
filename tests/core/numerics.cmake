# quant/ kernels/ nn/ training/
bitstair_test(core_numerics_test
  SOURCES
    kernels/quant_math_test.cc kernels/cross_entropy_test.cc kernels/float_halves_test.cc kernels/gradient_codes_test.cc kernels/hint_distance_test.cc kernels/packed_codes_test.cc kernels/weight_gradient_test.cc kernels/batch_norm_test.cc kernels/max_pool_test.cc kernels/pixel_codes_test.cc kernels/fused/fused_norm_test.cc quant/dorefa_test.cc quant/dorefa_std_test.cc nn/quantized_layers_test.cc nn/fast_layers_test.cc nn/network_test.cc nn/last_layer_test.cc nn/pixel_features_test.cc
    training/sgd_test.cc training/schedule_test.cc training/train_step_test.cc training/divergence_test.cc training/guided_step_test.cc training/mutual_step_test.cc training/stochastic_precision_test.cc training/calibrate_test.cc
  LIBS bitstair_core_numerics
  TIMEOUT 300)
bitstair_test(core_networks_test SOURCES nn/every_network_test.cc LIBS bitstair_core_numerics TIMEOUT 300)
bitstair_test(core_first_last_test SOURCES nn/first_last_test.cc LIBS bitstair_core_numerics TIMEOUT 300)
# One thread: on a busy machine OpenMP's barriers make these small loops many times slower. A test of its own covers more threads.
set_tests_properties(core_numerics_test core_networks_test core_first_last_test PROPERTIES ENVIRONMENT OMP_NUM_THREADS=1)

# The same layers with oneDNN's instruction sets lowered (no VNNI: products are added in int16) and with ATen's.
foreach(isa AVX512_CORE AVX2)
  add_test(NAME core_fast_layers_${isa} COMMAND core_numerics_test --gtest_filter=FastLayersTest.*)
  set_tests_properties(core_fast_layers_${isa} PROPERTIES LABELS unit TIMEOUT 120 ENVIRONMENT "OMP_NUM_THREADS=1;ONEDNN_MAX_CPU_ISA=${isa}")
endforeach()
add_test(NAME core_fast_layers_aten_default COMMAND core_numerics_test --gtest_filter=FastLayersTest.*)
set_tests_properties(core_fast_layers_aten_default PROPERTIES LABELS unit TIMEOUT 120 ENVIRONMENT "OMP_NUM_THREADS=1;ATEN_CPU_CAPABILITY=default")

# The kernels' tests under valgrind, whose processor has no AVX-512: the plain lanes, and what reads and writes the arrays around them.
find_program(VALGRIND valgrind)
if(VALGRIND AND NOT BITSTAIR_SANITIZE)
  add_test(NAME core_kernels_valgrind COMMAND ${VALGRIND} --quiet --error-exitcode=9 --suppressions=${CMAKE_SOURCE_DIR}/tests/support/valgrind.supp
    $<TARGET_FILE:core_numerics_test> --gtest_filter=Lanes/*:CrossEntropy*:MaxPool*:QuantMath*:BatchNormKernel*:HintDistance*:FloatHalves*:Weight*)
  set_tests_properties(core_kernels_valgrind PROPERTIES LABELS unit TIMEOUT 600 ENVIRONMENT OMP_NUM_THREADS=1)
endif()
