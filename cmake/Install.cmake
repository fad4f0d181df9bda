# What `cmake --install` and `cpack -G DEB` make: a tree that runs from any folder, and needs nothing that ./dev setup downloaded.
#   bin/                    the programs; they find each other beside themselves
#   lib/bitstair/           LibTorch, oneDNN and the CUDA runtime, in a folder of their own so that /usr is a fit prefix
#   lib/systemd/system/     units
#   include/bitstair/, lib/libbitstair_*.a, lib/cmake/bitstair/   the C++ client library, find_package(bitstair); alone: cmake --install ... --component client_library
#   share/                  bash-completion/, zsh/ and man/ for the command line
#   share/bitstair/         recipes/, proto/, example/ of the client library, and docker/ with what the images' entry points run
#   share/doc/bitstair/     README, documents, licences of what lib/bitstair holds
include(GNUInstallDirs)
set(private_libraries lib/bitstair)

install(TARGETS bitstair bitstair-server bitstair-worker RUNTIME DESTINATION bin)
install(DIRECTORY recipes DESTINATION share/bitstair)
install(DIRECTORY proto/bitstair/v1 DESTINATION share/bitstair/proto/bitstair FILES_MATCHING PATTERN "*.proto")
install(PROGRAMS deploy/docker/server-start deploy/docker/join-tokens deploy/docker/worker-start deploy/docker/worker-health DESTINATION share/bitstair/docker)
install(FILES README.md DESTINATION share/doc/bitstair)
install(DIRECTORY docs DESTINATION share/doc/bitstair PATTERN results EXCLUDE PATTERN "*.py" EXCLUDE)
# Man pages say what the programs say with --help.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(man_pages ${CMAKE_BINARY_DIR}/man)
add_custom_command(OUTPUT ${man_pages}/bitstair.1
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_SOURCE_DIR}/deploy/man/make_pages.py ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} ${man_pages}
  DEPENDS deploy/man/make_pages.py bitstair bitstair-server bitstair-worker $<$<TARGET_EXISTS:bitstair-evaluator>:bitstair-evaluator> VERBATIM)
add_custom_target(bitstair_man ALL DEPENDS ${man_pages}/bitstair.1)
install(DIRECTORY ${man_pages}/ DESTINATION share/man/man1 FILES_MATCHING PATTERN "*.1")
install(DIRECTORY ${man_pages}/ DESTINATION share/man/man8 FILES_MATCHING PATTERN "*.8")
install(FILES client/shell/bitstair.bash DESTINATION share/bash-completion/completions RENAME bitstair)
install(FILES client/shell/_bitstair DESTINATION share/zsh/vendor-completions)  # where Debian's zsh looks
install(DIRECTORY deploy/systemd/ DESTINATION lib/systemd/system FILES_MATCHING PATTERN "*.service")

# The C++ client library (docs/clients.md). Everything that it names is relative to the tree or found anew on the user's machine.
set(client_library COMPONENT client_library)
set_target_properties(bitstair_client PROPERTIES EXPORT_NAME client)
foreach(part grpc proto digest files transport)
  set_target_properties(bitstair_${part} PROPERTIES EXPORT_NAME client_${part})
endforeach()
target_compile_features(bitstair_client INTERFACE cxx_std_20)
install(TARGETS bitstair_client bitstair_grpc bitstair_proto bitstair_digest bitstair_files bitstair_transport EXPORT bitstair-targets ARCHIVE DESTINATION lib ${client_library} INCLUDES DESTINATION include)
install(EXPORT bitstair-targets NAMESPACE bitstair:: DESTINATION lib/cmake/bitstair ${client_library})
install(FILES client/client.h proto/status.h DESTINATION include/bitstair ${client_library})
install(DIRECTORY ${CMAKE_BINARY_DIR}/proto/bitstair/v1 DESTINATION include/bitstair ${client_library} FILES_MATCHING PATTERN "*.pb.h" PATTERN "trainer.pb.h" EXCLUDE)
install(DIRECTORY client/example DESTINATION share/bitstair ${client_library})
include(CMakePackageConfigHelpers)
write_basic_package_version_file(bitstair-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/bitstair-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/bitstair-config-version.cmake DESTINATION lib/cmake/bitstair ${client_library})
# CMake itself strips no archives, whose debug information would name this folder.
install(CODE "if(CMAKE_INSTALL_DO_STRIP)
  file(GLOB archives \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/lib/libbitstair_*.a\")
  execute_process(COMMAND ${CMAKE_STRIP} --strip-debug \${archives} COMMAND_ERROR_IS_FATAL ANY)
endif()" ${client_library})

if(BITSTAIR_TORCH)
  install(TARGETS bitstair-trainer bitstair-evaluator RUNTIME DESTINATION bin)
  set_target_properties(bitstair-trainer bitstair-evaluator PROPERTIES INSTALL_RPATH "$ORIGIN/../${private_libraries}")
  set(cuda_runtime ${BITSTAIR_DEPS}/libtorch/nvidia/cu13/lib)
  install(FILES ${BITSTAIR_TORCH_DIR}/lib/libtorch_cpu.so ${BITSTAIR_TORCH_DIR}/lib/libc10.so ${BITSTAIR_TORCH_DIR}/lib/libgomp.so.1
    ${cuda_runtime}/libcudart.so.13 ${cuda_runtime}/libcupti.so.13 ${ONEDNN_LIBRARY} DESTINATION ${private_libraries})
  file(GLOB licences RELATIVE ${BITSTAIR_DEPS} ${BITSTAIR_DEPS}/libtorch/*.dist-info/licenses/* ${BITSTAIR_DEPS}/onednn/onednn_cpu_gomp-*.dist-info/LICENSE*)
  foreach(file ${licences})
    string(REGEX MATCH "[^/]+\\.dist-info" wheel ${file})
    string(REPLACE ".dist-info" "" wheel ${wheel})
    install(FILES ${BITSTAIR_DEPS}/${file} DESTINATION share/doc/bitstair/licences/${wheel})
  endforeach()
endif()
if(BITSTAIR_CUDA)
  # The trainer loads it at run time. NVIDIA's own libraries (cuBLAS, cuDNN, NCCL ...) come from elsewhere: docs/deploy.md.
  install(TARGETS bitstair_nccl LIBRARY DESTINATION ${private_libraries})
  set_target_properties(bitstair_nccl PROPERTIES INSTALL_RPATH "$ORIGIN")
  install(FILES ${BITSTAIR_TORCH_DIR}/lib/libtorch_cuda.so ${BITSTAIR_TORCH_DIR}/lib/libc10_cuda.so DESTINATION ${private_libraries})
endif()

set(CPACK_PACKAGE_NAME bitstair)
set(CPACK_PACKAGE_VENDOR Bitstair)
set(CPACK_PACKAGE_CONTACT "The Bitstair developers")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION "A coordinator, workers and a command line that train convolutional networks whose weights and activations have few bits.")
set(CPACK_GENERATOR DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)  # xz takes minutes for LibTorch
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "dataset-fashion-mnist, libabsl-dev, libgrpc++-dev, libprotobuf-dev, libssl-dev, protobuf-compiler-grpc")
if(BITSTAIR_TORCH)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${BITSTAIR_TORCH_DIR}/lib ${cuda_runtime})
endif()
include(CPack)
