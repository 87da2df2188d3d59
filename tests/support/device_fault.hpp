#pragma once

namespace troupe::testing {

/// Has a kernel touch an address that nobody has, on the calling thread's current CUDA device: this
/// process can use no device any more from then on. Throws std::logic_error in a build without CUDA.
void provoke_device_fault();

}  // namespace troupe::testing
