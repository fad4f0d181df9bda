# How our own libraries, programs and tests are built.

add_library(bitstair_options INTERFACE)
target_include_directories(bitstair_options INTERFACE ${CMAKE_SOURCE_DIR})
# Contraction is off: the numeric contract (DESIGN section 4) names each fused multiply-add by hand.
target_compile_options(bitstair_options INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers -Wno-restrict -ffp-contract=off)
if(BITSTAIR_SANITIZE)
  add_compile_options(-fsanitize=${BITSTAIR_SANITIZE} -fno-omit-frame-pointer)
  add_compile_options(-Wno-maybe-uninitialized)  # GCC 12 says it of std::optional in libraries' headers once it is instrumented
  if(BITSTAIR_SANITIZE STREQUAL thread)
    add_compile_options(-Wno-tsan)  # Asio 1.74 uses a fence, which GCC says it does not model
  endif()
  add_link_options(-fsanitize=${BITSTAIR_SANITIZE})
endif()
find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# bitstair_library(NAME SOURCES ... [LIBS ...]): a static library; LIBS are public.
function(bitstair_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_LIBS} PRIVATE $<BUILD_INTERFACE:bitstair_options>)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
endfunction()

# bitstair_program(NAME SOURCES ... [LIBS ...])
function(bitstair_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} bitstair_options)
endfunction()

# bitstair_test(NAME SOURCES ... [LIBS ...] [LABELS ...] [TIMEOUT seconds]): one GoogleTest program, one CTest entry.
function(bitstair_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} bitstair_options GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
