#pragma once

// clang 14 has no __builtin_source_location, so libstdc++ gives it no std::source_location. The
// fuzz preset includes this file first; every other compiler, and CMake's probes in C++17, skip it.
#if __cplusplus >= 202002L
#include <cstdint>
#include <source_location>

#if !defined(__cpp_lib_source_location)
namespace std {

struct source_location {
  // Not consteval: clang 14 refuses such a call as a default argument.
  static constexpr source_location current(const char* file = __builtin_FILE(),
                                           const char* function = __builtin_FUNCTION(),
                                           uint_least32_t line = __builtin_LINE()) {
    return {file, function, line};
  }
  constexpr const char* file_name() const { return file_; }
  constexpr const char* function_name() const { return function_; }
  constexpr uint_least32_t line() const { return line_; }
  constexpr uint_least32_t column() const { return 0; }

  const char* file_;
  const char* function_;
  uint_least32_t line_;
};

}  // namespace std
#endif
#endif
