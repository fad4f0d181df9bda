# random/ data/ checkpoint/
bitstair_test(core_storage_test
  SOURCES random/philox_test.cc data/dataset_test.cc data/jpeg_test.cc data/resize_test.cc data/image_crop_test.cc data/image_folder_test.cc data/sample_pipeline_test.cc
    data/batch_loader_test.cc checkpoint/checkpoint_test.cc
  LIBS bitstair_core_storage)

add_executable(write_sample_checkpoint checkpoint/write_sample_checkpoint.cc)
target_link_libraries(write_sample_checkpoint PRIVATE bitstair_core_storage bitstair_options)
add_test(NAME checkpoint_opens_with_safetensors
  COMMAND ${BITSTAIR_DEPS}/venv/bin/python ${CMAKE_CURRENT_SOURCE_DIR}/checkpoint/opens_with_safetensors.py $<TARGET_FILE:write_sample_checkpoint>)
set_tests_properties(checkpoint_opens_with_safetensors PROPERTIES LABELS unit TIMEOUT 60 ENVIRONMENT PYTHONPATH=${BITSTAIR_DEPS}/python)

# Data that is not part of the repository: the folder that holds imagenet_sample/.
if(DEFINED ENV{BITSTAIR_TEST_DATA})
  set(test_data $ENV{BITSTAIR_TEST_DATA})
else()
  set(test_data ${CMAKE_SOURCE_DIR}/../shared/data)
endif()
set(BITSTAIR_TEST_DATA ${test_data} CACHE PATH "Folder with real data for tests; tests that miss it are skipped")
add_executable(dump_image_folder data/dump_image_folder.cc)
target_link_libraries(dump_image_folder PRIVATE bitstair_core_storage bitstair_options)
add_test(NAME image_folder_equals_torchvision
  COMMAND ${BITSTAIR_DEPS}/venv/bin/python ${CMAKE_CURRENT_SOURCE_DIR}/data/compare_with_torchvision.py $<TARGET_FILE:dump_image_folder> ${BITSTAIR_TEST_DATA}/imagenet_sample)
set_tests_properties(image_folder_equals_torchvision PROPERTIES LABELS unit TIMEOUT 180 SKIP_RETURN_CODE 77 ENVIRONMENT
  "LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/tests/reference/cuda_stand_ins;PYTHONPATH=${BITSTAIR_DEPS}/libtorch:${BITSTAIR_DEPS}/python:${BITSTAIR_DEPS}/torchvision;PYTHONDONTWRITEBYTECODE=1")
