#pragma once

#include <stdexcept>

namespace troupe::gpu {

/// A device, allocation or library call that failed. Says which call, what was found and what was
/// expected.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace troupe::gpu
