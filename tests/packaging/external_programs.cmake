# SPDX-License-Identifier: MIT
# Installs the library, moves the tree, and builds examples/echo against it in every way that is promised.
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY OUTPUT_VARIABLE output)
  set(output "${output}" PARENT_SCOPE)
endfunction()

# A program that links and starts. There is no machine to connect to, and it says so.
function(check program)
  run(${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${prefix}/${LIBDIR} ${program} --help)
  if(NOT output MATCHES "usage: uvif-echo")
    message(FATAL_ERROR "${program} --help said: ${output}")
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${prefix}/${LIBDIR} ${program} emulated:${WORK}/none
    RESULT_VARIABLE result ERROR_VARIABLE error)
  if(NOT result EQUAL 1 OR NOT error MATCHES "uvif-echo: .*none")
    message(FATAL_ERROR "${program} without a machine returned ${result} and said: ${error}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --component uvif-netfront --prefix ${WORK}/first)
set(prefix ${WORK}/moved)
file(RENAME ${WORK}/first ${prefix})

run(${CMAKE_COMMAND} -S ${SOURCE}/examples/echo -B ${WORK}/cmake
  -D CMAKE_PREFIX_PATH=${prefix} -D CMAKE_CXX_COMPILER=${CXX} -D CMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/cmake)
check(${WORK}/cmake/uvif-echo)

set(ENV{PKG_CONFIG_PATH} ${prefix}/${LIBDIR}/pkgconfig)
run(pkg-config --cflags --libs uvif-netfront)
separate_arguments(flags UNIX_COMMAND "${output}")
run(${CXX} -std=c++23 -Wall -Wextra ${SOURCE}/examples/echo/echo.cpp ${flags} -o ${WORK}/echo-shared)
check(${WORK}/echo-shared)

run(pkg-config --static --cflags --libs uvif-netfront)
string(REPLACE "-luvif-netfront" "-l:libuvif-netfront.a" output "${output}")
separate_arguments(flags UNIX_COMMAND "${output}")
run(${CXX} -std=c++23 ${SOURCE}/examples/echo/echo.cpp ${flags} -o ${WORK}/echo-static)
check(${WORK}/echo-static)
