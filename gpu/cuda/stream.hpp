#pragma once

#include <cuda_runtime_api.h>

namespace troupe::gpu::cuda {

/// A stream that synchronises with no other, on the calling thread's current device.
class stream {
 public:
  /// `background`: of the lowest priority, else of the highest.
  explicit stream(bool background);
  ~stream();
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;

  cudaStream_t get() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

}  // namespace troupe::gpu::cuda
