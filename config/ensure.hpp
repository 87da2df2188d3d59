#pragma once

#include <fmt/format.h>

#include <source_location>
#include <string_view>
#include <utility>

namespace troupe::config {

/// Prints `what` with its place in the source to standard error and ends the process. For
/// programmer mistakes only: bad input and failing devices are exceptions or named results.
[[noreturn]] void broken_invariant(std::string_view what, const std::source_location& where);

/// A format string that remembers where it was written.
template <class... Args>
struct located_format {
  fmt::format_string<Args...> text;
  std::source_location where;

  template <class Text>
  consteval located_format(  // NOLINT(google-explicit-constructor)
      const Text& format, std::source_location location = std::source_location::current())
      : text(format), where(location) {}
};

/// The one assertion of the project: always on, in release builds too, never used on input.
/// `ensure(n == 10, "block table has {} blocks, expected 10", n)`
template <class... Args>
void ensure(bool condition, located_format<std::type_identity_t<Args>...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    broken_invariant(fmt::format(format.text, std::forward<Args>(args)...), format.where);
}

}  // namespace troupe::config
