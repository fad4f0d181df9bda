# random/ data/ checkpoint/
bitstair_test(core_storage_test
  SOURCES random/philox_test.cc data/dataset_test.cc data/batch_loader_test.cc checkpoint/checkpoint_test.cc
  LIBS bitstair_core_storage)

add_executable(write_sample_checkpoint checkpoint/write_sample_checkpoint.cc)
target_link_libraries(write_sample_checkpoint PRIVATE bitstair_core_storage bitstair_options)
add_test(NAME checkpoint_opens_with_safetensors
  COMMAND ${BITSTAIR_DEPS}/venv/bin/python ${CMAKE_CURRENT_SOURCE_DIR}/checkpoint/opens_with_safetensors.py $<TARGET_FILE:write_sample_checkpoint>)
set_tests_properties(checkpoint_opens_with_safetensors PROPERTIES LABELS unit TIMEOUT 60 ENVIRONMENT PYTHONPATH=${BITSTAIR_DEPS}/python)
