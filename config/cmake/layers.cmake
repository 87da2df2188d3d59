# add_layer(NAME SOURCES ... HEADERS ... DEPENDS ... LINKS ... PRIVATE_LINKS ...)
#
# One static library per folder. DEPENDS names layers: configuration stops when one is not a target yet,
# so a cycle or an upward dependency cannot be written. Headers are a verified file set: each compiles
# alone (target all_verify_interface_header_sets).
function(add_layer name)
  cmake_parse_arguments(LAYER "" "" "SOURCES;HEADERS;DEPENDS;LINKS;PRIVATE_LINKS" ${ARGN})
  set(target troupe_${name})
  add_library(${target} STATIC ${LAYER_SOURCES})
  add_library(troupe::${name} ALIAS ${target})
  foreach(dependency ${LAYER_DEPENDS})
    if(NOT TARGET troupe_${dependency})
      message(FATAL_ERROR "layer ${name} depends on ${dependency}, which is not below it")
    endif()
    target_link_libraries(${target} PUBLIC troupe_${dependency})
  endforeach()
  target_link_libraries(${target} PUBLIC fmt::fmt ${LAYER_LINKS} PRIVATE ${LAYER_PRIVATE_LINKS})
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}
                 FILES ${LAYER_HEADERS})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON EXPORT_NAME ${name})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                             $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/troupe>)
  troupe_warnings(${target})
  set_property(GLOBAL APPEND PROPERTY TROUPE_LAYERS ${target})
endfunction()

# -Wrestrict is off for GCC: at -O3, GCC 12 reports the standard library's own operator+ for a literal and
# a string (GCC bug 105651).
function(troupe_warnings target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion
                         -Wno-sign-conversion $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>>)
  if(TROUPE_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  endif()
endfunction()
