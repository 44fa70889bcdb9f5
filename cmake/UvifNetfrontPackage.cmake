# SPDX-License-Identifier: MIT
# How programs find libuvif-netfront: by CMake (find_package(uvif), uvif::netfront or uvif::netfront-static) and
# by pkg-config (uvif-netfront). Both work from wherever the tree was installed or moved to.
include(CMakePackageConfigHelpers)

set(component COMPONENT uvif-netfront)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/uvif)

install(TARGETS uvif_netfront_static uvif_netfront_shared EXPORT uvif-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} ${component}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ${component} NAMELINK_COMPONENT uvif-netfront)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/uvif DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} ${component}
  FILES_MATCHING PATTERN "*.hpp")
install(EXPORT uvif-targets NAMESPACE uvif:: DESTINATION ${package_dir} ${component})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/uvif-config.cmake.in
  ${PROJECT_BINARY_DIR}/uvif-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/uvif-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/uvif-config.cmake ${PROJECT_BINARY_DIR}/uvif-config-version.cmake
  DESTINATION ${package_dir} ${component})

cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX
  BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig OUTPUT_VARIABLE pkgconfig_to_prefix)
configure_file(${PROJECT_SOURCE_DIR}/cmake/uvif-netfront.pc.in ${PROJECT_BINARY_DIR}/uvif-netfront.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/uvif-netfront.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig ${component})
