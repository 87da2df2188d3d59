#include "support/device_fault.hpp"

#include <stdexcept>

namespace troupe::testing {

void provoke_device_fault() {
  throw std::logic_error("a fault of a CUDA device was ordered in a build without CUDA");
}

}  // namespace troupe::testing
