#pragma once

#include <stdexcept>

namespace troupe::transport {

/// A peer, mapping or network call that failed. Says which call, what was found, what was expected.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace troupe::transport
