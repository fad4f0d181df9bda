# cmake -D SOURCE=DIR -D OUT=FILE [-D COMMIT=TEXT] -P write_commit.cmake: defines BITSTAIR_COMMIT as COMMIT, else as what git says of SOURCE.
cmake_policy(VERSION 3.25)
if(NOT COMMIT)
  execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=* OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE result ERROR_QUIET)
  if(NOT result EQUAL 0)
    set(COMMIT "unknown")
  endif()
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define BITSTAIR_COMMIT \"@COMMIT@\"\n" @ONLY)
