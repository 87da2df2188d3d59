#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace troupe::gpu::cuda {

/// Where kernels of one backend go.
struct launch_context {
  cudaStream_t stream = nullptr;
  bool programmatic = true;  // overlap neighbours; off where several ranks share one device
  int32_t num_sms = 132;
};

}  // namespace troupe::gpu::cuda
