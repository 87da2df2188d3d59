# Every library the project links, found once. All come from Debian packages (see `run`).
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS headers)
# Beast 1.81 asserts on what a client may send: an empty chunked body that arrives byte by byte ends the
# process of a debug build, while its checks alone handle it. tests/fuzz/http_request.cpp found it.
target_compile_definitions(Boost::headers INTERFACE BOOST_DISABLE_ASSERTS)
find_package(simdjson REQUIRED)
find_package(OpenSSL REQUIRED)

# CAF and oneDNN ship no usable CMake package in Debian 12.
find_path(CAF_INCLUDE_DIR caf/all.hpp REQUIRED)
foreach(part core io)
  find_library(CAF_${part}_LIBRARY caf_${part} REQUIRED)
  add_library(caf::${part} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(caf::${part} PROPERTIES IMPORTED_LOCATION ${CAF_${part}_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${CAF_INCLUDE_DIR})
endforeach()
target_link_libraries(caf::io INTERFACE caf::core)

function(import_library name header library)
  find_path(${name}_INCLUDE_DIR ${header} REQUIRED)
  find_library(${name}_LIBRARY ${library} REQUIRED)
  add_library(troupe_external::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(troupe_external::${name} PROPERTIES
                        IMPORTED_LOCATION ${${name}_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${${name}_INCLUDE_DIR})
endfunction()
import_library(onednn dnnl.hpp dnnl)
import_library(utf8proc utf8proc.h utf8proc)
import_library(spng spng.h spng)
import_library(turbojpeg turbojpeg.h turbojpeg)
import_library(webp webp/decode.h webp)
import_library(xxhash xxhash.h xxhash)
import_library(edit editline/readline.h edit)
