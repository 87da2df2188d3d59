#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

/// What the fuzz targets share. A target feeds one parser with bytes from anyone and checks more
/// than the absence of crashes: what was accepted must be sound, what was refused must be refused
/// with the parser's own exception or error. Anything else ends the process, and libFuzzer keeps
/// the input.
namespace troupe::fuzz {

inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Ends the process if an accepted input has an unsound result.
inline void expect(bool condition, const char* promise) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

}  // namespace troupe::fuzz
