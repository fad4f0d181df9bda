# import/
bitstair_test(core_import_test SOURCES import/torch_file_test.cc LIBS bitstair_core_import)
