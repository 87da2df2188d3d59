# `cmake --install`: the program with the libraries it needs (a bundle that runs on a machine without
# them), and the package for find_package(troupe).
include(CMakePackageConfigHelpers)

get_property(layers GLOBAL PROPERTY TROUPE_LAYERS)
install(TARGETS ${layers} EXPORT troupe_targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development
        FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/troupe COMPONENT development)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/troupe)
install(EXPORT troupe_targets NAMESPACE troupe:: DESTINATION ${package_folder} COMPONENT development)
set(find_cuda "")
if(TROUPE_HAS_CUDA)
  set(find_cuda "find_package(CUDAToolkit ${CUDAToolkit_VERSION_MAJOR} REQUIRED)\n")
endif()
file(WRITE ${CMAKE_BINARY_DIR}/troupeConfig.cmake
"${find_cuda}include(\${CMAKE_CURRENT_LIST_DIR}/dependencies.cmake)
include(\${CMAKE_CURRENT_LIST_DIR}/troupe_targets.cmake)
")
write_basic_package_version_file(${CMAKE_BINARY_DIR}/troupeConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/troupeConfig.cmake ${CMAKE_BINARY_DIR}/troupeConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/config/cmake/dependencies.cmake
        DESTINATION ${package_folder} COMPONENT development)

if(TARGET troupe)
  # RPATH, not RUNPATH: it reaches the libraries' own dependencies.
  set_target_properties(troupe PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
  target_link_options(troupe PRIVATE LINKER:--disable-new-dtags)
  install(TARGETS troupe RUNTIME_DEPENDENCY_SET troupe_libraries
          RUNTIME DESTINATION bin COMPONENT runtime)
  install(RUNTIME_DEPENDENCY_SET troupe_libraries
          PRE_EXCLUDE_REGEXES "^libc\\.so" "^libm\\.so" "^libdl\\.so" "^libpthread\\.so" "^librt\\.so"
                              "^ld-linux" "^libcuda\\.so" "^libcublas" "^libnccl\\.so"
          LIBRARY DESTINATION lib COMPONENT bundle)
endif()
