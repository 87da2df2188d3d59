#include "config/ensure.hpp"

#include <cstdio>
#include <cstdlib>

namespace troupe::config {

void broken_invariant(std::string_view what, const std::source_location& where) {
  fmt::print(stderr, "{}:{}: broken invariant in {}: {}\n", where.file_name(), where.line(),
             where.function_name(), what);
  std::fflush(stderr);
  std::abort();
}

}  // namespace troupe::config
