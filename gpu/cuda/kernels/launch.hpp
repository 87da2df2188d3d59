#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace troupe::gpu::cuda {

/// Where kernels of one backend go.
struct launch_context {
  cudaStream_t stream = nullptr;
  bool programmatic = true;  // overlap neighbours; off where several ranks share one device
  int32_t num_sms = 132;
  int32_t exchange_ctas = 132;  // at most, of a kernel that waits for peers: all of them run at once
};

}  // namespace troupe::gpu::cuda
