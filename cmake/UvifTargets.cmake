# SPDX-License-Identifier: MIT
# One way to make a target, so that every one has the same language, warnings and hardening.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(uvif_options INTERFACE)
target_include_directories(uvif_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_compile_options(uvif_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Werror)
# The headers of Xen 4.17 name an interface version of their own unless told which one is meant.
target_compile_definitions(uvif_options INTERFACE __XEN_INTERFACE_VERSION__=0x00040e00)
if(UVIF_SANITIZE)
  target_compile_options(uvif_options INTERFACE -fsanitize=${UVIF_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(uvif_options INTERFACE -fsanitize=${UVIF_SANITIZE})
  # It reads an object through a pipe of its own, and calls it invalid where there are no descriptors left: which the
  # daemon has to live through.
  target_compile_options(uvif_options INTERFACE -fno-sanitize=vptr)
  target_compile_definitions(uvif_options INTERFACE UVIF_SANITIZED)
else()
  target_compile_options(uvif_options INTERFACE -fstack-protector-strong
    $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
  target_link_options(uvif_options INTERFACE -Wl,-z,relro,-z,now)
endif()
target_compile_definitions(uvif_options INTERFACE $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)

# uvif_room(NAME SOURCES ... LINKS ...): one folder of src/ as a static library uvif_NAME.
function(uvif_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;LINKS" ${ARGN})
  if(ROOM_SOURCES)
    add_library(uvif_${name} STATIC ${ROOM_SOURCES})
    target_link_libraries(uvif_${name} PUBLIC uvif_options ${ROOM_LINKS})
  else()
    add_library(uvif_${name} INTERFACE)
    target_link_libraries(uvif_${name} INTERFACE uvif_options ${ROOM_LINKS})
  endif()
endfunction()
