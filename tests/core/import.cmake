# import/
bitstair_test(core_import_test SOURCES import/torch_file_test.cc import/trained_codes_test.cc LIBS bitstair_core_import TIMEOUT 300)
target_compile_definitions(core_import_test PRIVATE BITSTAIR_TEST_DATA="${BITSTAIR_TEST_DATA}" BITSTAIR_RESULTS="${CMAKE_SOURCE_DIR}/docs/results")
