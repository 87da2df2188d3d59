#pragma once

#include <stdexcept>

namespace troupe::gpu {

/// A device, allocation or library call that failed. Says which call, what was found and what was
/// expected.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A device that can run nothing any more in this process (an illegal address, an aborted kernel): only
/// the end of the process heals it.
class device_lost : public error {
 public:
  using error::error;
};

}  // namespace troupe::gpu
